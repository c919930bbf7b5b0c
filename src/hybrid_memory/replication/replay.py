"""The replay: sends what waits in the outbox, in order per user, users side by side, while this process has the lease.

What one user waits for goes in one call, whatever runs it comes from: each run's operations between those of others.
What Postgres refuses for good goes into quarantine, and what was behind it goes on. What it cannot take now is tried
again later, with growing pauses. Sending twice changes nothing: Postgres knows the numbers it has seen.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Protocol

from hybrid_memory.errors import StorageRejected, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Applied, Portion, QueuedBatches
from hybrid_memory.replication.batching import MOST_OPERATIONS, in_batches
from hybrid_memory.replication.queue import operation_of
from hybrid_memory.sqlite.leases import Leases
from hybrid_memory.sqlite.outbox import LEASE, Outbox
from hybrid_memory.sqlite.queued import QueuedOperation

LEASE_SECONDS = 15.0
_MOST_USERS = 32
_FIRST_PAUSE = timedelta(seconds=0.5)
_LONGEST_PAUSE = timedelta(seconds=30)


class Audience(Protocol):
    """Who wants to know what became of queued operations."""

    def holds(self, user_id: str) -> bool:
        """Whether the user's memory is in this process."""

    async def delivered(self, user_id: str, delivered: Sequence[tuple[str, Applied]]) -> None:
        """Operations of a user have taken effect, one after the other: those of each run up to its `mark`."""

    async def dropped(self, user_id: str) -> None:
        """An operation of the user will not take effect."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The one sender of an outbox among the processes that share it.

    Args:
        batches: what applies the operations.
        audience: is told what becomes of them.
        owner: the name this process takes the lease under.
        answering: whether Postgres takes writes.
        oldest: what has waited for longer is not sent.
        now: the time.
    """

    outbox: Outbox
    leases: Leases
    batches: QueuedBatches
    audience: Audience
    owner: str
    events: Events
    answering: Callable[[], bool]
    oldest: timedelta
    now: Callable[[], datetime]

    async def run(self) -> bool:
        """Send everything that is due; whether nothing waits any more.

        Raises:
            ConfigurationError: schema, rights or settings do not fit; what was not sent waits until they do.
        """
        if not await self.outbox.depth():
            return True
        if not await self._lead():
            return False
        await self.outbox.quarantine_older(self.now() - self.oldest, self.now())
        under_way: dict[asyncio.Task[bool], str] = {}
        try:
            while self.answering() and await self._lead():
                due = await self.outbox.next_batches(
                    self.owner,
                    most_users=_MOST_USERS,
                    most_operations=MOST_OPERATIONS,
                    now=self.now(),
                    besides=list(under_way.values()),
                )
                for operations in due:
                    # What one deadline did not suffice for is tried in smaller pieces.
                    some = operations[: max(1, len(operations) >> operations[0].attempts)]
                    under_way[asyncio.create_task(self._send(some))] = some[0].user_id
                if not under_way:
                    break
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED, timeout=LEASE_SECONDS / 3)
                for task in done:
                    del under_way[task]
                    task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return not await self.outbox.depth()

    async def _lead(self) -> bool:
        return await self.leases.take(LEASE, self.owner, LEASE_SECONDS, self.now())

    async def _send(self, operations: Sequence[QueuedOperation]) -> bool:
        """Send operations of one user; whether they were dealt with, so that what follows may be sent."""
        user_id = operations[0].user_id
        try:
            portions = list(_portions(operations))
            applied = await self.batches.apply(user_id, portions, echo=self.audience.holds(user_id))
        except StorageUnavailable as error:
            if self.answering():
                await self._postpone(operations, str(error))
            return False
        except StorageRejected as error:
            return await self._refused(operations, error)
        else:
            runs = [one.instance_id for one in portions]
            await self.audience.delivered(user_id, list(zip(runs, applied, strict=True)))
            await self.outbox.done(user_id, {one.instance_id: one.n for one in operations})
            version = applied[-1].version
            self.events.info("outbox_replayed", user_id=user_id, operations=len(operations), version=version)
            return True

    async def _refused(self, operations: Sequence[QueuedOperation], error: StorageRejected) -> bool:
        """Find the operation at fault, set it aside, and send the others in their order."""
        user_id, runs = operations[0].user_id, {one.instance_id for one in operations}
        if len(operations) == 1:
            (instance_id,) = runs
            reason = f"{error}" if error.sqlstate is None else f"{error} [{error.sqlstate}]"
            await self.outbox.quarantine(user_id, instance_id, operations[0].n, reason, self.now())
            await self.audience.dropped(user_id)
            return True
        middle = len(operations) // 2
        parts = [operations[:middle], operations[middle:]]
        if error.operation is not None and len(runs) == 1:
            place = next(place for place, one in enumerate(operations) if one.n >= error.operation[1])
            parts = [operations[:place], operations[place : place + 1], operations[place + 1 :]]
        for part in parts:
            if part and not await self._send(part):
                return False
        return True

    async def _postpone(self, operations: Sequence[QueuedOperation], reason: str) -> None:
        first = operations[0]
        attempts = first.attempts + 1
        pause = min(_FIRST_PAUSE * 2 ** min(attempts - 1, 10), _LONGEST_PAUSE)
        spread = random.uniform(0.5, 1)  # noqa: S311 - so that many do not come at once
        await self.outbox.postpone(first.user_id, attempts, self.now() + pause * spread, reason)


def _portions(operations: Sequence[QueuedOperation]) -> Iterator[Portion]:
    """Operations of one user in their order, each portion of one run and incarnation."""
    for (run, incarnation), some in groupby(operations, lambda one: (one.instance_id, one.incarnation)):
        for batch in in_batches(map(operation_of, some)):
            yield Portion(run, incarnation, batch)
