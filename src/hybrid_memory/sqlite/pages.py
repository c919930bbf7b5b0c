"""Rows straight from the bytes of a database file, without SQLite: the way into a file SQLite does not read any more.

Only the leaves of tables are looked at, one page at a time, so a lost root or inner page costs nothing but itself. The
format is https://sqlite.org/fileformat2.html; the file is not in use by anybody. What is found may be damaged: callers
compare checksums.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from hybrid_memory.sqlite.checksum import Value
from hybrid_memory.sqlite.files import STATE

Found = tuple[int, tuple[Value, ...]]

PAGE_BYTES = STATE.page_bytes
_TABLE_LEAF = 0x0D
_FILE_HEADER_BYTES = 100
_PAGE_HEADER_BYTES = 8
_WAL_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_OVERFLOW_BYTES = PAGE_BYTES - 4
_MOST_LOCAL_BYTES = PAGE_BYTES - 35
_LEAST_LOCAL_BYTES = (PAGE_BYTES - 12) * 32 // 255 - 23
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_REAL, _ZERO, _ONE, _FIRST_BLOB = 7, 8, 9, 12
_WORD = 0xFFFFFFFF


class Pages:
    """The pages of a database file with those of its WAL over them."""

    def __init__(self, database: Path) -> None:
        self._file = database.open("rb")
        self._wal, size = _committed(database.with_name(database.name + "-wal"))
        in_file = -(-database.stat().st_size // PAGE_BYTES)
        # What lies behind the end was given back: rows that were deleted or moved.
        self.count = max([in_file, *self._wal]) if size is None else size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def page(self, number: int) -> bytes:
        """One page; what is missing from it, or all of it, reads as zeros."""
        if number in self._wal:
            return self._wal[number]
        self._file.seek((number - 1) * PAGE_BYTES)
        return self._file.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")

    def rows(self) -> Iterator[Found]:
        """The rowid and the values of everything in any table that still looks like a row."""
        for number in range(1, self.count + 1):
            page = self.page(number)
            start = _FILE_HEADER_BYTES if number == 1 else 0
            if page[start] != _TABLE_LEAF:
                continue
            (cells,) = struct.unpack_from(">H", page, start + 3)
            first = start + _PAGE_HEADER_BYTES
            most = (PAGE_BYTES - first) // 2
            for (place,) in struct.iter_unpack(">H", page[first : first + 2 * min(cells, most)]):
                try:
                    yield self._row(page, place)
                except (ValueError, IndexError, struct.error):  # not a row any more
                    continue

    def _row(self, page: bytes, place: int) -> Found:
        size, place = _varint(page, place)
        rowid, place = _varint(page, place)
        return _signed(rowid), _record(self._payload(page, place, size))

    def _payload(self, page: bytes, place: int, size: int) -> bytes:
        if size <= _MOST_LOCAL_BYTES:
            return page[place : place + size]
        if size > self.count * PAGE_BYTES:
            raise ValueError("longer than the file")
        local = _LEAST_LOCAL_BYTES + (size - _LEAST_LOCAL_BYTES) % _OVERFLOW_BYTES
        if local > _MOST_LOCAL_BYTES:
            local = _LEAST_LOCAL_BYTES
        parts = [page[place : place + local]]
        (following,) = struct.unpack_from(">I", page, place + local)
        for _ in range(-(-(size - local) // _OVERFLOW_BYTES)):
            if not 0 < following <= self.count:
                raise ValueError("the chain is broken")
            overflow = self.page(following)
            (following,) = struct.unpack_from(">I", overflow)
            parts.append(overflow[4:])
        return b"".join(parts)[:size]


def _record(payload: bytes) -> tuple[Value, ...]:
    header_bytes, place = _varint(payload, 0)
    body = header_bytes
    values: list[Value] = []
    while place < header_bytes:
        kind, place = _varint(payload, place)
        value, body = _value(payload, body, kind)
        values.append(value)
    if body != len(payload):
        raise ValueError("the record has another length")
    return tuple(values)


def _value(payload: bytes, place: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, place
    if kind in (_ZERO, _ONE):
        return kind - _ZERO, place
    if kind == _REAL:
        return struct.unpack_from(">d", payload, place)[0], place + 8
    if kind in _INTEGER_BYTES:
        end = place + _INTEGER_BYTES[kind]
        return int.from_bytes(payload[place:end], "big", signed=True), end
    if kind < _FIRST_BLOB:
        raise ValueError("reserved")
    end = place + (kind - _FIRST_BLOB) // 2
    content = payload[place:end]
    return (content.decode() if kind % 2 else content), end


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[place]
        place += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the highest bit says that another byte follows
            return value, place
    return value << 8 | data[place], place + 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _committed(wal: Path) -> tuple[dict[int, bytes], int | None]:
    """The newest committed copy of every page in a WAL, up to where its chain of checksums ends.

    And how many pages the database has then, where the WAL tells: one that breaks off may have told more.
    """
    content = wal.read_bytes() if wal.exists() else b""
    header = content[:_WAL_HEADER_BYTES]
    if len(header) < _WAL_HEADER_BYTES:
        return {}, None
    order = _WAL_MAGIC.get(int.from_bytes(header[:4], "big"))
    if order is None or int.from_bytes(header[8:12], "big") != PAGE_BYTES:
        return {}, None
    salts, sums = header[16:24], _chain(header[:24], (0, 0), order)
    if sums != struct.unpack(">II", header[24:32]):
        return {}, None
    committed: dict[int, bytes] = {}
    uncommitted: dict[int, bytes] = {}
    size: int | None = None
    step = _FRAME_HEADER_BYTES + PAGE_BYTES
    for start in range(_WAL_HEADER_BYTES, len(content) - step + 1, step):
        frame = content[start : start + step]
        sums = _chain(frame[:8] + frame[_FRAME_HEADER_BYTES:], sums, order)
        if frame[8:16] != salts:
            # Frames of an earlier round; or damage, when some of this one follow.
            behind = range(start + step, len(content) - step + 1, step)
            return committed, None if any(content[at + 8 : at + 16] == salts for at in behind) else size
        if sums != struct.unpack(">II", frame[16:24]):
            return committed, None
        number, pages = struct.unpack(">II", frame[:8])
        uncommitted[number] = frame[_FRAME_HEADER_BYTES:]
        if pages:  # a commit
            committed |= uncommitted
            if size is not None and pages < size:
                committed = {one: page for one, page in committed.items() if one <= pages}
            uncommitted, size = {}, pages
    return committed, size


def _chain(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's running checksum of the WAL."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & _WORD
        two = (two + second + one) & _WORD
    return one, two
