"""Finding for users whose memory is too large to be held: Postgres names what may be meant, and that is ranked here.

The ranking is that of every other user, over some hundred candidates instead of everything.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hybrid_memory.background import Background
from hybrid_memory.embeddings.embedder import Vector
from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import Clock, UserGraph, utc_now
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.memory.vectors import Vectors
from hybrid_memory.models import RecallHit
from hybrid_memory.postgres.embeddings import Embeddings, Space
from hybrid_memory.postgres.large_owners import Asked, LargeOwners
from hybrid_memory.recall.question import Filters, Question, Similarities

LARGE_OWNERS = "large_owners"
# More than are asked for: what is nearest by one measure alone need not be what is meant.
_CANDIDATES_PER_HIT = 20
_FEWEST_CANDIDATES = 200
# Up to here comparing one by one takes milliseconds, and finds everything.
MOST_COMPARED = 20_000
_EVERY_SECONDS = 60.0
_JOB_SECONDS = 3600.0


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

    async def hits(self, user_id: str, question: Question, vector: Sequence[float] | None) -> list[RecallHit]:
        """What fits a question, the best first.

        Raises:
            StorageUnavailable: Postgres does not answer.
        """
        space, asked = await self._vector_of(user_id, question.text or "", vector)
        now = self._clock()
        found = await self._rows.candidates(
            user_id,
            Asked(
                text=question.text or "",
                language=self._language,
                space=space,
                vector=asked,
                filters=_as_json(question.filters, now.isoformat()),
                most=max(_FEWEST_CANDIDATES, _CANDIDATES_PER_HIT * question.limit),
            ),
        )
        graph = UserGraph(user_id, clock=self._clock)
        graph.apply(
            Delta(incarnation=None, version=0, nodes=found.nodes, relationships=found.relationships, complete=True)
        )
        if found.cosines:
            cosines = np.fromiter(found.cosines.values(), dtype=np.float32, count=len(found.cosines))
            question = replace(question, similarities=Similarities(tuple(found.cosines), cosines))
        return UserMemory(graph, None, self._language).ranked(question)

    async def _vector_of(
        self, user_id: str, text: str, vector: Sequence[float] | None
    ) -> tuple[Space | None, Vector | None]:
        if vector is not None:
            return Space(await self._vectors.model_of(vector, "vector"), len(vector)), np.asarray(vector, np.float32)
        question = await self._vectors.question(user_id, text)
        return (None, None) if question is None else (Space(self._vectors.model, question.size), question)

    async def _look_after(self) -> None:
        if not await self._rows.claim(0.9 * _EVERY_SECONDS):
            return
        async for user_id in self._rows.users(self._most_held + 1):
            await self._rows.index_words(user_id, self._language)
            for space, vectors in (await self._embeddings.spaces(user_id)).items():
                if vectors > self._most_compared:
                    await self._rows.index_vectors(user_id, space)


def _as_json(filters: Filters, at: str) -> str:
    """The filters as `memory.passes` takes them; they may let through what is sorted out here."""
    given = {
        "types": None if filters.context_types is None else sorted(filters.context_types),
        "tags": sorted(tag.lower() for tag in filters.required_tags) or None,
        "thread": filters.thread_id,
        "metadata": dict(filters.metadata) or None,
        "since": None if filters.since is None else filters.since.isoformat(),
        "until": None if filters.until is None else filters.until.isoformat(),
    }
    return json.dumps({"at": at} | {name: value for name, value in given.items() if value is not None})
