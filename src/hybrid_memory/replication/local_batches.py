"""Batches where there is no Postgres: applied to the rows in `state.db`, exactly once, as Postgres would."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.postgres.batches import Applied, Operation
from hybrid_memory.replication.local import applied_locally
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_rows import LocalRows, LocalState

# A process that has written nothing for a user this long sends nothing again.
_MARKS_KEPT = timedelta(days=30)


class LocalBatches:
    """Applies batches for one instance, which is one run of one process."""

    def __init__(self, state: Database, instance_id: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._state = state
        self._instance_id = instance_id
        self._clock = clock

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
        state = rows.state() or LocalState(str(uuid4()), 0, 0, 0, 0, now)
        before = rows.mark(self._instance_id)
        mark = max(before, operations[-1].n)
        fresh = [operation for operation in operations if operation.n > before]
        numbers = tuple(operation.n for operation in fresh)
        if mark == before:
            return Applied(user_id, state.incarnation, state.version, mark, numbers)
        version = state.version + 1
        applied = applied_locally(user_id, rows, fresh, now=now, version=version)
        for refusal in applied.refused:
            raise refusal.error(user_id)
        changes = applied.changes
        rows.keep(changes, version)
        rows.keep_state(
            replace(
                state,
                version=version,
                node_count=state.node_count + changes.node_count,
                relationship_count=state.relationship_count + changes.relationship_count,
                entity_count=state.entity_count + changes.entity_count,
                last_activity=now,
            )
        )
        if before == 0:
            rows.forget_marks(now - _MARKS_KEPT)
        rows.keep_mark(self._instance_id, mark, now)
        written = applied.written if echo else None
        return Applied(user_id, state.incarnation, version, mark, numbers, applied.same, written)
