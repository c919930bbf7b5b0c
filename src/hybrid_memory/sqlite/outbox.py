"""The outbox in `state.db`: operations acknowledged while Postgres does not answer, in order per user.

Rows in, rows out: what an operation means, and when it is sent, others decide. An operation is durable when `put`
returns and stays until it is `done`, or until somebody takes it out of quarantine again.
"""

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hybrid_memory.errors import OutboxFull
from hybrid_memory.observability import Events
from hybrid_memory.sqlite import outbox_rows as rows
from hybrid_memory.sqlite.connection import Row, Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.leases import holds
from hybrid_memory.sqlite.outbox_rows import Found
from hybrid_memory.sqlite.queued import Payload, QueuedOperation, decoded, encoded, microseconds, moment

LEASE = "outbox"
MOST_BYTES = 32_000_000
DAMAGED = "its content is not what was stored: damaged, and not sent"
TOO_OLD = "it waited for so long that Postgres may have forgotten whether it has it already"
_PAGE = 500


@dataclass(frozen=True, slots=True)
class UserQueue:
    """How much of a user waits, and since when."""

    user_id: str
    operations: int
    oldest: datetime


class Outbox:
    """The queues of all users in one `state.db`, shared by the processes that use it.

    Args:
        state: the file.
        events: where quarantine is reported.
        most_operations: no more than so many are kept, quarantine included.
        most_bytes: nor more bytes of content.
    """

    def __init__(self, state: Database, events: Events, *, most_operations: int, most_bytes: int) -> None:
        self._state = state
        self._events = events
        self._most_operations = most_operations
        self._most_bytes = most_bytes

    async def put(self, operations: Sequence[QueuedOperation]) -> None:
        """Keep operations, each at the end of its user's queue: all of them durable when this returns, or none kept.

        One that is kept already is not kept twice, so a put without an answer may be repeated. One that comes with
        `quarantined_at` goes into quarantine.

        Raises:
            OutboxFull: there is no room for all of them.
            StorageRejected: a number was used for another operation before.
            InvalidInput: an operation cannot be written as JSON.
            StorageUnavailable: not kept, unless it says that the outcome is unknown.
        """
        new = [(operation, encoded(operation)) for operation in operations]
        await self._state.write(lambda sql: self._put(sql, new))

    def put_within(self, sql: Statements, operations: Iterable[QueuedOperation]) -> None:
        """The same as part of a job of the caller's, with which it is committed."""
        self._put(sql, [(operation, encoded(operation)) for operation in operations])

    async def next_batches(
        self,
        owner: str,
        *,
        most_users: int,
        most_operations: int,
        now: datetime,
        besides: Collection[str] = (),
    ) -> list[tuple[QueuedOperation, ...]]:
        """What may be sent now: for each of some users the oldest operations, in their order.

        Users whose turn it has been longest come first. An operation whose content is damaged goes into quarantine and
        is not among them. Nothing, unless `owner` has the lease.

        Args:
            owner: who asks; the name its lease was taken under.
            most_users: at most so many batches.
            most_operations: at most so many operations in each; fewer when they are large.
            now: users that wait for a later time are left out.
            besides: users to leave out, as their operations are on their way.
        """

        def query(sql: Statements) -> list[list[Found]]:
            if not holds(sql, LEASE, owner, now):
                return []
            found, room = [], MOST_BYTES
            for user_id in rows.due(sql, most_users, now, besides):
                queue, size = rows.queue_of(sql, user_id, most_operations, max(room, 1))
                found.append(queue)
                room -= size
                if room <= 0:
                    break
            return found

        found = await self._state.read(query)
        await self._quarantine_damaged((one for queue in found for one in queue), now)
        batches = (tuple(one for one, sound in queue if sound) for queue in found)
        return [batch for batch in batches if batch]

    async def done(self, user_id: str, up_to: Mapping[str, int]) -> int:
        """Remove a user's operations after they took effect, those of each run up to a number; how many that were."""
        return await self._state.write(lambda sql: rows.remove_done(sql, user_id, up_to))

    async def postpone(self, user_id: str, attempts: int, not_before: datetime, reason: str) -> None:
        """Send nothing of a user before a time, ten minutes away at most; the reason must not quote any content."""
        values = {"attempts": attempts, "not_before": microseconds(not_before), "reason": reason}
        await self._state.write(lambda sql: sql.run("outbox.postpone", user_id=user_id, **values))

    async def quarantine(self, user_id: str, instance_id: str, n: int, reason: str, now: datetime) -> bool:
        """Take one operation out of its queue, so that those behind it go on; whether it was there.

        The reason must not quote any content.
        """

        def job(sql: Statements) -> list[Row]:
            place = sql.value("outbox.position_of", user_id=user_id, instance_id=instance_id, number=n)
            return rows.set_aside(sql, [] if place is None else [place], reason, now)

        return self._reported(await self._state.write(job), reason) > 0

    async def quarantine_older(self, before: datetime, now: datetime, reason: str = TOO_OLD) -> int:
        """Take what was queued before a moment out of its queue; how many operations that were."""

        def job(sql: Statements) -> list[Row]:
            places = [place for (place,) in sql.rows("outbox.older", before=microseconds(before), most=_PAGE)]
            return rows.set_aside(sql, places, reason, now)

        count = 0
        while moved := self._reported(await self._state.write(job), reason):
            count += moved
        return count

    async def quarantined(
        self,
        user_id: str | None = None,
        limit: int = 100,
        *,
        positions: Iterable[int] | None = None,
        after: int = 0,
    ) -> list[QueuedOperation]:
        """What is in quarantine, by position: of all users or one, or only these positions, after a position."""
        places = None if positions is None else json.dumps(list(positions))
        found = await self._state.read(
            lambda sql: sql.rows("outbox.quarantined", user_id=user_id, positions=places, after=after, most=limit)
        )
        return [decoded(row)[0] for row in found]

    async def requeue(
        self, operations: Iterable[QueuedOperation], instance_id: str, number: Callable[[str], int], now: datetime
    ) -> int:
        """Put operations from quarantine at the end of their users' queues; how many were there and can be sent.

        Args:
            operations: what `quarantined` gave; one without content stays where it is.
            instance_id: the run they belong to from now on.
            number: the next number of that run for a user; called here, once per operation. Numbers may be left out.
            now: when they are queued.
        """
        renewed = [
            (
                one.position,
                replace(
                    one,
                    instance_id=instance_id,
                    n=number(one.user_id),
                    queued_at=now,
                    attempts=0,
                    not_before=None,
                    reason=None,
                    quarantined_at=None,
                ),
            )
            for one in operations
            if one.row
        ]
        new = [(place, operation, encoded(operation)) for place, operation in renewed]

        def job(sql: Statements) -> int:
            moved = [(operation, payload) for place, operation, payload in new if rows.take_back(sql, place)]
            rows.add(sql, moved)
            return len(moved)

        return await self._state.write(job)

    async def everything(self) -> AsyncIterator[QueuedOperation]:
        """Every operation there is, waiting or in quarantine, by position."""
        after = 0
        while found := await self._state.read(_page_after(after)):
            for operation in found:
                yield operation
            after = found[-1].position

    async def of_user(self, user_id: str) -> list[QueuedOperation]:
        """A user's queue, in order, without what is damaged."""
        found, _ = await self._state.read(lambda sql: rows.queue_of(sql, user_id))
        return [operation for operation, sound in found if sound]

    async def waits(self, user_id: str) -> bool:
        """Whether a user has a queue."""
        return await self._state.read(lambda sql: sql.value("outbox.head", user_id=user_id)) is not None

    async def users_with_queued(self) -> set[str]:
        """Everybody with a queue."""
        return {user for (user,) in await self._state.read(lambda sql: sql.rows("outbox.users"))}

    async def queues(self, limit: int = 100) -> list[UserQueue]:
        """How much of each user waits; those that wait longest come first."""
        found = await self._state.read(lambda sql: sql.rows("outbox.counts", most=limit))
        return [UserQueue(user, count, moment(oldest)) for user, count, oldest in found]

    async def depth(self) -> int:
        """How many operations wait."""
        return (await self._totals())[0]

    async def quarantined_count(self) -> int:
        """How many are in quarantine."""
        return (await self._totals())[1]

    def figures(self, now: datetime) -> tuple[int, int, timedelta | None]:
        """How many operations wait, how many are in quarantine, and for how long the oldest has been waiting.

        The only call that blocks, for less than a millisecond: it answers whoever asks how things are.
        """
        queued, quarantined, oldest = self._state.read_blocking(
            lambda sql: (*rows.totals(sql)[:2], sql.value("outbox.oldest"))
        )
        return queued, quarantined, None if oldest is None else max(now - moment(oldest), timedelta(0))

    async def oldest_age(self, now: datetime) -> timedelta | None:
        """For how long the oldest operation has been waiting, or None when none is."""
        queued_at = await self._state.read(lambda sql: sql.value("outbox.oldest"))
        return None if queued_at is None else max(now - moment(queued_at), timedelta(0))

    async def _totals(self) -> tuple[int, int, int]:
        return await self._state.read(rows.totals)

    def _put(self, sql: Statements, new: Sequence[tuple[QueuedOperation, Payload]]) -> None:
        before = rows.totals(sql)
        rows.add(sql, new)
        after = rows.totals(sql)
        if after != before:  # what is kept already needs no room
            self._check_room(before, after)

    def _check_room(self, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
        """Refuse what does not fit, which undoes the job."""
        if sum(after[:2]) > self._most_operations or after[2] > self._most_bytes:
            queued, quarantined, used = before
            raise OutboxFull(
                f"Postgres does not answer, and {queued} writes wait for it already ({quarantined} more are in "
                f"quarantine, {used} bytes in all; at most {self._most_operations} and {self._most_bytes} are kept): "
                "nothing of this call was kept"
            )

    async def _quarantine_damaged(self, found: Iterable[Found], now: datetime) -> None:
        places = [operation.position for operation, sound in found if not sound]
        if not places:
            return

        def job(sql: Statements) -> list[Row]:
            sql.run_many("outbox_payloads.accept_damaged", ["position"], ((place,) for place in places))
            return rows.set_aside(sql, places, DAMAGED, now)

        self._reported(await self._state.write(job), DAMAGED)

    def _reported(self, moved: Sequence[Row], reason: str) -> int:
        for user_id, instance_id, number, kind in moved:
            self._events.error(
                "outbox_operation_quarantined",
                user_id=user_id,
                instance_id=instance_id,
                number=number,
                kind=kind,
                reason=reason,
            )
        return len(moved)


def _page_after(place: int) -> Callable[[Statements], list[QueuedOperation]]:
    return lambda sql: [decoded(row)[0] for row in sql.rows("outbox.page", after=place, most=_PAGE)]
