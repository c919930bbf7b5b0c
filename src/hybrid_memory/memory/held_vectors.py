"""Users' vectors in this process: read when somebody first asks something of them, brought up to date when one asks."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hybrid_memory.graph.vectors import UserVectors
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.postgres.batches import Applied
from hybrid_memory.postgres.embeddings import KeptVectors, Made, NewVectors

# Tables are cleared of what is gone once so many more have a vector than there are memories.
_MOST_GONE = 1.1

Models = Callable[[str], Awaitable[Sequence[str]]]


class VectorSource(Protocol):
    """Where a user's vectors come from."""

    async def news(
        self, user_id: str, models: Sequence[str], incarnation: str | None, since: int, *, timeout: float | None = None
    ) -> NewVectors:
        """What changed since a version of an incarnation; everything of another one."""


@dataclass(slots=True)
class _Held:
    """One user's vectors, of which models they are, and whose turn it is to bring them up to date."""

    vectors: UserVectors = field(default_factory=UserVectors)
    models: Sequence[str] = ()
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class HeldVectors:
    """The vectors of the users that were asked for last. Belongs to the manager's loop.

    Args:
        source: where they come from.
        models: of which models a user's vectors are wanted.
        most_users: the least recently used ones make room beyond that many.
    """

    def __init__(self, source: VectorSource, models: Models, most_users: int) -> None:
        self._source = source
        self._models = models
        self._most_users = most_users
        self._users: OrderedDict[str, _Held] = OrderedDict()

    async def current(self, memory: UserMemory, *, timeout: float | None = None) -> UserVectors:
        """A user's vectors, no older than his memory.

        Raises:
            StorageUnavailable: they could not be brought up to date; `known` has what there is.
        """
        held = self._entered(memory.user_id)
        if self._is_behind(held, memory):
            async with held.turn:
                if self._is_behind(held, memory):
                    await self._refresh(held, memory, timeout)
        return held.vectors

    def known(self, user_id: str) -> UserVectors:
        """What there is of a user's vectors, however old."""
        return self._entered(user_id).vectors

    def models(self, user_id: str) -> Sequence[str]:
        """Of which models a user's vectors are held."""
        return self._entered(user_id).models

    def wrote(self, applied: Applied) -> None:
        """Take in what this process has written, where that tells all that is new of the user's vectors."""
        held = self._users.get(applied.user_id)
        if held is None or applied.written is None or applied.vectors is None:
            return
        vectors = held.vectors
        if (vectors.incarnation, vectors.version) != (applied.incarnation, applied.version - 1):
            return
        there = {node.node_id for node in applied.written.nodes}
        # A memory that has changed may have lost its vector, or not: Postgres is asked for those.
        if any(vectors.has(node_id) for node_id in there):
            return
        for node_id in applied.written.deleted:
            vectors.drop(node_id)
        for node_id, given in applied.vectors:
            if node_id in there and given.model in held.models:
                vectors.put(node_id, given.field, given.model, np.asarray(given.values, dtype=np.float32))
        vectors.version = applied.version

    def kept(self, user_id: str, model: str, kept: KeptVectors, made: Sequence[Made]) -> None:
        """Take in vectors that this process has made."""
        held = self._users.get(user_id)
        if held is None or (held.vectors.incarnation, held.vectors.version) != (kept.incarnation, kept.before):
            return
        for one in made:
            if one.node.node_id in kept.node_ids:
                held.vectors.put(one.node.node_id, one.field, model, one.values)
        held.vectors.version = kept.version

    def _entered(self, user_id: str) -> _Held:
        held = self._users.get(user_id)
        if held is None:
            held = self._users[user_id] = _Held()
        self._users.move_to_end(user_id)
        while len(self._users) > self._most_users:
            self._users.popitem(last=False)
        return held

    def _is_behind(self, held: _Held, memory: UserMemory) -> bool:
        vectors = held.vectors
        return vectors.incarnation != memory.incarnation or vectors.version < memory.version

    async def _refresh(self, held: _Held, memory: UserMemory, timeout: float | None) -> None:
        vectors = held.vectors
        if vectors.incarnation is None:
            held.models = await self._models(memory.user_id)
        news = await self._source.news(
            memory.user_id, held.models, vectors.incarnation, vectors.version, timeout=timeout
        )
        if news.complete:
            # Beside the one in use, and in a thread: taking in many takes its time.
            vectors = held.vectors = await asyncio.to_thread(_taken_in, UserVectors(), news)
        else:
            _taken_in(vectors, news)
        there = memory.snapshot().nodes_by_id
        if any(size > _MOST_GONE * len(there) for model in held.models for size in vectors.sizes(model).values()):
            vectors.keep_only(there)


def _taken_in(vectors: UserVectors, news: NewVectors) -> UserVectors:
    for node_id in news.outdated:
        vectors.drop(node_id)
    for row in news.rows:
        vectors.put(row.node_id, row.field, row.model, row.values)
    vectors.incarnation, vectors.version = news.incarnation, news.version
    return vectors
