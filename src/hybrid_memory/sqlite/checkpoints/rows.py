"""What goes into the checkpoint tables and what comes out of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

_COMPACT = json.JSONEncoder(separators=(",", ":"))
_STATES_KNOWN = 256


class Address(NamedTuple):
    """A namespace of a thread; the graph itself has the empty one, its subgraphs have others."""

    thread_id: str
    namespace: str


class Encoded(NamedTuple):
    """A value as bytes, and the word for how to read them."""

    kind: str
    content: bytes


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


class NewCheckpoint(NamedTuple):
    """A checkpoint to be stored with the values that are new in it.

    `held` has every channel with a value: the version it is kept under, or None when it is inside `body`.
    """

    address: Address
    checkpoint_id: str
    parent_id: str | None
    metadata: str
    held: Mapping[str, str | None]
    body: Encoded
    written_at: int
    values: Sequence[NewValue]

    @property
    def held_json(self) -> str:
        """`held` as the table keeps it."""
        return _COMPACT.encode(self.held) if any(self.held.values()) else _all_inside(tuple(self.held))


@lru_cache(_STATES_KNOWN)
def _all_inside(channels: tuple[str, ...]) -> str:
    """That of a small state, which is the same in all its checkpoints."""
    return _COMPACT.encode(dict.fromkeys(channels))


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a checkpoint."""

    address: Address
    checkpoint_id: str
    task_id: str
    path: str


@dataclass(frozen=True, slots=True)
class NewWrite:
    """One write of a task. `replaces` says whether it takes the place of an earlier one with its index."""

    index: int
    channel: str
    encoded: Encoded
    replaces: bool


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
    values: dict[str, Encoded | list[Encoded]] = field(default_factory=dict)
    writes: list[StoredWrite] = field(default_factory=list)
