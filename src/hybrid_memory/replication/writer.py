"""The write-through: numbers operations, sends neighbours together, and answers each caller for its own.

Operations of one user are numbered and leave in the order in which they come, one batch at a time; users travel side by
side. While a batch is on its way the next one gathers, so the busier it is, the more share a round trip. What Postgres
does not confirm goes into the outbox, and so does whatever follows of that user until the outbox has been emptied.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

from hybrid_memory.errors import HybridMemoryError, StorageRejected, StorageUnavailable
from hybrid_memory.postgres.batches import IF_VERSION, Applied, Operation
from hybrid_memory.replication.batching import Applies, Batch, Write
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.queue import Queue, Queued, stored_for_sure

MOST_USERS = 32
MOST_CALLS = 4
# Fewer in a call cost more for the calls than they gain by being worked for at the same time.
FEWEST_USERS = 16

Answer = Applied | Queued


@dataclass(slots=True)
class _Request:
    """One caller's writes, which succeed or fail together, and where its answer goes."""

    user_id: str
    writes: tuple[Write, ...]
    answer: "asyncio.Future[Answer]"
    operations: tuple[Operation, ...] = ()


@dataclass(slots=True)
class _Waiting:
    """What one user waits for. Nothing is sent while somebody holds him still, who waits for `returned` first.

    `holders` are those who hold him and those who are about to.
    """

    requests: deque[_Request] = field(default_factory=deque)
    under_way: bool = False
    still: asyncio.Lock = field(default_factory=asyncio.Lock)
    returned: asyncio.Event = field(default_factory=asyncio.Event)
    holders: int = 0

    @property
    def may_be_sent(self) -> bool:
        return bool(self.requests) and not self.under_way and not self.still.locked()

    @property
    def is_idle(self) -> bool:
        return not self.requests and not self.under_way and not self.holders


