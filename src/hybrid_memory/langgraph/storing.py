"""A checkpoint, or the writes of a task, on the way into the file."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_serializable_checkpoint_metadata,
)

from hybrid_memory.errors import InvalidInput
from hybrid_memory.langgraph.addresses import address_of, checkpoint_id_of
from hybrid_memory.langgraph.bodies import shortened
from hybrid_memory.langgraph.elements import KnownElements
from hybrid_memory.langgraph.serialisation import Serialisation
from hybrid_memory.sqlite.breathing import breathing
from hybrid_memory.sqlite.checkpoints.json_text import json_writer
from hybrid_memory.sqlite.checkpoints.remembering import Memory
from hybrid_memory.sqlite.checkpoints.rows import (
    UNKNOWN,
    Address,
    CheckpointRow,
    Encoded,
    NewCheckpoint,
    NewList,
    NewValue,
    WriteRow,
    held_json,
)
from hybrid_memory.sqlite.checkpoints.writing import CheckpointPut, MissingValues, line_of, put_rows, put_writes
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.groups import Joint

# Up to here, in bytes as far as that is known before, a value is cheaper inside each checkpoint than in its own row.
_SMALL = 256
# Up to here a list is stored whole, which takes less than to recognise its elements.
_WHOLE = 1024
# Above this many parts, of some microseconds each, values become bytes in the writer's thread.
_HEAVY = 500
_TEXT_LIKE_ONE_PART = 10_000
_OBJECT_LIKE_PARTS = 10
_canonical = json_writer(sort_keys=True)
_NUMBERS = (int, float, bool, type(None))
_NUMBER_BYTES = 8


@dataclass(slots=True)
class StoredPut(Joint[None]):
    """Stores a checkpoint: `prepare` makes its bytes, as a job it stores them, `done` is called once that is committed.

    `prepare` need not be called: then the bytes are made where the job runs.
    """

    serialisation: Serialisation
    memory: Memory
    elements: KnownElements
    config: RunnableConfig
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    new_versions: ChannelVersions
    address: Address = field(init=False)
    _inside: dict[str, Any] = field(init=False)
    _outside: dict[str, str] = field(init=False)
    _brought: list[str] = field(init=False)
    _new: NewCheckpoint | None = None
    _put: CheckpointPut | None = None

    def __post_init__(self) -> None:
        self.address = address_of(self.config)
        self._inside, self._outside, self._brought = {}, {}, []
        versions = self.checkpoint["channel_versions"]
        for name, value in self.checkpoint["channel_values"].items():
            if name not in versions or _size(value, _SMALL) <= _SMALL:
                self._inside[name] = value
            else:
                self._outside[name] = str(versions[name])
                if name in self.new_versions:
                    self._brought.append(name)

    @property
    def is_heavy(self) -> bool:
        """Whether making the bytes takes long enough to be felt in an event loop."""
        values = self.checkpoint["channel_values"]
        return len(self._inside) + _parts(map(values.__getitem__, self._brought)) > _HEAVY

    @property
    def row(self) -> CheckpointRow | None:
        """Its row, if that is prepared, in a known line and all there is."""
        new = self._new
        return None if new is None or new.outside or new.row.line == UNKNOWN.line else new.row

    def prepare(self) -> NewCheckpoint:
        """Make the bytes, once.

        Raises:
            InvalidInput: something in it cannot be stored; the text names it.
        """
        if self._new is None:
            line = self.memory.line(self.address) or UNKNOWN
            body = self.serialisation.stored(shortened(self.checkpoint, self._inside), "checkpoint")
            row = CheckpointRow(
                line.line,
                line.collected,
                *self.address,
                self.checkpoint["id"],
                checkpoint_id_of(self.config),
                _json(get_serializable_checkpoint_metadata(self.config, self.metadata), "metadata"),
                held_json(self.checkpoint["channel_values"], self._outside),
                body.kind,
                body.content,
                time.time_ns() // 1000,
            )
            self._new = NewCheckpoint(row, self._outside, self._values(self._brought))
        return self._new

    def __call__(self, sql: Statements) -> None:
        """In the writer."""
        new = self.prepare()
        try:
            self._store(sql, new)
        except MissingValues as missing:
            self._store(sql, new._replace(values=[*new.values, *self._values(missing.channels)]))

    @classmethod
    def together(cls, jobs: Sequence[Self], sql: Statements) -> Sequence[None]:
        """In the writer: rows all at once."""
        rows = [job.row for job in jobs]
        stored = put_rows(sql, filter(None, rows))
        for job in breathing([job for job, row in zip(jobs, rows, strict=True) if row is None] if stored else jobs):
            job(sql)
        return [None] * len(jobs)

    def done(self) -> None:
        """Build on what was stored from now on."""
        if self._put is not None:
            self._put.remember()

    def _store(self, sql: Statements, new: NewCheckpoint) -> None:
        self._put = CheckpointPut(new, self.memory, self.serialisation.opened)
        self._put.job(sql)

    def _values(self, channels: Iterable[str]) -> list[NewValue]:
        values, versions = self.checkpoint["channel_values"], self._outside
        return [NewValue(name, versions[name], self._content(name, values[name])) for name in channels]

    def _content(self, channel: str, value: Any) -> Encoded | NewList:
        is_list = type(value) is list
        if not is_list or _size(tuple(value), _WHOLE) <= _WHOLE or all(type(one) in _NUMBERS for one in value):
            return self.serialisation.stored(value, f"channel {channel!r}")
        return self.elements.digested(self.address, channel, value, self.serialisation)


@dataclass(slots=True)
class StoredWrites(Joint[None]):
    """Stores what a task wrote, in the same two steps."""

    serialisation: Serialisation
    memory: Memory
    config: RunnableConfig
    writes: Sequence[tuple[str, Any]]
    task_id: str
    task_path: str
    _rows: Sequence[WriteRow] | None = None

    @property
    def is_heavy(self) -> bool:
        """Whether making the bytes takes long enough to be felt in an event loop."""
        return _parts([value for _, value in self.writes]) > _HEAVY

    def prepare(self) -> Sequence[WriteRow]:
        """Make the bytes, once.

        Raises:
            InvalidInput: something in it cannot be stored; the text names it.
        """
        if self._rows is None:
            address, checkpoint_id = address_of(self.config), checkpoint_id_of(self.config)
            if checkpoint_id is None:
                raise InvalidInput("configurable.checkpoint_id: missing; it says whose writes these are")
            line = self.memory.line(address) or UNKNOWN
            self._rows = [
                WriteRow(
                    line.line,
                    checkpoint_id,
                    self.task_id,
                    WRITES_IDX_MAP.get(channel, index),
                    self.task_path,
                    channel,
                    *self.serialisation.stored(value, f"write to channel {channel!r}"),
                    *address,
                )
                for index, (channel, value) in enumerate(self.writes)
            ]
        return self._rows

    def __call__(self, sql: Statements) -> None:
        """In the writer."""
        self.together([self], sql)

    @classmethod
    def together(cls, jobs: Sequence[Self], sql: Statements) -> Sequence[None]:
        """In the writer: rows all at once, in the order of the jobs, because some take the place of earlier ones."""
        if not put_writes(sql, [row for job in breathing(jobs) for row in job.rows_as_remembered(sql)]):
            put_writes(sql, [row for job in breathing(jobs) for row in job.rows_in_the_file(sql)])
        return [None] * len(jobs)

    def rows_as_remembered(self, sql: Statements) -> Sequence[WriteRow]:
        """Its rows in the line that is remembered, if one is."""
        rows = self.prepare()
        return self.rows_in_the_file(sql) if any(row.line == UNKNOWN.line for row in rows) else rows

    def rows_in_the_file(self, sql: Statements) -> Sequence[WriteRow]:
        """Its rows in the line that its thread has now; it gets one only if there are rows."""
        rows = self.prepare()
        line = line_of(sql, address_of(self.config)) if rows else UNKNOWN
        return [row.in_line(line) for row in rows]


def filter_json(wanted: dict[str, Any] | None) -> str:
    """What the metadata of listed checkpoints must contain, comparable with what is stored."""
    return _json(wanted or {}, "filter")


def _parts(values: Iterable[object]) -> int:
    """How many parts plain data has, or anything above `_HEAVY`: counting ends there. A long text counts for many."""
    more, parts = 0, list(values)
    for part in parts:  # which grow meanwhile
        if type(part) in _NUMBERS:
            continue
        if isinstance(part, (str, bytes, bytearray)):
            more += len(part) // _TEXT_LIKE_ONE_PART
        elif isinstance(part, dict):
            parts += islice(part.values(), _HEAVY)
        elif isinstance(part, (list, tuple, set, frozenset)):
            parts += islice(part, _HEAVY)
        else:
            more += _OBJECT_LIKE_PARTS
        if len(parts) + more > _HEAVY:
            break
    return len(parts) + more


def _size(value: Any, limit: int) -> int:
    """About how many bytes plain data takes, or anything above `limit`: counting ends there."""
    more, parts = 0, [value]
    for part in parts:  # which grow meanwhile
        kind = type(part)
        if kind is str:
            more += len(part)
        elif kind in _NUMBERS:
            more += _NUMBER_BYTES
        elif kind in (dict, tuple) and len(part) <= limit:
            parts += part
            if kind is dict:
                parts += part.values()
        else:
            return limit + 1
        if len(parts) + more > limit:
            break
    return len(parts) + more


def _json(value: object, field: str) -> str:
    """JSON in one form, so that equal values are equal texts."""
    try:
        return _canonical(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{field}: {error}") from error
