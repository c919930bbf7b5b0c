"""Reading checkpoints: a fixed number of statements, however many checkpoints and values there are."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from hybrid_memory.errors import CheckpointIncomplete
from hybrid_memory.sqlite.checkpoints.lists import Layout, unfolded
from hybrid_memory.sqlite.checkpoints.packing import unpacked
from hybrid_memory.sqlite.checkpoints.rows import Address, Encoded, EncodedList, StoredCheckpoint, StoredWrite
from hybrid_memory.sqlite.connection import Row, Statements

_SMALL_BYTES = 50_000
# What takes about a millisecond to be read and made into values, and hardly a multiple of it.
_MEDIUM_BYTES = 110_000
# An element of a list takes as much longer as so many bytes of it.
_BYTES_LIKE_AN_ELEMENT = 32


class Value(NamedTuple):
    """A row of `checkpoint_values`."""

    value: int
    line: int
    channel: str
    version: str
    kind: str
    content: bytes
    base: int | None
    layout: str | None

    @property
    def layout_of_list(self) -> Layout:
        """How its list is put together; only for a list."""
        return Layout.of_row(self.value, self.base, self.layout or "")


class NotRead(Enum):
    """In place of a checkpoint that takes a while to read: about a millisecond, or longer."""

    MEDIUM = "medium"
    LARGE = "large"


def one(sql: Statements, address: Address, checkpoint_id: str | None) -> StoredCheckpoint | None:
    """A checkpoint by its id, or the newest."""
    found = _alone(sql, address, checkpoint_id)
    if found is not None:
        complete(sql, [found])
    return found


def one_if_small(sql: Statements, address: Address, checkpoint_id: str | None) -> StoredCheckpoint | NotRead | None:
    """The same, unless it takes a while."""
    found = _alone(sql, address, checkpoint_id)
    if found is None:
        return None
    if len(found.body.content) > _SMALL_BYTES:
        return NotRead.LARGE
    if wanted := _outside([found]):
        size = sql.value(
            "checkpoint_values.size_of_versions",
            wanted=json.dumps(wanted),
            line=found.line,
            checkpoint_id=found.checkpoint_id,
            element=_BYTES_LIKE_AN_ELEMENT,
            most=_MEDIUM_BYTES,
        )
        return NotRead.MEDIUM if size <= _MEDIUM_BYTES else NotRead.LARGE
    complete(sql, [found])
    return found


def with_bases(sql: Statements, heads: Iterable[Value]) -> dict[int, Value]:
    """Values with all rows that their lists are put together from."""
    rows = {head.value: head for head in heads}
    lists = [row.value for row in rows.values() if row.base is not None]
    if lists:
        rows |= {row[0]: Value(*row) for row in sql.rows("checkpoint_values.bases", values=json.dumps(lists))}
    named = {run.row for row in rows.values() if row.layout is not None for run in row.layout_of_list.runs}
    missing = sorted(named - rows.keys())
    if missing:
        rows |= {row[0]: Value(*row) for row in sql.rows("checkpoint_values.of_rows", values=json.dumps(missing))}
    return rows


def stored_checkpoint(row: Row) -> StoredCheckpoint:
    """A row with its line, thread and namespace, without values and writes."""
    line, thread_id, namespace, checkpoint_id, parent_id, metadata, held, kind, body, written_at = row
    return StoredCheckpoint(
        line,
        Address(thread_id, namespace),
        checkpoint_id,
        parent_id,
        metadata,
        json.loads(held),
        Encoded(kind, body),
        written_at,
    )


def _alone(sql: Statements, address: Address, checkpoint_id: str | None) -> StoredCheckpoint | None:
    line = sql.value("checkpoint_lines.find", thread_id=address.thread_id, namespace=address.namespace)
    if line is None:
        return None
    if checkpoint_id is None:
        row = sql.row("checkpoints.newest", line=line)
    else:
        row = sql.row("checkpoints.one", line=line, checkpoint_id=checkpoint_id)
    return None if row is None else stored_checkpoint((line, *address, *row))


def complete(sql: Statements, checkpoints: Sequence[StoredCheckpoint]) -> None:
    """Read the values and writes of checkpoints.

    Raises:
        CheckpointIncomplete: a value is missing.
    """
    read_values(sql, checkpoints)
    by_key = {(one.line, one.checkpoint_id): one for one in checkpoints}
    rows = sql.rows("checkpoint_writes.of_checkpoints", wanted=json.dumps(list(by_key)))
    for line, checkpoint_id, task_id, channel, kind, content in rows:
        by_key[line, checkpoint_id].writes.append(StoredWrite(task_id, channel, Encoded(kind, content)))


def read_values(
    sql: Statements, checkpoints: Sequence[StoredCheckpoint], channels: Collection[str] | None = None
) -> None:
    """Read the values that checkpoints have, of some channels or of all.

    Raises:
        CheckpointIncomplete: one is missing.
    """
    wanted = _outside(checkpoints, channels)
    if not wanted:
        return
    found = [Value(*row) for row in sql.rows("checkpoint_values.of_versions", wanted=json.dumps(wanted))]
    rows = with_bases(sql, found)
    values = _Values(rows)
    by_version = {(value.line, value.channel, value.version): value for value in found}
    for checkpoint in checkpoints:
        for channel, version in checkpoint.held.items():
            if version is None or (channels is not None and channel not in channels):
                continue
            value = by_version.get((checkpoint.line, channel, version))
            encoded = value and values.encoded(value)
            if encoded is None:
                raise CheckpointIncomplete(
                    f"checkpoint {checkpoint.checkpoint_id} of thread {checkpoint.address.thread_id!r} lost (a part "
                    f"of) channel {channel!r}"
                )
            checkpoint.values[channel] = encoded


def _outside(
    checkpoints: Iterable[StoredCheckpoint], channels: Collection[str] | None = None
) -> list[tuple[int, str, str]]:
    """The line, channel and version of each value that lies outside of these checkpoints."""
    return sorted(
        {
            (one.line, channel, version)
            for one in checkpoints
            for channel, version in one.held.items()
            if version and (channels is None or channel in channels)
        }
    )


class _Values:
    """Values out of rows; each row is taken apart once."""

    def __init__(self, rows: Mapping[int, Value]) -> None:
        lists = [row for row in rows.values() if row.layout is not None]
        self._layouts = {row.value: row.layout_of_list for row in lists}
        self._elements = {row.value: unpacked(row.content) for row in lists}

    def encoded(self, value: Value) -> Encoded | EncodedList | None:
        """A value, or None when a part of it is missing."""
        if value.layout is None:
            return Encoded(value.kind, value.content)
        found = EncodedList([], [])
        try:
            runs = unfolded(value.value, self._layouts)
            for run in runs:
                kinds, contents = self._elements[run.row]
                found.kinds.extend(kinds[run.first : run.first + run.length])
                found.contents.extend(contents[run.first : run.first + run.length])
        except KeyError:
            return None
        return found if len(found.contents) == sum(run.length for run in runs) else None
