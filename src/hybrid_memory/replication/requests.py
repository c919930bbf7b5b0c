"""What callers want written: who waits for an answer, and which of them leave together."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hybrid_memory.errors import HybridMemoryError, StorageRejected
from hybrid_memory.postgres.batches import IF_VERSION, Applied, Operation
from hybrid_memory.replication.batching import Batch, Write
from hybrid_memory.replication.queue import Queued
from hybrid_memory.replication.turns import Turn

# Of so many callers of a user, half may go first.
FEWEST_APART = 16
# So many are made ready while others are on their way.
FEWEST_AHEAD = 8

Answer = Applied | Queued


@dataclass(slots=True)
class Request:
    """One caller's writes, which succeed or fail together, and where its answer goes."""

    user_id: str
    writes: tuple[Write, ...]
    answer: "asyncio.Future[Answer]"
    operations: tuple[Operation, ...] = ()


Chosen = Mapping[str, Sequence[Request]]


@dataclass(slots=True)
class Call:
    """Requests of several users that leave together, when it is their turn."""

    requests: Chosen
    turn: Turn


@dataclass(slots=True)
class Waiting:
    """What one user waits for. Nothing is sent while somebody holds him still, who waits for `returned` first.

    `under_way` are the batches that have been taken and have not returned, at most `most_under_way`.
    """

    most_under_way: int
    requests: deque[Request] = field(default_factory=deque)
    next_number: int = 1
    under_way: list[Turn] = field(default_factory=list)
    still: asyncio.Lock = field(default_factory=asyncio.Lock)
    returned: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def may_be_sent(self) -> bool:
        """Whether a batch can be taken: behind another one only where many wait."""
        if not self.requests or self.still.locked():
            return False
        return not self.under_way or (len(self.under_way) < self.most_under_way and len(self.requests) >= FEWEST_AHEAD)

    def taken(self, *, apart: bool) -> list[Request]:
        """The requests that leave next, at least one; `apart` half of many, where the others can be made ready."""
        most = len(self.requests)
        if apart and self.most_under_way > 1 and not self.under_way and most >= FEWEST_APART:
            most //= 2
        if most == 1:
            return [self.requests.popleft()]
        batch, requests = Batch(), list[Request]()
        while len(requests) < most and batch.takes([(one.kind, one.row) for one in self.requests[0].writes]):
            requests.append(self.requests.popleft())
        return requests


def operations_of(chosen: Chosen) -> dict[str, list[Operation]]:
    """All operations of each user."""
    return {user: [one for request in requests for one in request.operations] for user, requests in chosen.items()}


def without(chosen: Chosen, error: StorageRejected) -> list[Chosen]:
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


def waitable(requests: Sequence[Request], error: HybridMemoryError) -> list[Request]:
    """The requests that may be written later, too; the others get the error."""
    guarded = [one for one in requests if any(IF_VERSION in write.row for write in one.writes)]
    fail({one.user_id: guarded for one in guarded}, error)
    return [one for one in requests if one not in guarded]


def fail(chosen: Chosen, error: HybridMemoryError) -> None:
    """Whoever has no answer yet gets the error."""
    for requests in chosen.values():
        for request in requests:
            if not request.answer.done():
                request.answer.set_exception(error)


def answer(request: Request, given: Answer) -> None:
    """Its caller may have given up."""
    if not request.answer.done():
        request.answer.set_result(given)
