"""Row checksums: how a damaged row is told from a good one.

Every table of ours ends with a column `checksum` over the table's name and all other columns in their order. Two SQL
functions, known on every connection, do the work inside the statements:

    insert ... values (:bucket, :key, :value, row_checksum('cached_values', :bucket, :key, :value))
    select ... where row_is_intact(checksum, 'cached_values', :bucket, :key, value)

A row that is not intact ends the statement with SQLite's own error for a corrupt file, so that both kinds of damage
are handled in one place.
"""

import struct
from hashlib import sha256
from typing import Any

import apsw

Value = str | bytes | int | float | None

_BYTES = 8
_LARGE = 50_000


def row_checksum(table: str, *values: Value) -> int:
    """64 bits over a row. A whole number counts the same as integer and as float, as SQLite stores them.

    Every value comes with its kind and length, so that no two rows run together into the same bytes.
    """
    parts: list[bytes] = []
    for value in (table, *values):
        if value is None:
            parts.append(b"n")
        elif isinstance(value, (str, bytes)):
            content = value if isinstance(value, bytes) else value.encode()
            parts += (b"b%d:" if content is value else b"t%d:") % len(content), content
        elif isinstance(value, float) and not value.is_integer():
            parts.append(b"f" + struct.pack(">d", value))
        else:
            parts.append(b"i%d;" % int(value))
    if sum(map(len, parts)) < _LARGE:
        digest = sha256(b"".join(parts))
    else:  # a copy of it all would cost as much as the hashing
        digest = sha256()
        for part in parts:
            digest.update(part)
    return int.from_bytes(digest.digest()[:_BYTES], "big", signed=True)


def row_is_intact(checksum: Value, table: str, *values: Value) -> bool:
    """True; a row that is not what it was ends the statement.

    Raises:
        apsw.CorruptError: the checksum is that of another row.
    """
    if checksum != row_checksum(table, *values):
        raise apsw.CorruptError(f"a row of {table} is not the one that was written")
    return True


def register(connection: apsw.Connection) -> None:
    """Make both functions known to a connection."""
    function: Any  # apsw's own type knows only functions whose arguments may all be anything
    for function in (row_checksum, row_is_intact):
        connection.create_scalar_function(function.__name__, function, deterministic=True)
