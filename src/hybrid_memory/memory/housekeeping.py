"""Housekeeping: what has expired goes, what nobody needs any more goes, what was read is counted.

Chores of the whole database are done by one of all processes: whoever claims one first. They name the users there is
something to do for, and then work on one user at a time, in batches, under that user's lock.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hybrid_memory.background import Background
from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.graph.user_graph import Clock, utc_now
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.places import Tidying
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.statistics import Figures
from hybrid_memory.memory.transient import Notes
from hybrid_memory.models import Cleanup
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings

STATISTICS, SWEEP, ACCESSES, TRIM, NOTES = "statistics", "sweep", "accesses", "trim", "notes"
_HOUR = 3600.0
_JOB_SECONDS = 600.0
_FAREWELL_SECONDS = 3.0
# One user's failure is not the database's; so many in a row are.
_MOST_FAILURES = 3
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class Housekeeping:
    """The chores of one manager. Belongs to its loop."""

    def __init__(
        self,
        border: Border,
        upkeep: Tidying,
        figures: Figures,
        sessions: Sessions,
        accesses: Accesses,
        settings: Settings,
        events: Events,
        clock: Clock = utc_now,
    ) -> None:
        self._border = border
        self._upkeep = upkeep
        self._figures = figures
        self._sessions = sessions
        self._accesses = accesses
        self._settings = settings
        self._events = events
        self._clock = clock

    def schedule(self, background: Background, notes: Notes) -> None:
        """Register the jobs."""
        stats, sweep = self._settings.stats_interval_seconds, self._settings.sweep_interval_seconds
        retention = timedelta(days=self._settings.retention_days)
        keep_notes = timedelta(days=self._settings.note_retention_days)

        async def refresh_statistics() -> None:
            if await self._upkeep.claim("statistics", stats):
                await self._figures.refresh()

        async def remove_expired() -> None:
            everybody = await self._upkeep.claim("sweep", sweep)
            await self._sweep(self._upkeep.users_to_sweep(None, everybody=everybody), None, ())

        async def forget_what_is_old() -> None:
            if await self._upkeep.claim("trim", _HOUR):
                await self.trim(self._clock() - retention)

        async def clean_notes() -> None:
            await asyncio.to_thread(notes.clean_up, keep_notes, only_if_open=True)

        background.repeat(STATISTICS, refresh_statistics, every=stats, deadline=_JOB_SECONDS)
        background.repeat(SWEEP, remove_expired, every=sweep, deadline=_JOB_SECONDS)
        background.repeat(
            ACCESSES, self._accesses.write, every=self._settings.access_interval_seconds, deadline=_JOB_SECONDS
        )
        background.repeat(TRIM, forget_what_is_old, every=_HOUR, deadline=_JOB_SECONDS)
        if keep_notes:
            background.repeat(NOTES, clean_notes, every=_HOUR, deadline=_JOB_SECONDS)

    async def cleanup(
        self, max_age: timedelta | float, user_id: str | None, keep_tags: Iterable[str], notes: Notes
    ) -> Cleanup:
        """Remove what was not changed for `max_age` and what has expired, of one user, or of all and of all threads."""
        span = self._border.span(max_age, "max_age")
        keep = self._border.tags(keep_tags)
        keep += [tag.lower() for tag in keep]
        try:
            before = self._clock() - span
        except OverflowError:
            before = _BEGINNING
        if user_id is not None:
            return await self._swept(self._border.user_id(user_id), before, keep)
        done = await self._sweep(self._upkeep.users_to_sweep(before), before, keep)
        return replace(done, notes=await asyncio.to_thread(notes.clean_up, span))

    async def trim(self, before: datetime) -> None:
        """Forget tombstones and watermarks from before; a cache that is older still has to load its user afresh."""
        tombstones = watermarks = 0

        async def trim(user_id: str) -> None:
            nonlocal tombstones, watermarks
            forgotten = await self._upkeep.trim(user_id, before)
            tombstones, watermarks = tombstones + forgotten[0], watermarks + forgotten[1]

        await self._for_each(self._upkeep.users_to_trim(before), trim)
        if tombstones or watermarks:
            self._events.info("old_marks_forgotten", tombstones=tombstones, watermarks=watermarks)

    async def farewell(self, instance_id: str, users: Sequence[str]) -> None:
        """Before closing: write down what was read, and take this process's watermarks away.

        What cannot be done within a moment is left: counts since the last time are lost, watermarks go with their age.
        """
        with suppress(HybridMemoryError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._accesses.write()
                await self._upkeep.forget_watermarks(users, instance_id)

    async def _sweep(self, users: AsyncIterator[str], before: datetime | None, keep_tags: Sequence[str]) -> Cleanup:
        total = Cleanup()

        async def sweep(user_id: str) -> None:
            nonlocal total
            total = _sum(total, await self._swept(user_id, before, keep_tags))

        await self._for_each(users, sweep)
        return total

    async def _swept(self, user_id: str, before: datetime | None, keep_tags: Sequence[str]) -> Cleanup:
        total, version = Cleanup(), 0
        async for batch in self._upkeep.sweep(user_id, before, keep_tags):
            version = batch.version
            total = _sum(total, Cleanup(memories=batch.old, expired=batch.expired, relationships=batch.relationships))
        if not version:
            return total
        self._events.info(
            "memories_cleaned_up",
            user_id=user_id,
            memories=total.memories,
            expired=total.expired,
            relationships=total.relationships,
        )
        await self._sessions.caught_up(user_id, version)
        return replace(total, users=1)

    async def _for_each(self, users: AsyncIterator[str], work: Callable[[str], Awaitable[None]]) -> None:
        failures = 0
        async for user_id in users:
            try:
                await work(user_id)
                failures = 0
            except HybridMemoryError as error:
                failures += 1
                if failures == _MOST_FAILURES:
                    raise
                self._events.warning("cleanup_failed", user_id=user_id, error=str(error))


def _sum(one: Cleanup, other: Cleanup) -> Cleanup:
    return Cleanup(
        memories=one.memories + other.memories,
        expired=one.expired + other.expired,
        relationships=one.relationships + other.relationships,
        notes=one.notes + other.notes,
        users=one.users + other.users,
    )
