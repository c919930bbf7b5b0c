"""What waits for Postgres: when it is sent, how much there is, and what was refused and may be sent once more."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta

from hybrid_memory.background import Background
from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.postgres.link import Link
from hybrid_memory.replication.queue import Queue
from hybrid_memory.replication.replay import Replay
from hybrid_memory.replication.writer import Writer
from hybrid_memory.sqlite.leases import Leases
from hybrid_memory.sqlite.outbox import LEASE, Outbox
from hybrid_memory.sqlite.queued import QueuedOperation

OUTBOX = "outbox"
_EVERY_SECONDS = 2.0
_JOB_SECONDS = 3600.0
_AT_A_TIME = 1000


class Delivery:
    """The outbox of one manager. Belongs to its loop."""

    def __init__(
        self,
        outbox: Outbox,
        leases: Leases,
        queue: Queue,
        replay: Replay,
        writer: Writer,
        sessions: Sessions,
        instance_id: str,
    ) -> None:
        self._outbox = outbox
        self._leases = leases
        self._queue = queue
        self._replay = replay
        self._writer = writer
        self._sessions = sessions
        self._instance_id = instance_id

    def schedule(self, background: Background, link: Link) -> None:
        """Send soon after something was queued while Postgres answers, after it has recovered, and now and then."""
        background.repeat(OUTBOX, self._deliver, every=_EVERY_SECONDS, deadline=_JOB_SECONDS)
        self._queue.on_put = lambda: self._queue.answering() and background.ask(OUTBOX)
        link.on_recovery(lambda: background.ask(OUTBOX))

    async def drained(self, background: Background) -> None:
        """Wait until nothing is on its way and nothing waits."""
        await self._writer.drained()
        while await self._outbox.depth():
            await background.ask(OUTBOX)
            # Another process may be sending, or somebody's turn be a moment away.
            await asyncio.sleep(0.05)

    async def close(self, seconds: float) -> None:
        """Send what can be sent within some seconds, then let another process send the rest."""
        with suppress(TimeoutError, HybridMemoryError):
            async with asyncio.timeout(seconds):
                if self._queue.answering():
                    await self._replay.run()
        # Where this cannot be written, the lease ends with the process.
        with suppress(HybridMemoryError):
            await self._leases.release(LEASE, self._instance_id)

    def figures(self) -> tuple[int, int, float | None]:
        """How many operations wait, how many are in quarantine, and for how many seconds the oldest has waited."""
        waiting, quarantined, oldest = self._outbox.figures(utc_now())
        return waiting, quarantined, None if oldest is None else oldest.total_seconds()

    def delivered_users(self) -> list[str]:
        """Whom this process has written for and owes nothing."""
        return [user_id for user_id in self._writer.users if not self._queue.may_hold(user_id)]

    async def quarantined(self, user_id: str | None, limit: int) -> list[QueuedOperation]:
        """What Postgres refused, or what was damaged, of one user or of all."""
        return await self._outbox.quarantined(user_id, limit)

    async def requeue(self, positions: Iterable[int] | None, user_id: str | None) -> int:
        """Send operations from quarantine once more, behind what waits of their users; how many."""
        wanted = None if positions is None else list(positions)
        count = after = 0
        while found := await self._outbox.quarantined(user_id, _AT_A_TIME, positions=wanted, after=after):
            after = found[-1].position
            by_user: dict[str, list[QueuedOperation]] = defaultdict(list)
            for operation in found:
                by_user[operation.user_id].append(operation)
            for owner, operations in by_user.items():
                async with self._writer.standing_still(owner):
                    count += await self._queue.requeue(owner, operations, self._writer.number)
                await self._sessions.dropped(owner)
        return count

    async def _deliver(self) -> None:
        if self._queue.answering():
            await self._replay.run()
        await self._sessions.settled()


def oldest_sent(retention_days: float) -> timedelta:
    """For how long an operation may wait: a little less than Postgres remembers what it has seen of a process."""
    return timedelta(days=retention_days * 0.95)
