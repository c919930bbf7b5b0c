"""Making vectors of memories, off the write path: of what this process writes at once, of everything else in time.

What is missing is asked of the database each time, so nothing has to be remembered: an outage of the embedder, a killed
process, a new model and memories from before there was an embedder are all the same to it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Protocol
from weakref import WeakValueDictionary

from hybrid_memory.background import Background
from hybrid_memory.embeddings.embedder import Vector
from hybrid_memory.embeddings.guarded import GuardedEmbedder
from hybrid_memory.errors import EmbeddingError, HybridMemoryError, StorageUnavailable
from hybrid_memory.graph.user_graph import Clock, utc_now
from hybrid_memory.memory.texts import hash_of
from hybrid_memory.models import MemoryNode
from hybrid_memory.observability import Events
from hybrid_memory.postgres.embeddings import KeptVectors, Lacking, Made, Space
from hybrid_memory.sqlite.cached_vectors import CachedVectors

EMBEDDINGS, BACKFILL = "embeddings", "embedding_backfill"
_PAGE = 256
_USERS_AT_ONCE = 4
_EVERY_SECONDS = 5.0
_BACKFILL_SECONDS = 60.0
_JOB_SECONDS = 3600.0
# What any text does: only the length of the answer matters.
_PROBE = "length"

Texts = Callable[[MemoryNode], Mapping[str, str]]
Undelivered = Callable[[str], Awaitable[bool]]
Shown = Callable[[str, Space, KeptVectors, Sequence[Made]], Awaitable[None]]


class VectorRows(Protocol):
    """Where vectors are kept, and what knows which memories have none."""

    async def keep(
        self, user_id: str, space: Space, made: Sequence[Made], *, done: int | None = None
    ) -> KeptVectors | None:
        """Keep vectors of memories that have not changed since; `done`: after it, that version lacks none."""

    async def mark(self, user_id: str, space: Space, incarnation: str, version: int) -> None:
        """Note that the memories of a version lack none that can be made."""

    async def lacking(
        self, user_id: str, space: Space, at: datetime, after: MemoryNode | None, most: int
    ) -> Lacking | None:
        """Memories without a vector, page by page; None when it is known that there are none."""

    async def lacking_count(self, user_id: str, space: Space, at: datetime) -> int:
        """How many there are."""

    async def spaces(self, user_id: str) -> Mapping[Space, int]:
        """Which vectors a user has, and how many of each kind."""

    def users_to_embed(self, space: Space, seconds: float) -> AsyncIterator[str]:
        """Users who may have some; one of all processes is told of them every so many seconds."""


class Embedding:
    """The pipeline of one manager. Belongs to its loop.

    Args:
        embedder: makes the vectors.
        rows: where they are kept.
        cache: what the embedder has said before; None: it is asked each time.
        texts: of what of a memory vectors are made.
        shown: called with vectors that are kept now.
        undelivered: whether something of a user has yet to reach the database.
        events: where to report.
        clock: the time, which says what has expired.
    """

    def __init__(
        self,
        embedder: GuardedEmbedder,
        rows: VectorRows,
        cache: CachedVectors | None,
        texts: Texts,
        shown: Shown,
        undelivered: Undelivered,
        events: Events,
        clock: Clock = utc_now,
    ) -> None:
        self._embedder = embedder
        self._rows = rows
        self._cache = cache
        self._texts = texts
        self._shown = shown
        self._undelivered = undelivered
        self._events = events
        self._clock = clock
        self._pending: dict[str, set[str]] = {}
        self._backlog = 0
        # A lock lives as long as somebody holds it or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._rounds: dict[str, asyncio.Future[bool]] = {}
        self._ask: Callable[[], object] = lambda: None

    def schedule(self, background: Background) -> None:
        """Work soon after something was written, and now and then look for what has no vector for other reasons."""
        background.repeat(EMBEDDINGS, self._catch_up, every=_EVERY_SECONDS, deadline=_JOB_SECONDS)
        background.repeat(BACKFILL, self._backfill, every=_BACKFILL_SECONDS, deadline=_JOB_SECONDS)
        self._ask = lambda: background.ask(EMBEDDINGS)

    @property
    def pending(self) -> int:
        """How many memories wait for their vectors, as far as this process knows."""
        return sum(map(len, self._pending.values())) + self._backlog

    async def space(self) -> Space:
        """The vectors that are made now.

        Raises:
            EmbeddingError: nobody knows how long they are, and the embedder does not say.
        """
        if self._embedder.dimensions is None:
            await self._embedder.documents([_PROBE])
        return Space(self._embedder.model, self._embedder.dimensions or 0)

    async def pending_of(self, user_id: str) -> int:
        """How many memories of a user have no vector and are to get one."""
        try:
            space = await self.space()
        except EmbeddingError:
            known = [one for one in await self._rows.spaces(user_id) if one.model == self._embedder.model]
            space = known[0] if known else Space(self._embedder.model, 0)
        return await self._rows.lacking_count(user_id, space, self._clock())

    def wrote(self, user_id: str, node_ids: Collection[str]) -> None:
        """This process has written memories of a user."""
        if not node_ids:
            return
        if user_id not in self._pending:
            self._pending[user_id] = set()
            self._ask()
        self._pending[user_id].update(node_ids)

    async def settled(self, user_id: str, seconds: float) -> None:
        """Wait until what this process has written of a user has its vectors, unless it gets none now."""
        if user_id not in self._pending:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while user_id in self._pending and not self._embedder.resting and not await self._undelivered(user_id):
                    if user_id not in self._rounds:
                        self._rounds[user_id] = asyncio.get_running_loop().create_future()
                    if not await asyncio.shield(self._rounds[user_id]):
                        return

    async def drained(self, background: Background) -> None:
        """Wait until everything this process has written has its vectors."""
        while self._pending:
            self._embedder.wake()
            await background.ask(EMBEDDINGS)
            if self._pending:
                # The embedder may be away, or something on its way to the database.
                await asyncio.sleep(0.05)

    async def _catch_up(self) -> None:
        """Work for the users of whom this process has written something, several at a time."""
        places = asyncio.Semaphore(_USERS_AT_ONCE)

        async def one(user_id: str) -> bool:
            async with places:
                return await self._attempt(user_id)

        users = list(self._pending)
        done = await asyncio.gather(*map(one, users))
        if any(worked and user_id in self._pending for user_id, worked in zip(users, done, strict=True)):
            # Something was written meanwhile.
            self._ask()

    async def _attempt(self, user_id: str) -> bool:
        """Embed what one user lacks; whether that worked."""
        wanted, worked = set(self._pending[user_id]), False
        try:
            if not self._embedder.resting and not await self._undelivered(user_id):
                await self._embed(user_id)
                worked = True
                self._pending[user_id] -= wanted
                if not self._pending[user_id]:
                    del self._pending[user_id]
        except (EmbeddingError, StorageUnavailable):
            pass  # Both are reported where they are noticed; what is missing stays so until the next time.
        finally:
            if (waiting := self._rounds.pop(user_id, None)) is not None and not waiting.done():
                waiting.set_result(worked)
        return worked

    async def _backfill(self) -> None:
        """Work for everybody who lacks vectors: one of all processes with this model does."""
        if self._embedder.resting:
            return
        try:
            space = await self.space()
            # Asked for a little more often than it is done, or every second time would come too early.
            async for user_id in self._rows.users_to_embed(space, 0.9 * _BACKFILL_SECONDS):
                await self._embed(user_id)
        except EmbeddingError:
            pass  # Reported by the embedder's guard; whoever is left is met again.

    async def _embed(self, user_id: str) -> None:
        """Give a user's memories the vectors that they lack."""
        space = await self.space()
        async with self._turns.setdefault(user_id, asyncio.Lock()):
            after: MemoryNode | None = None
            while page := await self._rows.lacking(user_id, space, self._clock(), after, _PAGE):
                last = len(page.nodes) < _PAGE
                if after is None and not last:
                    self._backlog = await self._rows.lacking_count(user_id, space, self._clock())
                start = time.perf_counter()
                made = await self._made(user_id, space, page.nodes)
                if made:
                    kept = await self._rows.keep(user_id, space, made, done=page.version if last else None)
                    if kept is not None:
                        await self._shown(user_id, space, kept, made)
                elif last:
                    await self._rows.mark(user_id, space, page.incarnation, page.version)
                self._backlog = 0 if last else max(0, self._backlog - len(page.nodes))
                if made:
                    duration = round((time.perf_counter() - start) * 1000, 3)
                    self._events.info(
                        "memories_embedded",
                        user_id=user_id,
                        model=space.model,
                        vectors=len(made),
                        pending=self._backlog,
                        duration_ms=duration,
                    )
                if last:
                    break
                after = page.nodes[-1]

    async def _made(self, user_id: str, space: Space, nodes: Sequence[MemoryNode]) -> list[Made]:
        texts = [(node, field, text) for node in nodes for field, text in self._texts(node).items()]
        vectors = await self._vectors(user_id, space, dict.fromkeys(text for *_, text in texts))
        return [Made(node, field, vectors[text]) for node, field, text in texts if text in vectors]

    async def _vectors(self, user_id: str, space: Space, texts: Collection[str]) -> dict[str, Vector]:
        """The vectors of texts, from the cache or the embedder; of those that it refuses there is none."""
        hashes = {hash_of(text): text for text in texts}
        known: dict[str, Vector] = {}
        if self._cache is not None:
            with suppress(HybridMemoryError):
                found = await self._cache.get(user_id, space.mark, hashes)
                known = {hashes[one]: vector for one, vector in found.items() if vector.size == space.dimensions}
        new = await self._asked(user_id, [text for text in texts if text not in known])
        new = {text: vector for text, vector in new.items() if vector.any()}
        if new and self._cache is not None:
            with suppress(HybridMemoryError):
                await self._cache.keep(user_id, space.mark, {hash_of(text): vector for text, vector in new.items()})
        return known | new

    async def _asked(self, user_id: str, texts: Sequence[str]) -> dict[str, Vector]:
        """Ask the embedder; a text that it refuses is found by asking for fewer and fewer, and left out."""
        if not texts:
            return {}
        try:
            return dict(zip(texts, await self._embedder.documents(texts), strict=True))
        except EmbeddingError as error:
            if not error.texts_at_fault:
                raise
            if len(texts) == 1:
                self._events.warning("embedding_refused", user_id=user_id, error=str(error))
                return {}
        half = len(texts) // 2
        return await self._asked(user_id, texts[:half]) | await self._asked(user_id, texts[half:])
