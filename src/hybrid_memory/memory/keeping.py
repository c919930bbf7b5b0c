"""What the next process begins with: users' graphs kept in `cache.db`, written behind, read before Postgres is asked.

Nothing waits for it and nothing depends on it. A copy that cannot be read or written is reported, and the user is
loaded from Postgres.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from hybrid_memory.blocking import elsewhere
from hybrid_memory.errors import HybridMemoryError, StorageUnavailable
from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph, utc_now
from hybrid_memory.memory.deployment import Deployment
from hybrid_memory.observability import Events
from hybrid_memory.postgres.link import Link
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.cached_users import CachedUser, CachedUsers, Changes, Standing, UnusableCopy
from hybrid_memory.sqlite.cached_vectors import CachedVectors
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import CACHE
from hybrid_memory.sqlite.values import CachedValues

# What happens to a user in the meantime is written together.
_SECONDS_BEHIND = 2.0
_SECONDS_BETWEEN_CLEARINGS = 60.0
_SECONDS_TO_CLOSE = 5.0
# Postgres is asked instead of waiting longer.
_LONGEST_CALL_SECONDS = 5.0
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Kept:
    """A user's copy, and when it was what Postgres held."""

    delta: Delta
    confirmed_at: datetime


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """What the copy of a graph is missing, without a gap; None when only all of it will do."""

    graph: UserGraph
    changes: list[Delta] | None


