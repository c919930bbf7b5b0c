"""What goes into the checkpoint tables and what comes out of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from hybrid_memory.sqlite.checkpoints.json_text import json_writer

_written = json_writer()
_STATES_KNOWN = 256


class Address(NamedTuple):
    """A namespace of a thread; the graph itself has the empty one, its subgraphs have others."""

    thread_id: str
    namespace: str


class Encoded(NamedTuple):
    """A value as bytes, and the word for how to read them."""

    kind: str
    content: bytes


class EncodedList(NamedTuple):
    """The elements of a list, each with the word for how to read it: in two lists, without an object for each."""

    kinds: list[str]
    contents: list[bytes]


class NewList(Protocol):
    """A list by its elements."""

    @property
    def digests(self) -> Sequence[bytes]:
        """What equal elements have in common."""
        ...

    def stored(self, index: int) -> Encoded:
        """An element as it is stored; asked for when no earlier list has it."""
        ...


class NewValue(NamedTuple):
    """The value of a channel at a version; a list comes as its elements."""

    channel: str
    version: str
    content: Encoded | NewList


class Line(NamedTuple):
    """The row of a namespace of a thread. Values have gone when `collected` has changed."""

    line: int
    collected: int


# No row has this number.
UNKNOWN = Line(0, 0)


class CheckpointRow(NamedTuple):
    """A row of `checkpoints` in a line as it is remembered: the parameters of `checkpoints.put`, in their order."""

    line: int
    collected: int
    thread_id: str
    namespace: str
    checkpoint_id: str
    parent_id: str | None
    metadata: str
    held: str
    kind: str
    body: bytes
    written_at: int

    def in_line(self, line: Line) -> "CheckpointRow":
        """The same in another line."""
        return self._replace(line=line.line, collected=line.collected)


class NewCheckpoint(NamedTuple):
    """A checkpoint to be stored: its row, the versions of the values outside of it, and those of them that are new."""

    row: CheckpointRow
    outside: Mapping[str, str]
    values: Sequence[NewValue]

    @property
    def address(self) -> Address:
        """Where it belongs."""
        return Address(self.row.thread_id, self.row.namespace)


def held_json(channels: Iterable[str], outside: Mapping[str, str]) -> str:
    """What a checkpoint holds, as the table keeps it: the versions of values outside of its row, null for others."""
    return _written({**dict.fromkeys(channels), **outside}) if outside else _all_inside(tuple(channels))


@lru_cache(_STATES_KNOWN)
def _all_inside(channels: tuple[str, ...]) -> str:
    """That of a small state, which is the same in all its checkpoints."""
    return _written(dict.fromkeys(channels))


class WriteRow(NamedTuple):
    """A row of `checkpoint_writes` in a line as it is remembered: the parameters of its queries, in their order.

    One with an index below zero takes the place of an earlier one.
    """

    line: int
    checkpoint_id: str
    task_id: str
    idx: int
    task_path: str
    channel: str
    kind: str
    content: bytes
    thread_id: str
    namespace: str

    def in_line(self, line: Line) -> "WriteRow":
        """The same in another line."""
        return self._replace(line=line.line)


class StoredWrite(NamedTuple):
    """One write of a task."""

    task_id: str
    channel: str
    encoded: Encoded


@dataclass(slots=True)
class StoredCheckpoint:
    """A checkpoint with its values and the writes of its tasks, in the order in which they are applied."""

    line: int
    address: Address
    checkpoint_id: str
    parent_id: str | None
    metadata: str
    held: Mapping[str, str | None]
    body: Encoded
    written_at: int
    values: dict[str, Encoded | EncodedList] = field(default_factory=dict)
    writes: list[StoredWrite] = field(default_factory=list)
