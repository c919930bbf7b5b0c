"""Batches where there is no Postgres: applied to the rows in `state.db`, exactly once, as Postgres would."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from uuid import uuid4

from hybrid_memory.errors import StorageRejected
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.postgres.batches import Applied, Operation
from hybrid_memory.replication.batching import in_batches
from hybrid_memory.replication.local import LocallyApplied, applied_locally
from hybrid_memory.replication.merging import is_stub
from hybrid_memory.replication.queue import Queue
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_rows import LocalRows, LocalState

# A process that has written nothing for a user this long sends nothing again.
_MARKS_KEPT = timedelta(days=30)


class NotHere(StorageRejected):
    """A user has no memory here, and none may begin: it was moved to Postgres."""


class LocalBatches:
    """Applies batches for one instance, which is one run of one process.

    A user's first batch begins a memory here, if `may_begin` says that one may.
    """

    def __init__(
        self,
        state: Database,
        instance_id: str,
        clock: Callable[[], datetime] = utc_now,
        *,
        may_begin: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._state = state
        self._instance_id = instance_id
        self._clock = clock
        self._may_begin = may_begin

    async def apply(
        self,
        batches: Mapping[str, Sequence[Operation]],
        *,
        echo: Collection[str] = (),
        timeout: float | None = None,
    ) -> dict[str, Applied]:
        """Apply each user's operations, all or none of them, and say how far each user is.

        Within a user's batch a key appears once per kind, and a node that is deleted is not put again. For the users
        in `echo` it also says what was written.

        Raises:
            StorageUnavailable: sending the same batches again is safe, whatever became of them.
            StorageRejected: an operation can never be applied; nothing of the call was.
            NotHere: a user's memory is not here; nothing of the call was applied.
        """

        def job(sql: Statements) -> dict[str, Applied]:
            return {
                user_id: self._apply(LocalRows(sql, user_id), user_id, operations, echo=user_id in echo)
                for user_id, operations in batches.items()
            }

        return await self._state.write(job, timeout=timeout)

    def _apply(self, rows: LocalRows, user_id: str, operations: Sequence[Operation], *, echo: bool) -> Applied:
        # Once the file is ours: a later version has a later time.
        now = self._clock()
        state = rows.state() or self._begun(rows, user_id, operations, now)
        before = rows.mark(self._instance_id)
        mark = max(before, operations[-1].n)
        fresh = [operation for operation in operations if operation.n > before]
        numbers = tuple(operation.n for operation in fresh)
        if mark == before:
            return Applied(user_id, state.incarnation, state.version, mark, numbers, place="local")
        applied = applied_locally(user_id, rows, fresh, now=now, version=state.version + 1)
        for refusal in applied.refused:
            raise refusal.error(user_id)
        state = _keep(rows, state, applied, now)
        if before == 0:
            rows.forget_marks(now - _MARKS_KEPT)
        rows.keep_mark(self._instance_id, mark, now)
        written = applied.written if echo else None
        return Applied(user_id, state.incarnation, state.version, mark, numbers, applied.same, written, place="local")

    def _begun(self, rows: LocalRows, user_id: str, operations: Sequence[Operation], now: datetime) -> LocalState:
        if not self._may_begin(user_id):
            error = NotHere(f"the memory of user {user_id!r} is in Postgres")
            error.operation = (user_id, operations[0].n)
            raise error
        # Half of a copy may be here, whose making was interrupted.
        rows.forget_everything()
        return _new(now)


async def take_in_queue(state: Database, queue: Queue, user_id: str, clock: Callable[[], datetime] = utc_now) -> None:
    """Apply what waits in the outbox here too, where the user's memory is; Postgres still gets it, and counts it then.

    What was taken in before is left out, and so is what Postgres would refuse.
    """
    if not queue.may_hold(user_id):
        return
    waiting = await queue.of_user(user_id)
    runs = [(run, [one for _, one in many]) for run, many in groupby(waiting, itemgetter(0))]

    def job(sql: Statements) -> None:
        rows, now = LocalRows(sql, user_id), clock()
        for run, operations in runs:
            before = rows.mark(run)
            for batch in in_batches(one for one in operations if one.n > before):
                state = rows.state()
                if state is None:
                    rows.forget_everything()
                    state = _new(now)
                applied = applied_locally(user_id, rows, batch, now=now, version=state.version + 1)
                _keep(rows, state, applied, now)
                for one in _counted_by_postgres(batch, applied):
                    if rows.node(one.row["node_id"]) is not None:
                        rows.counts_elsewhere(one.row["node_id"], one.row.get("reports", 1), one.row.get("reads", 0))
            rows.keep_mark(run, max(before, operations[-1].n), now)

    await state.write(job)


def _new(now: datetime) -> LocalState:
    return LocalState(str(uuid4()), 0, 0, 0, 0, now)


def _keep(rows: LocalRows, state: LocalState, applied: LocallyApplied, now: datetime) -> LocalState:
    """Store what a batch does; where the user's memory stands then."""
    changes = applied.changes
    state = replace(
        state,
        version=state.version + 1,
        is_copy=False,
        node_count=state.node_count + changes.node_count,
        relationship_count=state.relationship_count + changes.relationship_count,
        entity_count=state.entity_count + changes.entity_count,
        last_activity=now,
    )
    rows.keep(changes, state.version)
    rows.keep_state(state)
    return state


def _counted_by_postgres(operations: Iterable[Operation], applied: LocallyApplied) -> list[Operation]:
    """Operations that add to a count when Postgres applies them."""
    refused = {refusal.n for refusal in applied.refused}
    return [
        one
        for one in operations
        if one.n not in refused
        and (one.kind == "counts" or (one.kind == "entities" and not is_stub(one.row["metadata"])))
    ]