class Writer:
    """The one writer of an instance. Belongs to the event loop that uses it.

    Postgres is asked to give back what was written of the users that `shown` says are of interest here. Without a
    queue, what Postgres does not confirm is not acknowledged.
    """

    def __init__(
        self,
        batches: Applies,
        instance_id: str,
        clock: HybridClock,
        *,
        queue: Queue | None = None,
        shown: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._batches = batches
        self._queue = queue
        self._shown = shown
        self._instance_id = instance_id
        self._clock = clock
        self._users: dict[str, _Waiting] = {}
        # Kept for good, of whomever this instance has written for.
        self._next_numbers: dict[str, int] = {}
        self._ready: dict[str, _Waiting] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._waking = False
        self._closed = False
        self.on_unheard: Callable[[Answer], None] = lambda _: None
        """Called with what became of a write whose caller has given up meanwhile."""

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
        request = _Request(user_id, tuple(map(self._stamped, writes)), asyncio.get_running_loop().create_future())
        user.requests.append(request)
        if user.may_be_sent:
            self._ready[user_id] = user
        self._wake()
        try:
            # A caller that gives up ends its own future only; its writes are on their way with its neighbours'.
            return await request.answer
        except asyncio.CancelledError:
            if not request.answer.cancelled() and request.answer.exception() is None:
                self.on_unheard(request.answer.result())
            raise

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
        user.holders += 1
        try:
            async with user.still:
                self._ready.pop(user_id, None)
                while user.under_way:
                    user.returned.clear()
                    await user.returned.wait()
                yield
        finally:
            user.holders -= 1
            self._go_on(user_id, user)
            if self._ready:
                self._wake()

    @property
    def users(self) -> list[str]:
        """Whom this instance has written for."""
        return list(self._next_numbers)

    @property
    def waiting(self) -> int:
        """How many writes have not been confirmed yet."""
        return sum(len(request.writes) for user in self._users.values() for request in user.requests)

    def number(self, user_id: str) -> int:
        """The next number of a user, for an operation that takes another way."""
        number = self._next_numbers.get(user_id, 1)
        self._next_numbers[user_id] = number + 1
        return number

    def _user(self, user_id: str) -> _Waiting:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _Waiting()
        return user

    def _stamped(self, write: Write) -> Write:
        stamp = {"written_at": self._clock.stamp().isoformat(), "written_by": self._instance_id}
        return Write(write.kind, {**write.row, **stamp}, write.embeddings)

    def _number(self, chosen: Mapping[str, list[_Request]]) -> None:
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
        while chosen := self._chosen():
            if self._ready:
                self._wake()
            try:
                await self._apply(chosen)
            finally:
                self._answered(chosen)
            if not self._ready and not self._waking:
                await self._hear()

    async def _hear(self) -> None:
        """Hear those who have been answered just now, which costs less than to be woken by them."""
        self._waking = True
        try:
            await asyncio.sleep(0)
        finally:
            self._waking = False

    def _chosen(self) -> dict[str, list[_Request]]:
        """For whom to send: this sender's share of the users, so that the server works for several at the same time."""
        senders = MOST_CALLS - len(self._calls) + 1
        share = max(FEWEST_USERS, math.ceil(len(self._ready) / senders))
        chosen = {}
        for user_id in list(islice(self._ready, min(share, MOST_USERS))):
            user = self._ready.pop(user_id)
            user.under_way = True
            chosen[user_id] = _next_requests(user.requests)
        return chosen

    def _answered(self, chosen: Mapping[str, list[_Request]]) -> None:
        """Nobody of a call waits on; its users may be sent for again."""
        _fail(chosen, StorageUnavailable("the write was interrupted", outcome_unknown=True))
        for user_id in chosen:
            user = self._users[user_id]
            user.under_way = False
            user.returned.set()
            self._go_on(user_id, user)

    def _go_on(self, user_id: str, user: _Waiting) -> None:
        """Let somebody send for a user again, or forget one for whom there is nothing to do."""
        if user.may_be_sent:
            self._ready[user_id] = user
        elif user.is_idle:
            self._users.pop(user_id, None)

    async def _apply(self, chosen: Mapping[str, list[_Request]]) -> None:
        """Send, or put behind what waits already."""
        behind = {user: requests for user, requests in chosen.items() if await self._waits(user)}
        if behind:
            await self._keep(behind, unknown=False)
            chosen = {user: requests for user, requests in chosen.items() if user not in behind}
        if chosen:
            await self._send_now(chosen)

    async def _waits(self, user_id: str) -> bool:
        return self._queue is not None and await self._queue.holds(user_id)

    async def _send_now(self, chosen: Mapping[str, list[_Request]]) -> None:
        """Send; when something in it is refused, find the request at fault and send the others."""
        self._number(chosen)
        try:
            operations = _operations(chosen)
            applied = await self._batches.apply(operations, echo=[user for user in operations if self._shown(user)])
        except StorageRejected as error:
            parts = _without(chosen, error)
            if not parts:
                _fail(chosen, error)
            for part in parts:
                await self._apply(part)
        except StorageUnavailable as error:
            if self._queue is None:
                _fail(chosen, error)
            else:
                await self._keep(chosen, unknown=error.outcome_unknown)
        except HybridMemoryError as error:
            _fail(chosen, error)
        else:
            for user, requests in chosen.items():
                for request in requests:
                    self._answer(request, applied[user])

    async def _keep(self, chosen: Mapping[str, list[_Request]], *, unknown: bool) -> None:
        """Put requests into the outbox, but not those that depend on what is there now."""
        if self._queue is None:
            return
        error = StorageUnavailable("Postgres cannot compare versions now", outcome_unknown=unknown)
        chosen = {user: _waitable(requests, error) for user, requests in chosen.items()}
        chosen = {user: requests for user, requests in chosen.items() if requests}
        if not unknown:
            self._number(chosen)
        operations = {
            user: [*many, *self._once_more(user, many)] if unknown else list(map(stored_for_sure, many))
            for user, many in _operations(chosen).items()
        }
        try:
            await self._queue.put(operations)
        except HybridMemoryError as error:
            _fail(chosen, error)
            return
        for user, requests in chosen.items():
            for request in requests:
                self._answer(request, Queued(user, self._instance_id, tuple(map(stored_for_sure, request.operations))))

    def _answer(self, request: _Request, answer: Answer) -> None:
        if request.answer.cancelled():
            self.on_unheard(answer)
        elif not request.answer.done():
            request.answer.set_result(answer)

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


def _operations(chosen: Mapping[str, list[_Request]]) -> dict[str, list[Operation]]:
    return {user: [one for request in requests for one in request.operations] for user, requests in chosen.items()}


def _next_requests(waiting: deque[_Request]) -> list[_Request]:
    """The requests that may share a statement, at least one."""
    batch, requests = Batch(), []
    while waiting and batch.takes([(write.kind, write.row) for write in waiting[0].writes]):
        requests.append(waiting.popleft())
    return requests


def _without(chosen: Mapping[str, list[_Request]], error: StorageRejected) -> list[dict[str, list[_Request]]]:
    """Smaller calls to try instead of a refused one, in order; none when it was one request, which is at fault.

    The order matters: once a later number is applied, an earlier one counts as a repeat.
    """
    if len(chosen) > 1:
        if error.operation is None or error.operation[0] not in chosen:
            return [{user: requests} for user, requests in chosen.items()]
        at_fault = error.operation[0]
        others = {user: requests for user, requests in chosen.items() if user != at_fault}
        return [others, {at_fault: chosen[at_fault]}]
    ((user, requests),) = chosen.items()
    if len(requests) == 1:
        return []
    first, last = 0, len(requests) // 2
    if error.operation is not None:
        number = error.operation[1]
        first = next((place for place, one in enumerate(requests) if one.operations[-1].n >= number), 0)
        last = first + 1
    parts = (requests[:first], requests[first:last], requests[last:])
    return [{user: part} for part in parts if part]


def _waitable(requests: Sequence[_Request], error: StorageUnavailable) -> list[_Request]:
    """The requests that may be written later, too; the others get the error."""
    guarded = [one for one in requests if any(IF_VERSION in write.row for write in one.writes)]
    _fail({one.user_id: guarded for one in guarded}, error)
    return [one for one in requests if one not in guarded]


def _fail(chosen: Mapping[str, list[_Request]], error: HybridMemoryError) -> None:
    for requests in chosen.values():
        for request in requests:
            if not request.answer.done():
                request.answer.set_exception(error)
