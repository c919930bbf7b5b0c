"""The write-through: numbers operations, sends neighbours together, and answers each caller for its own.

Operations of one user are numbered and leave in the order in which they come, one batch at a time; users travel side by
side. While a batch is on its way the next one gathers, so the busier it is, the more share a round trip; where many
wait it is made ready, too, and leaves as soon as the one before is confirmed. What Postgres does not confirm goes into
the outbox, and so does whatever follows of that user until the outbox has been emptied.
"""

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from hybrid_memory.errors import HybridMemoryError, StorageRejected, StorageUnavailable
from hybrid_memory.postgres.batches import Applied, Operation
from hybrid_memory.replication.batching import Applies, Write
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.queue import Queue, Queued, stored_for_sure
from hybrid_memory.replication.requests import (
    FEWEST_AHEAD,
    Answer,
    Call,
    Chosen,
    Request,
    Waiting,
    answer,
    fail,
    operations_of,
    waitable,
    without,
)
from hybrid_memory.replication.turns import Overtaken, Turn

MOST_USERS = 32
MOST_CALLS = 4
# Fewer in a call cost more for the calls than they gain by being worked for at the same time.
FEWEST_USERS = 16
# Where a batch takes longer for each of its operations, two of half the size take longer than what is won by making one
# ready while the other is on its way.
QUICK_SECONDS = 0.0003


