"""Moving checkpoints between two savers, in whichever direction: what is there already stays as it is.

A checkpoint is moved after the writes of its tasks. So one that is there is there with them, an interrupted run is
simply repeated, and a second run finds nothing to do.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

# Lines at once: a saver that commits in groups is the faster for it.
_WORKERS = 16

Progress = Callable[[int, int], None]


class Key(NamedTuple):
    """Which checkpoint."""

    thread_id: str
    namespace: str
    checkpoint_id: str

    def config(self, checkpoint_id: str | None) -> RunnableConfig:
        """As LangGraph names a checkpoint of this line."""
        where = {"thread_id": self.thread_id, "checkpoint_ns": self.namespace, "checkpoint_id": checkpoint_id}
        return {"configurable": {name: value for name, value in where.items() if value is not None}}


class Place(NamedTuple):
    """Where a write belongs among those of its checkpoint, in the order in which LangGraph applies them."""

    task_path: str
    task_id: str
    number: int
    channel: str


class Side(Protocol):
    """A saver, and what its contract does not tell."""

    @property
    def saver(self) -> BaseCheckpointSaver[str]:
        """The saver."""

    def keys(self) -> Sequence[Key]:
        """All checkpoints; those of a line, which is a namespace of a thread, together and oldest first."""

    def ids_of_line(self, key: Key) -> frozenset[str]:
        """The ids of the checkpoints in the line of this one."""

    def places(self, key: Key) -> Sequence[Place]:
        """The places of the writes of a checkpoint, in their order."""

    def read(self, key: Key) -> CheckpointTuple | None:
        """A checkpoint with its pending writes in that order."""


@dataclass
class Moved:
    """What there was to move, and what of it was new at the other side."""

    threads: int = 0
    checkpoints: int = 0
    new_checkpoints: int = 0
    new_writes: int = 0


def move(source: Side, target: Side, progress: Progress | None = None) -> Moved:
    """Bring everything of `source` to `target`; `progress` hears how many of how many checkpoints were looked at."""
    return _Move(source, target, progress).run(source.keys())


class _Move:
    def __init__(self, source: Side, target: Side, progress: Progress | None) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._moved = Moved()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, keys: Sequence[Key]) -> Moved:
        self._moved.threads = len({key.thread_id for key in keys})
        lines = [list(line) for _, line in groupby(keys, key=lambda key: key[:2])]
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="hybrid-memory transfer") as workers:
            try:
                for _ in workers.map(lambda line: self._move_line(line, len(keys)), lines):
                    pass
            finally:
                self._stopped = True
        return self._moved

    def _move_line(self, keys: Sequence[Key], total: int) -> None:
        try:
            there, known = self._target.ids_of_line(keys[0]), set[tuple[str, Any]]()
            for key in keys:
                if self._stopped:
                    return
                is_new = key.checkpoint_id not in there
                self._count(total, self._move_checkpoint(key, known, is_new=is_new), is_new=is_new)
        except BaseException:
            self._stopped = True
            raise

    def _count(self, total: int, new_writes: int, *, is_new: bool) -> None:
        with self._lock:
            self._moved.checkpoints += 1
            self._moved.new_checkpoints += is_new
            self._moved.new_writes += new_writes
            if self._progress is not None:
                self._progress(self._moved.checkpoints, total)

    def _move_checkpoint(self, key: Key, known: set[tuple[str, Any]], *, is_new: bool) -> int:
        """How many writes were new. `known` are the versions of values that the line has so far."""
        places, there = self._source.places(key), {place[1:3] for place in self._target.places(key)}
        missing = [place for place in places if place[1:3] not in there]
        if not is_new and not missing:
            return 0
        found = self._source.read(key)
        while found is not None and len(found.pending_writes or ()) != len(places):  # a graph is running
            found, places = self._source.read(key), self._source.places(key)
        if found is None:  # deleted meanwhile
            return 0
        self._put_writes(key, found, places, {place[:2] for place in missing})
        if is_new:
            new = {name: one for name, one in found.checkpoint["channel_versions"].items() if (name, one) not in known}
            parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
            self._target.saver.put(key.config(parent), found.checkpoint, found.metadata, new)
            known.update(new.items())
        return len(missing)

    def _put_writes(self, key: Key, found: CheckpointTuple, places: Sequence[Place], tasks: set[Any]) -> None:
        values = [value for _, _, value in found.pending_writes or ()]
        for task, members in groupby(zip(places, values, strict=True), key=lambda member: member[0][:2]):
            if task in tasks:
                path, task_id = task
                self._target.saver.put_writes(key.config(key.checkpoint_id), in_their_places(members), task_id, path)


def in_their_places(writes: Iterable[tuple[Place, Any]]) -> list[tuple[str, Any]]:
    """The writes of a task as it made them: a saver numbers the ordinary ones by where they stand in the list."""
    members = [(place.number, (place.channel, value)) for place, value in writes]
    ordinary = dict(member for member in members if member[0] >= 0)
    special = [write for index, write in members if index < 0]
    made: list[tuple[str, Any]] = []
    while ordinary:
        if len(made) not in ordinary and special:
            made.append(special.pop(0))
        else:
            made.append(ordinary.pop(min(ordinary)))
    return made + special
