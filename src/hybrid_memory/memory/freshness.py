"""Keeps what is loaded fresh: by what other processes tell, and by asking, often while nothing can be heard.

Whatever is heard only says that a user is to be looked at. What was missed while nobody listened is found by comparing
the versions of all loaded users in one statement, as soon as notifications arrive again and now and then in any case.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from hybrid_memory.background import Background
from hybrid_memory.errors import HybridMemoryError, StorageUnavailable
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.observability import Events
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.listener import Hearing, Listener
from hybrid_memory.postgres.users import versions_of
from hybrid_memory.replication.invalidation import Invalidation
from hybrid_memory.replication.queue import Queued
from hybrid_memory.replication.writer import Answer
from hybrid_memory.settings import Settings

if TYPE_CHECKING:
    import asyncpg

COMPARE = "compare"
_JOB_SECONDS = 60.0
_USERS_AT_ONCE = 8
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 64.0
# A job repeats up to a fifth later than it is told to.
_LATE = 1.2
# Who hears of changes asks so many times as seldom; a notification that got lost costs no more than that.
_HEARING = 3


class Freshness:
    """What one manager does to be fresh. Belongs to its loop."""

    def __init__(
        self, sessions: Sessions, invalidation: Invalidation, link: Link, settings: Settings, events: Events
    ) -> None:
        self._sessions = sessions
        self._invalidation = invalidation
        self._link = link
        self._staleness = settings.max_staleness_seconds
        self._interval = settings.poll_interval_seconds
        if self._staleness:
            self._interval = min(self._interval, self._staleness / _LATE)
        self._most_names = 2 * settings.max_loaded_users
        self._listener = Listener(link, settings, events, heard=invalidation.received, listening=self._ask)
        self._listens = settings.listen
        self._background: Background | None = None
        self._due = True
        self._compared_at = float("-inf")
        self._to_look_at: dict[str, int | None] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._awake = 0
        self._pauses: dict[str, float] = {}
        self._again: dict[str, tuple[int | None, asyncio.TimerHandle]] = {}
        sessions.on_entered = self._entered
        invalidation.on_change = self._look_at
        invalidation.on_restored = self._ask
        link.continuity.on_replaced(self._replaced)
        link.on_recovery(self._ask)

    @property
    def hearing(self) -> Hearing:
        """Whether changes of other processes are heard, or asked for."""
        return self._listener.hearing

    def begin(self, background: Background) -> None:
        """Listen, and compare now and then, where there is a Postgres."""
        if self._link.is_absent:
            return
        self._background = background
        background.repeat(COMPARE, self._compare_if_due, every=self._interval, deadline=_JOB_SECONDS)
        if self._listens:
            self._listener.start()

    async def close(self) -> None:
        """Hear nothing more, and look at nobody."""
        await self._listener.close()
        for _, timer in self._again.values():
            timer.cancel()
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)

    def unheard(self, answer: Answer) -> None:
        """This process has written something whose caller has given up, so nobody else shows it."""
        if isinstance(answer, Queued):
            self._sessions.show_queued(answer)
        else:
            self._look_at(answer.user_id, answer.version)

    async def compare(self) -> None:
        """Compare every user whose memory is here with Postgres, and have those looked at who have changed.

        Raises:
            StorageUnavailable: Postgres does not answer.
        """
        await self._link.continuity.check(self._standing)
        ours = self._sessions.versions()
        theirs = await versions_of(self._link, ours)
        for user_id, (incarnation, version) in ours.items():
            there = theirs[user_id]
            if there[0] == incarnation and there[1] < version:
                self._link.continuity.broken("a user's version is behind one that was seen")
                return
            if there != (incarnation, version):
                self._look_at(user_id, None)
        self._sessions.confirm(user_id for user_id in ours if theirs[user_id] == ours[user_id])
        self._sessions.complete()

    async def _standing(self) -> "asyncpg.Record":
        (row,) = await self._link.call("deployment.standing")
        return row

    async def _compare_if_due(self) -> None:
        if not self._link.answering:
            self._sessions.mark_stale()
            self._due = True
            return
        age = time.monotonic() - self._compared_at
        soon_enough = age + self._interval * _LATE < min(self._staleness, self._interval * _HEARING)
        if self.hearing == "listening" and soon_enough and not self._due:
            return
        self._due, began = False, time.monotonic()
        try:
            await self.compare()
            self._compared_at = began
        except StorageUnavailable:
            self._sessions.mark_stale()
            self._due = True

    def _ask(self) -> None:
        """Something may have been missed."""
        self._due = True
        if self._background is not None:
            self._background.ask(COMPARE)

    def _entered(self, user_id: str) -> None:
        self._invalidation.know(user_id)
        if self._invalidation.known > self._most_names:
            self._invalidation.know_only(self._sessions.users)
            self._most_names = max(self._most_names, 2 * self._invalidation.known)

    def _replaced(self) -> None:
        for user_id in self._sessions.start_anew():
            self._look_at(user_id, None)
        self._invalidation.tell_restored()

    def _look_at(self, user_id: str, version: int | None) -> None:
        """Bring a user to a version, or to what there is; a few users at a time, each once however much is heard."""
        known = self._to_look_at.get(user_id, 0)
        self._to_look_at[user_id] = None if version is None or known is None else max(version, known)
        if self._awake < _USERS_AT_ONCE:
            self._awake += 1
            task = asyncio.create_task(self._look())
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _look(self) -> None:
        try:
            while self._to_look_at:
                user_id = next(iter(self._to_look_at))
                version = self._to_look_at.pop(user_id)
                try:
                    await self._sessions.changed(user_id, version)
                except HybridMemoryError:
                    self._look_again(user_id, version)
                else:
                    self._pauses.pop(user_id, None)
        finally:
            # At the same moment as there was nothing more to look at: what comes then finds somebody awake.
            self._awake -= 1

    def _look_again(self, user_id: str, version: int | None) -> None:
        """Nobody says again what this one has missed; who cannot be read at all is looked at more and more seldom."""
        pause = min(2 * self._pauses.get(user_id, _FIRST_PAUSE_SECONDS / 2), _LONGEST_PAUSE_SECONDS)
        self._pauses[user_id] = pause
        if user_id in self._again:
            before, timer = self._again[user_id]
            timer.cancel()
            version = None if version is None or before is None else max(version, before)
        timer = asyncio.get_running_loop().call_later(pause, self._look_now, user_id)
        self._again[user_id] = version, timer

    def _look_now(self, user_id: str) -> None:
        version, _ = self._again.pop(user_id)
        self._look_at(user_id, version)