class Keeper:
    """Keeps copies of one database's users. Belongs to the manager's loop.

    Args:
        users: where they are kept.
        deployment: which database they are of; a copy of another one is not used.
        stamps: the clock that must not fall behind what the maker of a copy had seen.
        settings: how much is kept, and for how long.
        events: where to report.
        vectors: what embedders have said, on the same file.
    """

    def __init__(
        self,
        users: CachedUsers,
        deployment: Deployment,
        stamps: HybridClock,
        settings: Settings,
        events: Events,
        vectors: CachedVectors,
    ) -> None:
        self.vectors = vectors
        self._users = users
        self._deployment = deployment
        self._stamps = stamps
        self._settings = settings
        self._events = events
        self._unwritten: dict[str, _Unwritten] = {}
        self._writing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._cleared_at = float("-inf")
        self._failing = False

    async def copy_of(self, user_id: str) -> Kept | None:
        """What is kept of a user; None when there is nothing, or nothing that is whole."""
        try:
            deployment = await self._deployment.identity()
            found = await self._users.get(user_id, deployment) if deployment else None
        except UnusableCopy as error:
            self._events.warning("cached_user_dropped", user_id=user_id, reason=str(error))
            await self.drop(user_id)
            return None
        except HybridMemoryError as error:
            self._report(error)
            return None
        if found is None:
            return None
        self._stamps.observe(found.standing.latest_stamp)
        delta = Delta(
            incarnation=found.standing.incarnation,
            version=found.standing.version,
            nodes=found.nodes,
            relationships=found.relationships,
            complete=True,
        )
        return Kept(delta, found.standing.confirmed_at)

    async def drop(self, user_id: str) -> None:
        """Keep nothing of a user for now."""
        await self._attempted(self._users.drop(user_id))

    def note(self, graph: UserGraph, delta: Delta) -> None:
        """A graph has taken this from Postgres: its copy will have it in a moment."""
        if delta.incarnation is None and not delta.complete:
            return
        known = self._unwritten.pop(graph.user_id, None)
        changes = None if delta.complete else [delta]
        if known is not None and changes is not None:
            changes = _followed(known.changes, delta)
        self._unwritten[graph.user_id] = _Unwritten(graph, changes)
        if len(self._unwritten) > self._settings.max_loaded_users:
            # Its copy stays as old as it is, which the next change of the user notices.
            del self._unwritten[next(iter(self._unwritten))]
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_behind())

    def start_anew(self) -> None:
        """What is noted is of a database that is not there any more."""
        self._unwritten.clear()

    async def remember_database(self) -> None:
        """How far the database is, for the next process to compare."""
        await self._attempted(self._deployment.remember())

    async def written(self) -> None:
        """Wait until everything noted is written."""
        while self._writing is not None:
            self._hurry.set()
            await asyncio.shield(self._writing)

    async def close(self) -> None:
        """Write what is noted, unless that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS_TO_CLOSE):
                await self.written()
                await self.remember_database()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)

    async def _write_behind(self) -> None:
        try:
            while self._unwritten:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SECONDS_BEHIND):
                        await self._hurry.wait()
                for user_id in list(self._unwritten):
                    if (unwritten := self._unwritten.pop(user_id, None)) is not None:
                        await self._attempted(self._write(unwritten))
                await self._clear()
        finally:
            self._hurry.clear()
            self._writing = None

    async def _write(self, unwritten: _Unwritten) -> None:
        graph, deployment = unwritten.graph, await self._deployment.identity()
        if deployment is None:
            return
        if unwritten.changes:
            first, *later = unwritten.changes
            delta = first.then(*later)
            news = Changes(delta.since or 0, delta.nodes, delta.relationships, delta.deleted)
            if await self._users.apply(self._standing(graph, delta, deployment), news):
                return
        everything = graph.everything()
        if everything.incarnation is None:
            await self._users.drop(graph.user_id)
        elif not _unconfirmed(everything):
            copy = CachedUser(self._standing(graph, everything, deployment), everything.nodes, everything.relationships)
            await self._users.replace(copy)

    def _standing(self, graph: UserGraph, delta: Delta, deployment: str) -> Standing:
        return Standing(
            user_id=graph.user_id,
            deployment=deployment,
            incarnation=str(delta.incarnation),
            version=delta.version,
            latest_stamp=self._stamps.latest,
            confirmed_at=graph.confirmed_at or utc_now(),
        )

    async def _clear(self) -> None:
        """Now and then, let copies go that nobody uses or that take too much room."""
        if time.monotonic() - self._cleared_at < _SECONDS_BETWEEN_CLEARINGS:
            return
        self._cleared_at = time.monotonic()
        await self._attempted(self._make_room())

    async def _make_room(self) -> None:
        unused, most = self._settings.max_cache_days * _SECONDS_PER_DAY, self._settings.max_cache_bytes
        await self._users.make_room(unused_seconds=unused, most_bytes=most)
        await self.vectors.make_room(unused_seconds=unused, most_bytes=most)

    async def _attempted(self, work: Awaitable[object]) -> None:
        """Do it if it can be done."""
        try:
            await work
        except (HybridMemoryError, ValueError) as error:
            self._report(error)
        else:
            self._failing = False

    def _report(self, error: Exception) -> None:
        """Say once that it does not work, until it does again."""
        if not self._failing:
            self._events.warning("cache_unavailable", error=str(error))
        self._failing = True


@asynccontextmanager
async def opened_keeper(
    settings: Settings, link: Link, stamps: HybridClock, events: Events
) -> AsyncIterator[Keeper | None]:
    """The keeper on the data directory's `cache.db`; None where the file cannot be used, or nothing is to be kept."""
    cache = Database(CACHE, settings.data_dir.expanduser(), events, timeout=_LONGEST_CALL_SECONDS)
    users, vectors, keeper = CachedUsers(cache), CachedVectors(cache), None
    try:
        try:
            await asyncio.to_thread(cache.open)
            if settings.max_cache_bytes == 0:
                await users.make_room(unused_seconds=0, most_bytes=0)
                await vectors.make_room(unused_seconds=0, most_bytes=0)
            else:
                address = f"{link.address} {settings.schema_name}"
                deployment = Deployment(link.continuity, address, CachedValues(cache))
                keeper = Keeper(users, deployment, stamps, settings, events, vectors)
        except StorageUnavailable as error:
            events.warning("cache_unavailable", error=str(error))
        yield keeper
    finally:
        if keeper is not None:
            await keeper.close()
        await elsewhere(cache.close)


def _unconfirmed(delta: Delta) -> bool:
    """Whether a row waits for Postgres, which may refuse it: no later change would tell the next process."""
    return any(row.version is None for rows in (delta.nodes, delta.relationships) for row in rows)


def _followed(earlier: list[Delta] | None, delta: Delta) -> list[Delta] | None:
    """What is missing after another change; None where something is missing in between, too."""
    if earlier is None or earlier[-1].incarnation != delta.incarnation or not delta.covers(earlier[-1].version):
        return None
    if delta.version > earlier[-1].version:
        earlier.append(delta)
    return earlier
