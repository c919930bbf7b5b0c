"""Storing checkpoints and writes: the jobs for the writer of `state.db`."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from hybrid_memory.sqlite.checkpoints.lists import Composed, Known, compose, remembered
from hybrid_memory.sqlite.checkpoints.packing import LIST, packed, unpacked
from hybrid_memory.sqlite.checkpoints.reading import Value, with_bases
from hybrid_memory.sqlite.checkpoints.remembering import KnownLists, ListKey
from hybrid_memory.sqlite.checkpoints.rows import Address, Encoded, NewCheckpoint, NewValue, NewWrite, Task
from hybrid_memory.sqlite.connection import Statements

_DIGEST_BYTES = 16

# Elements are compared as they are, not as they are encrypted.
Unsealed = Callable[[Encoded], Encoded]


class Line(NamedTuple):
    """The row of a namespace of a thread."""

    line: int
    collected: int


class MissingValues(Exception):
    """A checkpoint names versions of values that are not there, such as those of a thread deleted meanwhile."""

    def __init__(self, channels: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(channels)))
        self.channels = channels


def digest(plain: Encoded) -> bytes:
    """What equal elements have in common."""
    return blake2b(plain.content, digest_size=_DIGEST_BYTES, person=plain.kind.encode()[:16]).digest()


@dataclass(frozen=True, slots=True)
class CheckpointPut:
    """Stores one checkpoint; `remember` is to be called once it is committed."""

    new: NewCheckpoint
    lists: KnownLists
    unsealed: Unsealed
    _learned: dict[ListKey, Known] = field(default_factory=dict)

    def job(self, sql: Statements) -> None:
        """In the writer.

        Raises:
            MissingValues: a value that is not new in it is not there.
        """
        new, line = self.new, line_of(sql, self.new.address)
        self._require_the_others(sql, line.line)
        for value in new.values:
            self._store(sql, line, value)
        sql.run(
            "checkpoints.put",
            line=line.line,
            checkpoint_id=new.checkpoint_id,
            parent_id=new.parent_id,
            metadata=new.metadata,
            held=json.dumps(new.held, separators=(",", ":")),
            kind=new.body.kind,
            body=new.body.content,
            written_at=new.written_at,
        )

    def remember(self) -> None:
        """Keep in mind what lists were stored; only what is committed may be built on."""
        for key, known in self._learned.items():
            self.lists.keep(key, known)

    def _require_the_others(self, sql: Statements, line: int) -> None:
        brought = {value.channel for value in self.new.values}
        others = {name: version for name, version in self.new.held.items() if version and name not in brought}
        if others:
            there = sql.rows("checkpoint_values.place_of_versions", line=line, versions=json.dumps(others))
            missing = others.keys() - {name for (name,) in there}
            if missing:
                raise MissingValues(frozenset(missing))

    def _store(self, sql: Statements, line: Line, value: NewValue) -> None:
        row = sql.value("checkpoint_values.place_of_next")
        key = ListKey(*line, value.channel)
        made: Composed | None = None
        if isinstance(value.content, Encoded):
            content = value.content
        else:
            previous = self.lists.get(key) or self._read(sql, line.line, value.channel)
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
            self._learned[key] = made.known

    def _read(self, sql: Statements, line: int, channel: str) -> Known | None:
        found = sql.row("checkpoint_values.newest_list", line=line, channel=channel)
        if found is None:
            return None
        newest = Value(*found)
        rows = with_bases(sql, [newest])
        layouts = {row.value: row.layout_of_list for row in rows.values() if row.layout is not None}
        digests = {row.value: self._digests(row) for row in rows.values() if row.layout is not None}
        return remembered(newest.value, layouts, digests)

    def _digests(self, row: Value) -> list[bytes]:
        return [digest(self.unsealed(stored)) for stored in unpacked(row.content)]


def put_writes(sql: Statements, task: Task, writes: Iterable[NewWrite]) -> None:
    """Store what a task wrote."""
    line = line_of(sql, task.address).line
    for write in writes:
        sql.run(
            "checkpoint_writes.replace" if write.replaces else "checkpoint_writes.add",
            line=line,
            checkpoint_id=task.checkpoint_id,
            task_id=task.task_id,
            idx=write.index,
            task_path=task.path,
            channel=write.channel,
            kind=write.encoded.kind,
            content=write.encoded.content,
        )


def line_of(sql: Statements, address: Address) -> Line:
    """The line of a namespace of a thread, made when there is none."""
    found = sql.row("checkpoint_lines.find", thread_id=address.thread_id, namespace=address.namespace)
    if found is None:
        found = (sql.value("checkpoint_lines.place_of_next"), 0)
        sql.run("checkpoint_lines.add", line=found[0], thread_id=address.thread_id, namespace=address.namespace)
    return Line(*found)
