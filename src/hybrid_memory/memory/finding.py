"""Finding the memories a question is about: words and vectors of one user, filters before both."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Literal

from hybrid_memory.errors import InvalidInput, StorageUnavailable
from hybrid_memory.graph.cosines import Cosines
from hybrid_memory.graph.view import GraphView
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.large_users import LargeUsers
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.memory.vectors import Vectors
from hybrid_memory.models import MemoryNode, RecallHit
from hybrid_memory.recall.question import EVERYTHING, Filters, Question, Similarities, tags_of, types_of
from hybrid_memory.recall.selection import looked_at

MOST_HITS = 1000


class Finding:
    """What `recall` does. Belongs to the manager's loop."""

    def __init__(
        self, border: Border, sessions: Sessions, vectors: Vectors, large: LargeUsers | None, accesses: Accesses
    ) -> None:
        self._border = border
        self._sessions = sessions
        self._vectors = vectors
        self._large = large
        self._accesses = accesses

    async def recall(
        self,
        user_id: str,
        query: str | None,
        *,
        vector: Sequence[float] | None = None,
        limit: int = 10,
        context_types: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        thread_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        admits: Callable[[MemoryNode], bool] | None = None,
        explain: bool = False,
    ) -> list[RecallHit]:
        """The memories a question is about, the best first; what is given counts as accessed."""
        owner = self._border.user_id(user_id)
        text = "" if query is None else self._border.question(query)
        if not text.strip() and vector is None:
            raise InvalidInput("query must say something, or vector must be given")
        if not 1 <= limit <= MOST_HITS:
            raise InvalidInput(f"limit must be a whole number from 1 to {MOST_HITS}, not {limit!r}")
        conditions = (context_types, tags, thread_id, metadata, since, until, admits)
        filters = EVERYTHING
        if any(condition is not None for condition in conditions):
            filters = Filters(
                context_types=types_of(context_types),
                required_tags=tags_of(tags),
                thread_id=None if thread_id is None else self._border.thread_id(thread_id),
                metadata=self._border.mapping(metadata, "metadata"),
                since=None if since is None else self._border.moment(since, "since"),
                until=None if until is None else self._border.moment(until, "until"),
                admits=admits,
            )
        given = None if vector is None else self._border.vector(vector, "vector")
        asked = partial(Question, text=text, filters=filters, limit=limit, explain=explain)
        hits = await self._found_in_postgres(owner, asked, given)
        if hits is None:
            memory = await self._sessions.opened(owner)
            similarities = await self._compared(memory, text, given, limit=limit, filters=filters)
            hits = memory.ranked(asked(similarities=similarities))
        self._accesses.count(owner, [hit.node.node_id for hit in hits])
        return hits

    async def ranked(
        self,
        memory: UserMemory,
        query: str,
        admits: Callable[[MemoryNode], bool],
        most: int,
        *,
        mode: Literal["hybrid", "vector"] = "hybrid",
    ) -> list[tuple[MemoryNode, float]]:
        """Memories among those that a predicate admits, the best first, at most so many. Does not count as an access.

        In mode `vector` the score is the cosine alone, and what has no vector is not given.
        """
        if mode == "vector":
            alike = await self._vectors.cosines(memory, query, None)
            if alike is None:
                return []
            return _nearest(memory.snapshot(), alike, admits, most)
        filters = Filters(admits=admits)
        similarities = await self._compared(memory, query, None, limit=most, filters=filters)
        question = Question(text=query, similarities=similarities, filters=filters, limit=most, near_copies=True)
        return [(hit.node, hit.score) for hit in memory.ranked(question)]

    async def _found_in_postgres(
        self, owner: str, asked: Callable[[], Question], vector: Sequence[float] | None
    ) -> list[RecallHit] | None:
        """What is found for a user who is too large to be held; None for everybody else, and without Postgres.

        Raises:
            StorageUnavailable: Postgres answers, but not this question in time.
        """
        if self._large is None or not await self._large.surely_includes(owner):
            return None
        try:
            return await self._large.hits(owner, asked(), vector)
        except StorageUnavailable:
            # What took too long must not end in loading all of him; what is away is answered from what is here.
            if await self._large.surely_includes(owner):
                raise
        return None

    async def _compared(
        self, memory: UserMemory, text: str, vector: Sequence[float] | None, *, limit: int, filters: Filters
    ) -> Similarities | None:
        """The vectors a question is like, if there are any; exactly for all that may be among the hits."""
        alike = await self._vectors.cosines(memory, text, vector)
        if alike is None:
            return None
        alike.sharpen(looked_at(limit) if filters.admit_all else len(alike.scores))
        return Similarities(alike.node_ids, alike.scores)


def _nearest(
    there: GraphView, alike: Cosines, admits: Callable[[MemoryNode], bool], most: int
) -> list[tuple[MemoryNode, float]]:
    found: list[tuple[MemoryNode, float]] = []
    for node_id, cosine in alike.best_first(most):
        node = there.memory(node_id)
        if node is not None and admits(node):
            found.append((node, cosine))
            if len(found) == most:
                break
    return found
