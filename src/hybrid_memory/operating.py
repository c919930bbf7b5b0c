"""What a manager offers to those who run it: how it is, what is in it, and keeping it tidy."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Literal

from hybrid_memory.blocking import elsewhere
from hybrid_memory.lifecycle import Lifecycle
from hybrid_memory.memory.transient import Notes
from hybrid_memory.models import Cleanup, Health, UserStats
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.queued import QueuedOperation
from hybrid_memory.sqlite.version import sqlite_version
from hybrid_memory.wiring import Parts


class Operating(Lifecycle):
    """The part of a manager for operators and dashboards."""

    def __init__(self, settings: Settings, events: Events) -> None:
        super().__init__(settings, events)
        self._notes = Notes(self._state, self._border)

    async def user_stats(self, user_id: str) -> UserStats:
        """What a user has: exact counts of this moment, for a dashboard or a page about the user."""
        owner = self._border.user_id(user_id)

        async def figures(parts: Parts) -> UserStats:
            stats = await parts.figures.of_user(owner)
            if parts.embedding is None:
                return stats
            return replace(stats, pending_embeddings=await parts.embedding.pending_of(owner))

        return await self._on_home(figures)

    async def refresh_stats(self) -> bool:
        """Refresh the statistics over all users, within two minutes; False when another process is at it.

        One of all processes does so by itself, see `stats_interval_seconds`. Neither readers nor writers wait for it.
        """
        return await self._on_home(lambda parts: parts.figures.refresh())

    async def cleanup(
        self,
        max_age: timedelta | float,
        *,
        user_id: str | None = None,
        keep_tags: Iterable[str] = ("important", "preserve"),
    ) -> Cleanup:
        """Remove memories that were not changed for `max_age` (seconds or a timedelta), and those that have expired.

        Args:
            max_age: reading a memory does not make it younger; storing, updating or merging does.
            user_id: of one user; of all users, and notes of threads quiet for as long, when None.
            keep_tags: old memories with one of these tags (in any case) stay. So do items of a store.

        Raises:
            InvalidInput: an age that is none, or tags that are none.
            StorageUnavailable: Postgres did not answer; what was removed before is gone.
        """
        return await self._on_home(lambda parts: parts.housekeeping.cleanup(max_age, user_id, keep_tags, self._notes))

    async def quarantined(self, user_id: str | None = None, *, limit: int = 100) -> list[QueuedOperation]:
        """Writes that were acknowledged while Postgres was away and that it refused later, of one user or of all.

        Each says why (`reason`). They stay until somebody requeues them; `hybrid-memory outbox export` saves them.
        """
        owner = None if user_id is None else self._border.user_id(user_id)
        return await self._on_home(lambda parts: parts.delivery.quarantined(owner, limit))

    async def requeue(self, positions: Iterable[int] | None = None, *, user_id: str | None = None) -> int:
        """Send writes from quarantine once more, behind whatever waits of their users; how many.

        Args:
            positions: of these, see `quarantined`; all of them when None.
            user_id: of this user only.
        """
        owner = None if user_id is None else self._border.user_id(user_id)
        return await self._on_home(lambda parts: parts.delivery.requeue(positions, owner))

    def health(self) -> Health:
        """How this manager is, at once and without asking Postgres; a manager that was not started is down."""
        local = self.settings.memory_type == "sqlite"
        up = self._parts is not None and self._parts.answering
        waiting, quarantined, oldest = (None, None, None) if self._parts is None else self._parts.delivery.figures()
        embedding = None if self._parts is None else self._parts.embedding
        return Health(
            postgres="off" if local else "up" if up else "down",
            mode="sqlite" if local else "hybrid",
            data_dir=str(self.settings.data_dir.expanduser().absolute()),
            sqlite_version=sqlite_version(),
            breaker=None if self._parts is None else self._parts.link.breaker,
            outbox_depth=waiting,
            outbox_oldest_seconds=oldest,
            quarantined=quarantined,
            pending_embeddings=embedding.pending if embedding is not None else None,
            listener="off" if local or self._parts is None else self._parts.freshness.hearing,
        )

    async def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything acknowledged before is in Postgres, vectors included; whether it is, in `timeout`."""

        async def drained(parts: Parts) -> Literal[True]:
            await parts.delivery.drained(parts.background)
            if parts.embedding is not None:
                await parts.embedding.drained(parts.background)
            return True

        try:
            async with asyncio.timeout(timeout):
                return await self._on_home(drained)
        except TimeoutError:
            return False

    def _begin(self, parts: Parts) -> None:
        parts.housekeeping.schedule(parts.background, self._notes)
        parts.delivery.schedule(parts.background, parts.link)
        parts.large_users.schedule(parts.background)
        if parts.embedding is not None:
            parts.embedding.schedule(parts.background)
        parts.freshness.begin(parts.background)

    async def _close(self, timeout: float) -> None:
        try:
            await super()._close(timeout)
        finally:
            await elsewhere(self._state.close)