class Writer:
    """The one writer of an instance. Belongs to the event loop that uses it.

    Postgres is asked to give back what was written of the users that `shown` says are of interest here. Without a
    queue, what Postgres does not confirm is not acknowledged. Of `most_under_way` batches of a user one is on its way,
    and the others are made ready meanwhile.
    """

    def __init__(  # noqa: PLR0913 - what it writes to, and how
        self,
        batches: Applies,
        instance_id: str,
        clock: HybridClock,
        *,
        queue: Queue | None = None,
        shown: Callable[[str], bool] = lambda _: False,
        most_under_way: int = 1,
    ) -> None:
        self._batches = batches
        self._queue = queue
        self._shown = shown
        self._most_under_way = most_under_way
        self._instance_id = instance_id
        self._clock = clock
        self._users: dict[str, Waiting] = {}
        self._ready: dict[str, Waiting] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._waking = False
        self._is_quick = True
        self._closed = False

    async def write(self, user_id: str, writes: Sequence[Write]) -> Answer:
        """Write all of `writes` or none; returns when Postgres or the outbox has committed them.

        Raises:
            StorageUnavailable: neither confirmed them.
            StorageRejected: Postgres refused one of them; the others of this call are not written either.
            OutboxFull: Postgres does not answer, and no more can wait for it.
        """
        if self._closed:
            raise StorageUnavailable("this manager is closed")
        user = self._user(user_id)
        request = Request(user_id, tuple(map(self._stamped, writes)), asyncio.get_running_loop().create_future())
        user.requests.append(request)
        if user.may_be_sent:
            self._ready[user_id] = user
            self._wake()
        # A caller that gives up ends its own future only; its writes are on their way with its neighbours'.
        return await request.answer

    async def drained(self) -> None:
        """Wait until nothing is waiting or under way."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def close(self) -> None:
        """Take nothing new, and finish what was taken."""
        self._closed = True
        await self.drained()

    def would_queue(self, user_id: str) -> bool:
        """Whether a write of now would probably go into the outbox."""
        return self._queue is not None and (self._queue.may_hold(user_id) or not self._queue.answering())

    @asynccontextmanager
    async def standing_still(self, user_id: str) -> AsyncIterator[None]:
        """Nothing of a user is sent meanwhile, by this writer."""
        user = self._user(user_id)
        try:
            async with user.still:
                self._ready.pop(user_id, None)
                while user.under_way:
                    user.returned.clear()
                    await user.returned.wait()
                yield
        finally:
            if user.may_be_sent:
                self._ready[user_id] = user
                self._wake()

    @property
    def users(self) -> list[str]:
        """Whom this instance has written for."""
        return list(self._users)

    @property
    def waiting(self) -> int:
        """How many writes have not been confirmed yet."""
        return sum(len(request.writes) for user in self._users.values() for request in user.requests)

    def number(self, user_id: str) -> int:
        """The next number of a user, for an operation that takes another way."""
        user = self._user(user_id)
        user.next_number += 1
        return user.next_number - 1

    def _user(self, user_id: str) -> Waiting:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = Waiting(self._most_under_way)
        return user

    def _stamped(self, write: Write) -> Write:
        stamp = {"written_at": self._clock.stamp().isoformat(), "written_by": self._instance_id}
        return Write(write.kind, {**write.row, **stamp}, write.embeddings)

    def _number(self, chosen: Chosen) -> None:
        """Give the operations of requests that have certainly not taken effect numbers above all used before."""
        for user_id, requests in chosen.items():
            for request in requests:
                request.operations = tuple(
                    Operation(self.number(user_id), one.kind, one.row, one.embeddings) for one in request.writes
                )

    def _wake(self) -> None:
        """Have somebody send, once the callers that are ready now have all been heard."""
        if not self._waking and len(self._calls) < MOST_CALLS:
            self._waking = True
            task = asyncio.create_task(self._send())
            self._calls.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        if self._ready:
            self._wake()

    async def _send(self) -> None:
        """Send for users that nobody sends for, until nothing waits and nobody who was answered writes on at once."""
        self._waking = False
        while (call := self._next_call()) is not None:
            if self._ready:
                self._wake()
            try:
                await self._carry(call)
            finally:
                self._answered(call)
            if not self._ready and not self._waking:
                await self._hear()

    async def _hear(self) -> None:
        """Hear those who have been answered just now, which costs less than to be woken by them."""
        self._waking = True
        try:
            await asyncio.sleep(0)
        finally:
            self._waking = False

    def _next_call(self) -> Call | None:
        """For whom to send: this sender's share of the users, so that the server works for several at the same time.

        Users of whom nothing is on its way come first: in a call with the others they would have to wait.
        """
        ready = [user_id for user_id, user in self._ready.items() if not user.under_way] or list(self._ready)
        if not ready:
            return None
        senders = MOST_CALLS - len(self._calls) + 1
        share = max(FEWEST_USERS, math.ceil(len(ready) / senders))
        users = {user_id: self._ready.pop(user_id) for user_id in ready[: min(share, MOST_USERS)]}
        turn = Turn({before for user in users.values() for before in user.under_way})
        call = Call({user_id: user.taken(apart=self._is_quick) for user_id, user in users.items()}, turn)
        # In this order a user's batches leave, whatever else they wait for.
        self._number(call.requests)
        for user_id, user in users.items():
            user.under_way.append(turn)
            if user.may_be_sent:
                self._ready[user_id] = user
        return call

    def _answered(self, call: Call) -> None:
        """Nobody of a call waits on; its users may be sent for again."""
        fail(call.requests, StorageUnavailable("the write was interrupted", outcome_unknown=True))
        call.turn.pass_on(confirmed=False)
        for user_id in call.requests:
            user = self._users[user_id]
            user.under_way.remove(call.turn)
            user.returned.set()
            if user.may_be_sent:
                self._ready[user_id] = user

    async def _carry(self, call: Call) -> None:
        """Have a call applied, when it is its turn; one that is overtaken begins anew."""
        if not call.turn.is_ahead:
            await self._apply(call.requests, call.turn)
            return
        try:
            await self._send_now(call.requests, call.turn)
        except Overtaken:
            await self._apply(call.requests)

    async def _apply(self, chosen: Chosen, turn: Turn | None = None) -> None:
        """Send, or put behind what waits already."""
        behind = {user: requests for user, requests in chosen.items() if await self._waits(user)}
        if behind:
            await self._keep(behind, unknown=False)
            chosen, turn = {user: requests for user, requests in chosen.items() if user not in behind}, None
        if chosen:
            await self._send_now(chosen, turn)

    async def _waits(self, user_id: str) -> bool:
        return self._queue is not None and await self._queue.holds(user_id)

    async def _send_now(self, chosen: Chosen, turn: Turn | None) -> None:
        """Send; when something in it is refused, find the request at fault and send the others."""
        try:
            applied = await self._applied(chosen, turn)
        except StorageRejected as error:
            await self._send_apart(chosen, error)
        except StorageUnavailable as error:
            if self._queue is None:
                fail(chosen, error)
            else:
                await self._keep(chosen, unknown=error.outcome_unknown)
        except HybridMemoryError as error:
            fail(chosen, error)
        else:
            if turn is not None:
                # What is ready leaves before those are heard who are answered now.
                turn.pass_on(confirmed=True)
            for user, requests in chosen.items():
                for request in requests:
                    answer(request, applied[user])

    async def _send_apart(self, chosen: Chosen, error: StorageRejected) -> None:
        """Something was refused: send less at once, until it is known what."""
        parts = without(chosen, error)
        if not parts:
            fail(chosen, error)
        for part in parts:
            await self._apply(part)

    async def _applied(self, chosen: Chosen, turn: Turn | None) -> dict[str, Applied]:
        """Have it applied: under the numbers it was taken with, when it is its turn, or at once under new ones."""
        if turn is None:
            self._number(chosen)
        operations = operations_of(chosen)
        shown = [user for user in operations if self._shown(user)]
        when = functools.partial(self._come, chosen, turn) if turn is not None and turn.is_ahead else None
        applied = await self._batches.apply(operations, echo=shown, when=when)
        count = sum(map(len, operations.values()))
        if turn is not None and count >= FEWEST_AHEAD:
            self._is_quick = turn.seconds < count * QUICK_SECONDS
        return applied

    async def _come(self, chosen: Chosen, turn: Turn) -> None:
        """Wait for the turn of what is ready.

        Raises:
            Overtaken: it may not leave as it is.
        """
        await turn.come()
        for user_id in chosen:
            if await self._waits(user_id):
                raise Overtaken

    async def _keep(self, chosen: Chosen, *, unknown: bool) -> None:
        """Put requests into the outbox, but not those that depend on what is there now."""
        if self._queue is None:
            return
        error = StorageUnavailable("Postgres cannot compare versions now", outcome_unknown=unknown)
        chosen = {user: waitable(requests, error) for user, requests in chosen.items()}
        chosen = {user: requests for user, requests in chosen.items() if requests}
        if not unknown:
            self._number(chosen)
        operations = {
            user: [*many, *self._once_more(user, many)] if unknown else list(map(stored_for_sure, many))
            for user, many in operations_of(chosen).items()
        }
        try:
            await self._queue.put(operations)
        except HybridMemoryError as error:
            fail(chosen, error)
            return
        for user, requests in chosen.items():
            for request in requests:
                answer(request, Queued(user, self._instance_id, tuple(map(stored_for_sure, request.operations))))

    def _once_more(self, user_id: str, operations: Sequence[Operation]) -> list[Operation]:
        """What follows operations whose outcome is unknown, so that an acknowledged id exists in any case.

        Postgres may have found an identical memory and stored nothing under the new id, and will not say so again.
        """
        once = {one.row["node_id"] for one in operations if one.row.get("only_once")}
        again = [
            stored_for_sure(one)
            for one in operations
            if not once.isdisjoint({one.row.get("node_id"), one.row.get("from_node_id"), one.row.get("to_node_id")})
        ]
        return [replace(one, n=self.number(user_id)) for one in again]
