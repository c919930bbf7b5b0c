"""Finding for users whose memory is too large to be held: Postgres names what may be meant, and that is ranked here.

The ranking is that of every other user, over some hundred candidates instead of everything.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from math import isnan
from typing import Literal

import numpy as np

from hybrid_memory.background import Background
from hybrid_memory.embeddings.embedder import Vector
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import Clock, UserGraph, utc_now
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.memory.vectors import Vectors
from hybrid_memory.models import MemoryNode, RecallHit
from hybrid_memory.postgres.embeddings import Embeddings, Space
from hybrid_memory.postgres.large_owners import Asked, LargeOwners
from hybrid_memory.recall.question import Filters, Question, Similarities

LARGE_OWNERS = "large_owners"
# More than are asked for: what is nearest by one measure alone need not be what is meant.
_CANDIDATES_PER_HIT = 20
_FEWEST_CANDIDATES = 200
# Conditions that Postgres does not know may sort out most of them; how many it is asked for then, and how often more.
_MOST_CANDIDATES = 5_000
_MORE = 8
# Up to here comparing one by one takes milliseconds, and finds everything.
MOST_COMPARED = 20_000
_EVERY_SECONDS = 60.0
_JOB_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Found:
    """The candidates of a user, with their cosines where vectors were compared, and whether there are no more."""

    memory: UserMemory
    similarities: Similarities | None
    all_there_are: bool


class LargeUsers:
    """Who is large, finding for them, and what Postgres needs for that. Belongs to the manager's loop.

    Args:
        rows: what Postgres does.
        embeddings: which vectors users have.
        sessions: whose memory is here.
        vectors: how a question becomes a vector.
        most_held: how many memories a user may have whose memory is loaded for a question.
        language: of the words.
        most_compared: how many vectors of a user are compared one by one at most.
        clock: the time, which says what has expired.
    """

    def __init__(
        self,
        rows: LargeOwners,
        embeddings: Embeddings,
        sessions: Sessions,
        vectors: Vectors,
        most_held: int,
        language: str = "english",
        most_compared: int = MOST_COMPARED,
        clock: Clock = utc_now,
    ) -> None:
        self._rows = rows
        self._embeddings = embeddings
        self._sessions = sessions
        self._vectors = vectors
        self._most_held = most_held
        self._language = language
        self._most_compared = most_compared
        self._clock = clock

    def schedule(self, background: Background) -> None:
        """Now and then take in what is new of large users."""
        background.repeat(LARGE_OWNERS, self._look_after, every=_EVERY_SECONDS, deadline=_JOB_SECONDS)

    async def includes(self, user_id: str) -> bool:
        """Whether a user's memory is neither here nor to be loaded for a question.

        Raises:
            StorageUnavailable: Postgres does not answer.
        """
        return not self._sessions.holds(user_id) and await self._rows.size(user_id) > self._most_held

    async def surely_includes(self, user_id: str) -> bool:
        """The same; False where Postgres does not say."""
        with suppress(StorageUnavailable):
            return await self.includes(user_id)
        return False

    async def hits(self, user_id: str, question: Question, vector: Sequence[float] | None) -> list[RecallHit]:
        """What fits a question, the best first.

        Raises:
            StorageUnavailable: Postgres does not answer.
        """
        space, asked = await self._vector_of(user_id, question.text or "", vector)
        found = await self._candidates(user_id, question, space, asked, _candidates_for(question.limit))
        return found.memory.ranked(replace(question, similarities=found.similarities))

    async def ranked(
        self,
        user_id: str,
        query: str,
        namespace: tuple[str, ...],
        admits: Callable[[MemoryNode], bool],
        most: int,
        *,
        mode: Literal["hybrid", "vector"],
    ) -> list[tuple[MemoryNode, float]]:
        """Items below a namespace that a predicate admits, the best first, at most so many; see `Finding.ranked`.

        Raises:
            StorageUnavailable: Postgres does not answer.
        """
        space, vector = await self._vector_of(user_id, query, None)
        question = Question(
            text=query, filters=Filters(namespace=namespace, admits=admits), limit=most, near_copies=True
        )
        if mode == "vector":
            if vector is None:
                return []
            question = replace(question, text=None)
        asked_for = _candidates_for(most)
        while True:
            found = await self._candidates(user_id, question, space, vector, asked_for)
            hits = (
                _by_cosine(found, question.filters, self._clock())
                if mode == "vector"
                else [
                    (hit.node, hit.score)
                    for hit in found.memory.ranked(replace(question, similarities=found.similarities))
                ]
            )
            if len(hits) >= most or found.all_there_are or asked_for >= _MOST_CANDIDATES:
                return hits[:most]
            asked_for = min(asked_for * _MORE, _MOST_CANDIDATES)

    async def _candidates(
        self, user_id: str, question: Question, space: Space | None, vector: Vector | None, most: int
    ) -> _Found:
        found = await self._rows.candidates(
            user_id,
            Asked(
                text=question.text or "",
                language=self._language,
                space=space,
                vector=vector,
                filters=_as_json(question.filters, self._clock().isoformat()),
                most=most,
            ),
        )
        graph = UserGraph(user_id, clock=self._clock)
        graph.apply(
            Delta(incarnation=None, version=0, nodes=found.nodes, relationships=found.relationships, complete=True)
        )
        similarities = None
        # A vector that is too short for its type has no direction.
        alike = {node_id: cosine for node_id, cosine in found.cosines.items() if not isnan(cosine)}
        if alike:
            cosines = np.fromiter(alike.values(), dtype=np.float32, count=len(alike))
            similarities = Similarities(tuple(alike), cosines)
        return _Found(UserMemory(graph, None, self._language), similarities, len(found.nodes) < most)

    async def _vector_of(
        self, user_id: str, text: str, vector: Sequence[float] | None
    ) -> tuple[Space | None, Vector | None]:
        if vector is None:
            model, question = self._vectors.model, await self._vectors.question(user_id, text)
        else:
            model, question = await self._vectors.model_of(vector, "vector"), np.asarray(vector, np.float32)
        return (None, None) if question is None or not question.any() else (Space(model, question.size), question)

    async def _look_after(self) -> None:
        if not await self._rows.claim(0.9 * _EVERY_SECONDS):
            return
        async for user_id in self._rows.users(self._most_held + 1):
            await self._rows.index_words(user_id, self._language)
            for space, vectors in (await self._embeddings.spaces(user_id)).items():
                if vectors > self._most_compared:
                    await self._rows.index_vectors(user_id, space)


def _candidates_for(hits: int) -> int:
    return max(_FEWEST_CANDIDATES, _CANDIDATES_PER_HIT * hits)


def _by_cosine(found: _Found, filters: Filters, now: datetime) -> list[tuple[MemoryNode, float]]:
    """What has a vector and passes, the nearest first, which is how Postgres gives them."""
    if found.similarities is None:
        return []
    pairs = zip(found.similarities.node_ids, found.similarities.cosines.tolist(), strict=True)
    nodes = ((found.memory.peek(node_id), cosine) for node_id, cosine in pairs)
    return [(node, cosine) for node, cosine in nodes if node is not None and filters.admit(node, now)]


def _as_json(filters: Filters, at: str) -> str:
    """The filters as `memory.passes` takes them; they may let through what is sorted out here."""
    given = {
        "types": None if filters.context_types is None else sorted(filters.context_types),
        "tags": sorted(tag.lower() for tag in filters.required_tags) or None,
        "thread": filters.thread_id,
        "metadata": dict(filters.metadata) or None,
        "since": None if filters.since is None else filters.since.isoformat(),
        "until": None if filters.until is None else filters.until.isoformat(),
        "namespace": None if filters.namespace is None else list(filters.namespace),
    }
    return json.dumps({"at": at} | {name: value for name, value in given.items() if value is not None})
