"""Making vectors of memories, off the write path: of what this process writes at once, of everything else in time.

New memories that it has just written get theirs together, whoever's they are. What else is missing is asked of the
database each time, so nothing has to be remembered: an outage of the embedder, a killed process, a new model and
memories from before there was an embedder are all the same to it.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Protocol
from weakref import WeakValueDictionary

from hybrid_memory.background import Background
from hybrid_memory.embeddings.embedder import Vector
from hybrid_memory.embeddings.guarded import GuardedEmbedder
from hybrid_memory.errors import EmbeddingError, HybridMemoryError, StorageUnavailable
from hybrid_memory.graph.user_graph import Clock, utc_now
from hybrid_memory.memory.just_written import JustWritten, in_portions
from hybrid_memory.memory.texts import Texts, hash_of
from hybrid_memory.models import MemoryNode
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Applied
from hybrid_memory.postgres.embeddings import KeptVectors, Lacking, Made, MadeForUser, Space
from hybrid_memory.replication.writer import Answer
from hybrid_memory.sqlite.cached_vectors import CachedVectors

EMBEDDINGS, BACKFILL = "embeddings", "embedding_backfill"
_PAGE = 256
_USERS_AT_ONCE = 4
# More in a call would keep each other's writes waiting, and leave the server's other processors idle.
_USERS_PER_CALL = 16
_EVERY_SECONDS = 5.0
# What is written within a moment is embedded together, unless somebody waits for it.
_GATHERING_SECONDS = 0.05
_BACKFILL_SECONDS = 60.0
_JOB_SECONDS = 3600.0
# What any text does: only the length of the answer matters.
_PROBE = "length"

# Whose it is, and what it says.
_Text = tuple[str, str]
Undelivered = Callable[[str], Awaitable[bool]]
Shown = Callable[[str, Space, KeptVectors, Sequence[Made]], Awaitable[None]]


class VectorRows(Protocol):
    """Where vectors are kept, and what knows which memories have none."""

    async def keep(self, space: Space, several: Sequence[MadeForUser]) -> Mapping[str, KeptVectors]:
        """Keep vectors of memories that have not changed since, of each user once; who is gone is left out."""

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


@dataclass(slots=True)
class _Waiting:
    """What was written of a user since vectors were made for him, and with what it came, where all of that is known."""

    node_ids: set[str]
    known: JustWritten | None


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
        self._waiting: dict[str, _Waiting] = {}
        self._in_work: dict[str, _Waiting] = {}
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
        return len({one for user in self._pending() for one in user.node_ids}) + self._backlog

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

    def wrote(self, user_id: str, node_ids: Collection[str], answer: Answer) -> None:
        """This process has written memories of a user."""
        if isinstance(answer, Applied) and answer.complete:
            return
        waiting = self._waiting.get(user_id)
        if waiting is None:
            if not node_ids:
                return
            waiting = self._waiting[user_id] = _Waiting(set(), _known_of(answer))
            asyncio.get_running_loop().call_later(_GATHERING_SECONDS, self._ask)
        # Callers that shared a batch all come with the same answer.
        elif waiting.known is not None and not (isinstance(answer, Applied) and waiting.known.includes(answer)):
            waiting.known = waiting.known.joined(_known_of(answer))
        waiting.node_ids.update(node_ids)

    async def settled(self, user_id: str, seconds: float) -> None:
        """Wait until what this process has written of a user has its vectors, unless it gets none now."""
        if not self._waits(user_id):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._waits(user_id) and not self._embedder.resting and not await self._undelivered(user_id):
                    if user_id not in self._rounds:
                        self._ask()
                        self._rounds[user_id] = asyncio.get_running_loop().create_future()
                    if not await asyncio.shield(self._rounds[user_id]):
                        return

    async def drained(self, background: Background) -> None:
        """Wait until everything this process has written has its vectors."""
        while self._waiting or self._in_work:
            self._embedder.wake()
            await background.ask(EMBEDDINGS)
            if self._waiting:
                # The embedder may be away, or something on its way to the database.
                await asyncio.sleep(0.05)

    def _waits(self, user_id: str) -> bool:
        return user_id in self._waiting or user_id in self._in_work

    def _pending(self) -> Iterator["_Waiting"]:
        yield from self._waiting.values()
        yield from self._in_work.values()

    async def _catch_up(self) -> None:
        """Work for the users of whom this process has written something; what fails for one fails when all are done."""
        places = asyncio.Semaphore(_USERS_AT_ONCE)

        async def one(user_id: str) -> None:
            async with places:
                await self._attempt(user_id)

        self._in_work, self._waiting = self._waiting, {}
        try:
            await self._embed_known()
            outcomes = await asyncio.gather(*map(one, list(self._in_work)), return_exceptions=True)
        finally:
            for user_id in list(self._in_work):
                self._worked(user_id, done=False)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _attempt(self, user_id: str) -> None:
        """Embed what one user lacks."""
        with suppress(EmbeddingError, StorageUnavailable):
            # Both are reported where they are noticed; what is missing stays so until the next time.
            if not self._embedder.resting and not await self._undelivered(user_id):
                self._worked(user_id, done=await self._embed(user_id))

    def _worked(self, user_id: str, *, done: bool) -> None:
        """Nobody works for a user now; what is not done waits on, and has to be looked for."""
        left = self._in_work.pop(user_id)
        if not done:
            waiting = self._waiting.setdefault(user_id, left)
            waiting.known = None
            waiting.node_ids |= left.node_ids
        if (turn := self._rounds.pop(user_id, None)) is not None and not turn.done():
            turn.set_result(done)

    async def _embed_known(self) -> None:
        """Give new memories their vectors. Whoever is left in work may be at fault, or everything is."""
        with suppress(HybridMemoryError):
            known = [
                user.known
                for user_id, user in self._in_work.items()
                if user.known is not None
                and user.node_ids <= user.known.nodes.keys()
                and not await self._undelivered(user_id)
            ]
            for portion in in_portions(known):
                space, start = await self.space(), time.perf_counter()
                made = await self._made(space, [node for one in portion for node in one.memories()])
                users = [
                    MadeForUser(one.user_id, one.incarnation, made.get(one.user_id, []), *one.span) for one in portion
                ]
                some = (users[first : first + _USERS_PER_CALL] for first in range(0, len(users), _USERS_PER_CALL))
                kept = await asyncio.gather(*(self._keep(space, each, start) for each in some))
                for user_id in chain.from_iterable(kept):
                    self._worked(user_id, done=True)

    async def _backfill(self) -> None:
        """Work for everybody who lacks vectors: one of all processes with this model does."""
        if self._embedder.resting:
            return
        try:
            space = await self.space()
            # Asked for a little more often than it is done, or every second time would come too early.
            async for user_id in self._rows.users_to_embed(space, 0.9 * _BACKFILL_SECONDS):
                with suppress(StorageUnavailable):
                    await self._embed(user_id)
        except EmbeddingError:
            pass  # Reported by the embedder's guard; whoever is left is met again.

    async def _embed(self, user_id: str) -> bool:
        """Give a user's memories the vectors that they lack; False when they became another life's meanwhile."""
        space = await self.space()
        async with self._turns.setdefault(user_id, asyncio.Lock()):
            after: MemoryNode | None = None
            incarnation: str | None = None
            while page := await self._rows.lacking(user_id, space, self._clock(), after, _PAGE):
                if incarnation not in (None, page.incarnation):
                    return False
                incarnation, last = page.incarnation, len(page.nodes) < _PAGE
                if after is None and not last:
                    self._backlog = await self._rows.lacking_count(user_id, space, self._clock())
                start = time.perf_counter()
                made = (await self._made(space, page.nodes)).get(user_id, [])
                self._backlog = 0 if last else max(0, self._backlog - len(page.nodes))
                if made or last:
                    done = page.version if last else None
                    if not await self._keep(space, [MadeForUser(user_id, page.incarnation, made, done=done)], start):
                        return False
                if last:
                    break
                after = page.nodes[-1]
        return True

    async def _keep(self, space: Space, several: Sequence[MadeForUser], start: float) -> Mapping[str, KeptVectors]:
        """Keep vectors, each user's or none of them, show and report them; who lives another life is left out."""
        kept = await self._rows.keep(space, several)
        for user in several:
            if not user.made:
                continue
            if user.user_id in kept:
                await self._shown(user.user_id, space, kept[user.user_id], user.made)
            duration = round((time.perf_counter() - start) * 1000, 3)
            self._events.info(
                "memories_embedded",
                user_id=user.user_id,
                model=space.model,
                vectors=len(user.made),
                pending=self._backlog,
                duration_ms=duration,
            )
        return kept

    async def _made(self, space: Space, nodes: Sequence[MemoryNode]) -> Mapping[str, list[Made]]:
        """Vectors of memories, by the user."""
        texts = [(node, field, text) for node in nodes for field, text in self._texts(node).items()]
        vectors = await self._vectors(space, dict.fromkeys((node.user_id, text) for node, _, text in texts))
        made: defaultdict[str, list[Made]] = defaultdict(list)
        for node, field, text in texts:
            if (node.user_id, text) in vectors:
                made[node.user_id].append(Made(node, field, vectors[node.user_id, text]))
        return made

    async def _vectors(self, space: Space, texts: Collection[_Text]) -> dict[_Text, Vector]:
        """The vectors of texts, from the cache or the embedder; of those that it refuses there is none."""
        hashes = {one: (one[0], hash_of(one[1])) for one in texts}
        known: dict[_Text, Vector] = {}
        if self._cache is not None:
            with suppress(HybridMemoryError):
                found = await self._cache.get(space.mark, hashes.values())
                known = {one: found[key] for one, key in hashes.items() if key in found}
                known = {one: vector for one, vector in known.items() if vector.size == space.dimensions}
        unknown = {text: user_id for user_id, text in texts if (user_id, text) not in known}
        asked = await self._asked(list(unknown.items()))
        new = {one: asked[one[1]] for one in texts if one not in known and one[1] in asked}
        new = {one: vector for one, vector in new.items() if vector.any()}
        if new and self._cache is not None:
            with suppress(HybridMemoryError):
                await self._cache.keep(space.mark, {hashes[one]: vector for one, vector in new.items()})
        return known | new

    async def _asked(self, texts: Sequence[tuple[str, str]]) -> dict[str, Vector]:
        """Ask the embedder; a text that it refuses is found by asking for fewer and fewer, and left out."""
        if not texts:
            return {}
        try:
            vectors = await self._embedder.documents([text for text, _ in texts])
            return {text: vector for (text, _), vector in zip(texts, vectors, strict=True)}
        except EmbeddingError as error:
            if not error.texts_at_fault:
                raise
            if len(texts) == 1:
                ((_, user_id),) = texts
                self._events.warning("embedding_refused", user_id=user_id, error=str(error))
                return {}
        half = len(texts) // 2
        return await self._asked(texts[:half]) | await self._asked(texts[half:])


def _known_of(answer: Answer) -> JustWritten | None:
    return JustWritten.of(answer) if isinstance(answer, Applied) else None
