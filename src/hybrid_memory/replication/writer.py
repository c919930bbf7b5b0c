"""The write-through: numbers operations, sends neighbours together, and answers each caller for its own.

Operations of one user are numbered as they come and leave in that order, one batch at a time; users travel side by
side. While a batch is on its way the next one gathers, so the busier it is, the more share a round trip.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hybrid_memory.errors import HybridMemoryError, StorageRejected, StorageUnavailable
from hybrid_memory.postgres.batches import Applied, Batches, Embedding, Kind, Operation
from hybrid_memory.replication.clock import HybridClock

MOST_OPERATIONS = 128
MOST_USERS = 32
MOST_CALLS = 4
_ENDS = ("node_id", "from_node_id", "to_node_id")


@dataclass(frozen=True, slots=True)
class Write:
    """What a caller wants written: the columns of a row, before it has a number and a time."""

    kind: Kind
    row: Mapping[str, Any]
    embeddings: tuple[Embedding, ...] = ()


@dataclass(slots=True)
class _Request:
    """One caller's writes, which succeed or fail together, and where its answer goes."""

    user_id: str
    operations: tuple[Operation, ...]
    answer: "asyncio.Future[Applied]"


@dataclass(slots=True)
class _Queue:
    """What one user waits for."""

    waiting: deque[_Request] = field(default_factory=deque)
    next_number: int = 1
    under_way: bool = False


class Writer:
    """The one writer of an instance. Belongs to the event loop that uses it.

    Postgres is asked to give back what was written of the users that `shown` says are held in this process.
    """

    def __init__(
        self,
        batches: Batches,
        instance_id: str,
        clock: HybridClock,
        *,
        shown: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._batches = batches
        self._shown = shown
        self._instance_id = instance_id
        self._clock = clock
        self._queues: dict[str, _Queue] = {}
        self._ready: dict[str, _Queue] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._waking = False
        self._closed = False

    async def write(self, user_id: str, writes: Sequence[Write]) -> Applied:
        """Write all of `writes` or none; returns when Postgres has committed them.

        Raises:
            StorageUnavailable: Postgres did not confirm them.
            StorageRejected: Postgres refused one of them; the others of this call are not written either.
        """
        if self._closed:
            raise StorageUnavailable("this manager is closed")
        queue = self._queues.setdefault(user_id, _Queue())
        operations = tuple(self._numbered(queue, write) for write in writes)
        request = _Request(user_id, operations, asyncio.get_running_loop().create_future())
        queue.waiting.append(request)
        if not queue.under_way:
            self._ready[user_id] = queue
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

    @property
    def users(self) -> list[str]:
        """Whom this instance has written for."""
        return list(self._queues)

    @property
    def waiting(self) -> int:
        """How many operations have not been confirmed yet."""
        return sum(len(one.operations) for queue in self._queues.values() for one in queue.waiting)

    def _numbered(self, queue: _Queue, write: Write) -> Operation:
        stamp = {"written_at": self._clock.stamp().isoformat(), "written_by": self._instance_id}
        operation = Operation(queue.next_number, write.kind, {**write.row, **stamp}, write.embeddings)
        queue.next_number += 1
        return operation

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
        """Send for users that nobody sends for, until nothing waits."""
        self._waking = False
        while chosen := self._chosen():
            if self._ready:
                self._wake()
            try:
                await self._apply(chosen)
            finally:
                self._answered(chosen)

    def _chosen(self) -> dict[str, list[_Request]]:
        chosen = {}
        for user in list(islice(self._ready, MOST_USERS)):
            queue = self._ready.pop(user)
            queue.under_way = True
            chosen[user] = _next_batch(queue.waiting)
        return chosen

    def _answered(self, chosen: Mapping[str, list[_Request]]) -> None:
        """Nobody of a call waits on; its users may be sent for again."""
        for user, requests in chosen.items():
            for request in requests:
                if not request.answer.done():
                    request.answer.set_exception(StorageUnavailable("the write was interrupted", outcome_unknown=True))
            queue = self._queues[user]
            queue.under_way = False
            if queue.waiting:
                self._ready[user] = queue

    async def _apply(self, chosen: Mapping[str, list[_Request]]) -> None:
        """Send; when something in it is refused, find the request at fault and send the others."""
        try:
            operations = {
                user: [one for request in requests for one in request.operations] for user, requests in chosen.items()
            }
            applied = await self._batches.apply(operations, echo=[user for user in operations if self._shown(user)])
        except StorageRejected as error:
            parts = _without(chosen, error)
            if not parts:
                _fail(chosen, error)
            for part in parts:
                await self._apply(part)
        except HybridMemoryError as error:
            _fail(chosen, error)
        else:
            for user, requests in chosen.items():
                for request in requests:
                    if not request.answer.done():
                        request.answer.set_result(applied[user])


def key_of(row: Mapping[str, Any]) -> object:
    """What a row is stored under: its id, or the ends and the type of a relationship."""
    return row["node_id"] if "node_id" in row else (row["from_node_id"], row["to_node_id"], row["relationship_type"])


def _next_batch(waiting: deque[_Request]) -> list[_Request]:
    """The requests that may share a statement, at least one.

    A key appears once, because a statement touches a row once; and because deletions run last, nothing that mentions
    a deleted node follows its deletion.
    """
    batch: list[_Request] = []
    keys: set[object] = set()
    deleted: set[object] = set()
    count = 0
    while waiting:
        operations = waiting[0].operations
        new = {key for operation in operations for key in _keys(operation)}
        mentioned = {row.get(end) for row in (one.row for one in operations) for end in _ENDS}
        count += len(operations)
        if batch and (count > MOST_OPERATIONS or keys & new or deleted & mentioned):
            break
        keys |= new
        deleted |= {operation.row["node_id"] for operation in operations if operation.kind == "deletes"}
        batch.append(waiting.popleft())
    return batch


def _keys(operation: Operation) -> list[object]:
    """What an operation writes to; a deleted node and the same node put again share a key.

    Equal contents that are to be stored once do not meet in a statement either: the second has to find the first.
    """
    row = operation.row
    twins = [(row["context_type"], row["content_hash"])] if row.get("only_once") else []
    return [key_of(row), *twins]


def _without(chosen: Mapping[str, list[_Request]], error: StorageRejected) -> list[dict[str, list[_Request]]]:
    """Smaller calls to try instead of a refused one, in order; none when it was one request, which is at fault.

    The order matters: once a later number is applied, an earlier one counts as a repeat.
    """
    if len(chosen) > 1:
        return [{user: requests} for user, requests in chosen.items()]
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


def _fail(chosen: Mapping[str, list[_Request]], error: HybridMemoryError) -> None:
    for requests in chosen.values():
        for request in requests:
            if not request.answer.done():
                request.answer.set_exception(error)
