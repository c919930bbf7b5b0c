"""What waits for Postgres: writes acknowledged into the outbox, in the order in which they were numbered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import cast

from hybrid_memory.postgres.batches import Embedding, Kind, Operation
from hybrid_memory.sqlite.outbox import Outbox
from hybrid_memory.sqlite.queued import QueuedOperation


@dataclass(frozen=True, slots=True)
class Queued:
    """The answer to a write that is durable here and will reach Postgres later."""

    user_id: str
    instance_id: str
    operations: tuple[Operation, ...]
    same: Mapping[str, str] = field(default_factory=dict)
    """Nothing: an identical memory is looked for before a write is queued."""


class Queue:
    """The outbox as this process sees it: whose later writes have to wait behind earlier ones."""

    def __init__(
        self, outbox: Outbox, instance_id: str, *, answering: Callable[[], bool], now: Callable[[], datetime]
    ) -> None:
        self._outbox = outbox
        self._instance_id = instance_id
        self._now = now
        self.answering = answering
        """Whether Postgres takes writes, as far as is known."""
        self.on_put: Callable[[], object] = lambda: None
        """Called when something has been kept."""
        self.incarnation_of: Callable[[str], str | None] = lambda _: None
        """Which incarnation of a user this process knows, if it knows one."""
        self._users: set[str] = set()

    async def open(self) -> None:
        """See what earlier processes have left."""
        self._users = await self._outbox.users_with_queued()

    @property
    def users(self) -> frozenset[str]:
        """Of whom something waits, as far as this process knows."""
        return frozenset(self._users)

    def may_hold(self, user_id: str) -> bool:
        """Whether something of the user waits, as far as this process knows."""
        return user_id in self._users

    def expect(self, user_id: str) -> None:
        """Something of the user is about to be put there: what is written from now on goes behind it."""
        self._users.add(user_id)

    async def has_emptied(self, user_id: str) -> bool:
        """Whether nothing of the user waits in the file, at this moment."""
        return not await self._outbox.waits(user_id)

    async def still_holds(self, user_id: str) -> bool:
        """The same, after a look into the file where something may wait: another process may have sent it."""
        return self.may_hold(user_id) and not await self.has_emptied(user_id)

    async def holds(self, user_id: str) -> bool:
        """Whether something of the user waits, so that what is written now goes behind it.

        For the writer alone, while it puts nothing of that user: what is on its way into the file is not there yet.
        """
        if user_id in self._users and await self.has_emptied(user_id):
            self._users.discard(user_id)
        return user_id in self._users

    async def put(self, operations: Mapping[str, Sequence[Operation]]) -> None:
        """Keep operations of this process, each behind those of its user that wait already.

        Raises:
            OutboxFull: there is no room; nothing was kept.
            StorageUnavailable: they could not be kept.
        """
        now = self._now()
        # Before they are durable: what is written meanwhile goes behind them in any case.
        self._users.update(operations)
        await self._outbox.put(
            [
                queued(user_id, self.incarnation_of(user_id), self._instance_id, one, now)
                for user_id, many in operations.items()
                for one in many
            ]
        )
        self.on_put()

    async def requeue(self, user_id: str, operations: Sequence[QueuedOperation], number: Callable[[str], int]) -> int:
        """Put operations from quarantine behind whatever waits of their user; how many could be.

        Nothing of the user may be on its way meanwhile: what has a later number must not arrive first.
        """
        self._users.add(user_id)
        count = await self._outbox.requeue(operations, self._instance_id, number, self._now())
        self.on_put()
        return count

    async def of_user(self, user_id: str) -> list[tuple[str, Operation]]:
        """What waits of a user, each with the run it belongs to."""
        return [(one.instance_id, operation_of(one)) for one in await self._outbox.of_user(user_id)]


def queued(
    user_id: str, incarnation: str | None, instance_id: str, operation: Operation, now: datetime
) -> QueuedOperation:
    """An operation as the outbox keeps it."""
    return QueuedOperation(
        user_id=user_id,
        incarnation=incarnation,
        instance_id=instance_id,
        n=operation.n,
        kind=operation.kind,
        row=dict(operation.row),
        embeddings=[asdict(embedding) for embedding in operation.embeddings],
        queued_at=now,
    )


def operation_of(one: QueuedOperation) -> Operation:
    """The operation that was queued."""
    embeddings = tuple(Embedding(**embedding) for embedding in one.embeddings)
    return Operation(one.n, cast("Kind", one.kind), one.row, embeddings)


def stored_for_sure(operation: Operation) -> Operation:
    """The same, under its own id even where an identical memory is there already: that id has been acknowledged."""
    if not operation.row.get("only_once"):
        return operation
    return replace(operation, row=dict(operation.row) | {"only_once": False})
