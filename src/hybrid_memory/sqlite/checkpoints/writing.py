"""Storing checkpoints and writes: the jobs for the writer of `state.db`."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import apsw

from hybrid_memory.sqlite.breathing import breathing
from hybrid_memory.sqlite.checkpoints.lists import Composed, Known, compose, remembered
from hybrid_memory.sqlite.checkpoints.packing import LIST, packed, unpacked
from hybrid_memory.sqlite.checkpoints.reading import Value, with_bases
from hybrid_memory.sqlite.checkpoints.remembering import Memory
from hybrid_memory.sqlite.checkpoints.rows import (
    Address,
    CheckpointRow,
    Encoded,
    Line,
    NewCheckpoint,
    NewValue,
    WriteRow,
)
from hybrid_memory.sqlite.connection import Statements

_DIGEST_BYTES = 16

# Elements are compared as they are, not as they are encrypted.
Unsealed = Callable[[Encoded], Encoded]


class MissingValues(Exception):
    """A checkpoint names versions of values that are not there, such as those of a thread deleted meanwhile."""

    def __init__(self, channels: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(channels)))
        self.channels = channels


def digest(plain: Encoded) -> bytes:
    """What equal elements have in common."""
    return blake2b(plain.content, digest_size=_DIGEST_BYTES, person=plain.kind.encode()[:16]).digest()


def put_rows(sql: Statements, rows: Iterable[CheckpointRow]) -> bool:
    """Store checkpoints that are one row each; False when a line is not what it was, then some are not stored."""
    try:
        _put(sql, rows)
    except apsw.ConstraintError:
        return False
    return True


@dataclass(slots=True)
class CheckpointPut:
    """Stores one checkpoint; `remember` is to be called once it is committed."""

    new: NewCheckpoint
    memory: Memory
    unsealed: Unsealed
    _line: Line | None = None
    _lists: dict[str, Known] = field(default_factory=dict)

    def job(self, sql: Statements) -> None:
        """In the writer.

        Raises:
            MissingValues: a value that is not new in it is not there.
        """
        address = self.new.address
        line = self.memory.line(address)
        if line is None or not put_rows(sql, [self.new.row.in_line(line)]):
            line = line_of(sql, address)
            _put(sql, [self.new.row.in_line(line)])
        self._require_the_others(sql, line)
        for value in self.new.values:
            self._store_value(sql, line, value)
        self._line = line

    def remember(self) -> None:
        """Keep in mind what was stored; only what is committed may be built on."""
        if self._line is not None:
            self.memory.keep_line(self.new.address, self._line, self.new.outside)
            for channel, known in self._lists.items():
                self.memory.keep_list(self._line, channel, known)

    def _require_the_others(self, sql: Statements, line: Line) -> None:
        brought = {value.channel for value in self.new.values}
        known = self.memory.versions_in(line, self.new.address)
        others = {
            name: version
            for name, version in self.new.outside.items()
            if name not in brought and known.get(name) != version
        }
        if others:
            there = sql.rows("checkpoint_values.place_of_versions", line=line.line, versions=json.dumps(others))
            missing = others.keys() - {name for (name,) in there}
            if missing:
                raise MissingValues(frozenset(missing))

    def _store_value(self, sql: Statements, line: Line, value: NewValue) -> None:
        row = sql.value("checkpoint_values.place_of_next")
        made: Composed | None = None
        if isinstance(value.content, Encoded):
            content = value.content
        else:
            previous = self.memory.list_of(line, value.channel) or self._read(sql, line.line, value.channel)
            made = compose(value.content.digests, row, previous)
            content = Encoded(LIST, packed(value.content.stored(index) for index in made.fresh))
        base, layout = made.layout.stored(row) if made else (None, None)
        added = sql.run(
            "checkpoint_values.add",
            value=row,
            line=line.line,
            channel=value.channel,
            version=value.version,
            kind=content.kind,
            content=content.content,
            base=base,
            layout=layout,
        )
        if made and added:  # a version that was there stays as it is
            self._lists[value.channel] = made.known

    def _read(self, sql: Statements, line: int, channel: str) -> Known | None:
        found = sql.row("checkpoint_values.newest_list", line=line, channel=channel)
        if found is None:
            return None
        newest = Value(*found)
        rows = with_bases(sql, [newest]).values()
        layouts = {row.value: row.layout_of_list for row in rows}
        digests = {
            row.value: [digest(self.unsealed(one)) for one in map(Encoded, *unpacked(row.content))] for row in rows
        }
        try:
            return remembered(newest.value, layouts, digests)
        except (KeyError, IndexError):  # a part of it was lost; the new list does without it
            return None


def put_writes(sql: Statements, writes: Sequence[WriteRow]) -> bool:
    """Store what tasks wrote; False when some is not: it is there already, or a line is not what it was."""
    added = [one for one in writes if one.idx >= 0]
    replacing = [one for one in writes if one.idx < 0]
    stored = sql.run_many("checkpoint_writes.add", WriteRow._fields, breathing(added))
    if replacing:
        stored += sql.run_many("checkpoint_writes.replace", WriteRow._fields, breathing(replacing))
    return stored == len(writes)


def line_of(sql: Statements, address: Address) -> Line:
    """The line of a namespace of a thread, made when there is none."""
    found = sql.row("checkpoint_lines.find", thread_id=address.thread_id, namespace=address.namespace)
    if found is None:
        found = (sql.value("checkpoint_lines.place_of_next"), 0)
        sql.run("checkpoint_lines.add", line=found[0], thread_id=address.thread_id, namespace=address.namespace)
    return Line(*found)


def _put(sql: Statements, rows: Iterable[CheckpointRow]) -> None:
    sql.run_many("checkpoints.put", CheckpointRow._fields, breathing(rows))
