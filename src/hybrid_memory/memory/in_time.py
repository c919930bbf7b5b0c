"""Vectors that are there by the time a write leaves, and travel with it: all others follow, see `memory.embedding`.

Only an embedder that may answer at once is asked, and a write gives it one turn of the loop. One that waits after all,
or computes for long, is left alone for a while. All memories in a user's batch have their vectors in time, or none do.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hybrid_memory.embeddings.embedder import Vector
from hybrid_memory.embeddings.guarded import GuardedEmbedder
from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.memory.texts import Texts, hash_of
from hybrid_memory.models import MemoryNode
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Embedding, Operation, Ready
from hybrid_memory.postgres.echo import in_order
from hybrid_memory.postgres.embeddings import Space
from hybrid_memory.sqlite.cached_vectors import CachedVectors, UserText

# Of more texts not even a quick embedder makes vectors while somebody waits.
_MOST_TEXTS = 256
_LONGEST_SECONDS = 0.01
_PAUSE_SECONDS = 5.0
# What is made within a moment is cached together.
_GATHERING_SECONDS = 0.05

# By the memory, what is to be made a vector, by its field.
_Described = Mapping[str, Mapping[str, str]]


class VectorsInTime:
    """See `postgres.batches.InTime`. Belongs to the manager's loop.

    Args:
        embedder: makes the vectors. What it answers at once is not looked up anywhere: that would take longer.
        cache: where they are kept for when the database is away; None: nowhere.
        texts: of what of a memory vectors are made.
        events: where to report.
    """

    def __init__(self, embedder: GuardedEmbedder, cache: CachedVectors | None, texts: Texts, events: Events) -> None:
        self._embedder = embedder
        self._cache = cache
        self._texts = texts
        self._events = events
        self._rests_until = float("-inf")
        self._uncached: dict[str, dict[UserText, Vector]] = {}
        self._caching: asyncio.Task[None] | None = None

    async def ready(self, batches: Mapping[str, Sequence[Operation]]) -> Mapping[str, Ready]:
        """The vectors of those users' batches that have all of theirs by now; nobody waits for the others."""
        start = time.perf_counter()
        if not self._embedder.may_answer_at_once or self._embedder.resting or start < self._rests_until:
            return {}
        described = {
            user_id: found
            for user_id, operations in batches.items()
            if (found := self._described(user_id, operations)) is not None
        }
        wanted = {text for memories in described.values() for texts in memories.values() for text in texts.values()}
        vectors = await self._made_at_once(list(wanted))
        if vectors is None or self._embedder.dimensions is None:
            return {}
        space = Space(self._embedder.model, self._embedder.dimensions)
        self._cache_soon(space, described, vectors)
        hashes = {
            (user_id, operation.row["node_id"]): operation.row["content_hash"]
            for user_id in described
            for operation in batches[user_id]
            if operation.kind == "nodes"
        }
        return {
            user_id: Ready(
                space.mark,
                {
                    node_id: tuple(
                        Embedding(space.model, vectors[text], hashes[user_id, node_id], field)
                        for field, text in texts.items()
                        if text in vectors
                    )
                    for node_id, texts in memories.items()
                },
                start,
            )
            for user_id, memories in described.items()
        }

    def kept(self, user_id: str, ready: Ready) -> None:
        """They are in Postgres, with the batch."""
        if count := sum(map(len, ready.vectors.values())):
            duration = round((time.perf_counter() - ready.since) * 1000, 3)
            self._events.info(
                "memories_embedded",
                user_id=user_id,
                model=self._embedder.model,
                vectors=count,
                pending=0,
                duration_ms=duration,
            )

    async def close(self) -> None:
        """Cache what was made."""
        if self._caching is not None:
            await self._caching

    def _described(self, user_id: str, operations: Sequence[Operation]) -> _Described | None:
        """What memories of a batch that have no vector yet say; None when only Postgres can tell."""
        described = {}
        for operation in operations:
            if operation.kind == "entities":
                # What an entity says is what has been told of it so far.
                return None
            given = [len(one.values) for one in operation.embeddings if one.model == self._embedder.model]
            if any(size != self._embedder.dimensions for size in given):
                # A statement writes a vector once: what was given goes first, and what it lacks follows.
                return None
            if operation.kind == "nodes" and not given:
                described[operation.row["node_id"]] = self._texts(_memory(user_id, operation.row))
        return described

    async def _made_at_once(self, texts: list[str]) -> dict[str, Vector] | None:
        """The vectors of texts, if the embedder has them now; one without a direction is none."""
        if not texts:
            return {}
        if len(texts) > _MOST_TEXTS:
            return None
        asked = asyncio.create_task(self._asked(texts))
        await asyncio.sleep(0)
        if not asked.done():
            asked.cancel()
            self._rests_until = time.perf_counter() + _PAUSE_SECONDS
            return None
        # Somebody else may have cancelled what the embedder waited for.
        return None if asked.cancelled() else asked.result()

    async def _asked(self, texts: list[str]) -> dict[str, Vector] | None:
        start = time.thread_time()
        try:
            vectors = await self._embedder.documents(texts)
        except Exception:  # noqa: BLE001 - no embedder fails a write; what is wrong shows when vectors are made behind it
            return None
        if time.thread_time() - start > _LONGEST_SECONDS:
            self._rests_until = time.perf_counter() + _PAUSE_SECONDS
        return {text: vector for text, vector in zip(texts, vectors, strict=True) if vector.any()}

    def _cache_soon(self, space: Space, described: Mapping[str, _Described], vectors: Mapping[str, Vector]) -> None:
        if self._cache is None or not vectors:
            return
        uncached = self._uncached.setdefault(space.mark, {})
        for user_id, memories in described.items():
            for texts in memories.values():
                uncached |= {(user_id, hash_of(text)): vectors[text] for text in texts.values() if text in vectors}
        if self._caching is None:
            self._caching = asyncio.create_task(self._keep_cached(self._cache))

    async def _keep_cached(self, cache: CachedVectors) -> None:
        await asyncio.sleep(_GATHERING_SECONDS)
        try:
            while self._uncached:
                with suppress(HybridMemoryError):
                    await cache.keep(*self._uncached.popitem())
        finally:
            self._caching = None


def _memory(user_id: str, row: Mapping[str, Any]) -> MemoryNode:
    """As much of a memory that is to be written as its texts are made of."""
    namespace = row.get("namespace")
    return MemoryNode(
        user_id=user_id,
        node_id=row["node_id"],
        context_type=row["context_type"],
        content=in_order(row["content"]),
        content_kind=row["content_kind"],
        summary=row["summary"],
        metadata=row["metadata"],
        namespace=None if namespace is None else tuple(namespace),
        key=row.get("key"),
    )
