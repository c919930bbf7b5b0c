"""Users move from `state.db` to Postgres, when there is one and they are to be persisted to it.

While he is being moved a user lives in `state.db` as before, however often that is interrupted. Postgres is told what
changed since the last time until there is nothing more; in one commit his rows go, and with it what only counts is put
into the outbox. From then on he is at home in Postgres.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from hybrid_memory.background import Background
from hybrid_memory.errors import HybridMemoryError, StorageRejected, StorageUnavailable
from hybrid_memory.graph.user_graph import Clock, utc_now
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.at_home import WriterAtHome
from hybrid_memory.memory.homes import Homes
from hybrid_memory.memory.identity import new_id
from hybrid_memory.memory.places import Tidying
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Operation
from hybrid_memory.replication.batching import Applies, in_batches
from hybrid_memory.replication.queue import Queue, queued
from hybrid_memory.replication.uploading import counts_of, operations_of
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.leases import Leases
from hybrid_memory.sqlite.local_leaving import MOST_ROWS, leave, next_portion, note_delivered, rows_left
from hybrid_memory.sqlite.local_rows import Counted, LocalState
from hybrid_memory.sqlite.outbox import Outbox

UPLOAD = "upload"
LEASE = "moving"
LEASE_SECONDS = 60.0
_EVERY_SECONDS = 30.0
_JOB_SECONDS = 86_400.0
_MOST_FAILURES = 3
_ROWS_BETWEEN_REPORTS = 10_000

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class _Upload:
    """How far one user's move is."""

    user_id: str
    run: str
    expected: int
    numbers: "count[int]" = field(default_factory=lambda: count(1))
    sent: int = 0

    def count(self, rows: int) -> bool:
        """More rows were sent; whether that is worth a report."""
        before, self.sent = self.sent, self.sent + rows
        return self.sent // _ROWS_BETWEEN_REPORTS > before // _ROWS_BETWEEN_REPORTS


class Moving:
    """The moves of one manager's users. Belongs to its loop; of the processes on one directory one moves at a time."""

    def __init__(
        self,
        state: Database,
        *,
        homes: Homes,
        sessions: Sessions,
        accesses: Accesses,
        writer: WriterAtHome,
        queue: Queue,
        outbox: Outbox,
        leases: Leases,
        postgres: Callable[[str], Applies],
        tidying: Tidying,
        owner: str,
        events: Events,
        clock: Clock = utc_now,
    ) -> None:
        self._state = state
        self._homes = homes
        self._sessions = sessions
        self._accesses = accesses
        self._writer = writer
        self._queue = queue
        self._outbox = outbox
        self._leases = leases
        self._postgres = postgres
        self._tidying = tidying
        self._owner = owner
        self._events = events
        self._clock = clock
        self._moving = asyncio.Lock()
        self._moved = 0
        self._listeners: list[Progress] = []

    def schedule(self, background: Background) -> None:
        """Move whoever is to be moved: soon, and now and then."""
        background.repeat(UPLOAD, self._upload_if_possible, every=_EVERY_SECONDS, deadline=_JOB_SECONDS)
        background.ask(UPLOAD)

    async def upload(self, progress: Progress | None = None) -> int:
        """Move everybody who is to be moved; how many left meanwhile.

        Args:
            progress: called with the user, and how many of how many rows have been sent.

        Raises:
            StorageUnavailable: Postgres does not answer, or another process is at it.
        """
        if not await self._homes.to_be_moved():
            return 0
        if not self._queue.answering():
            raise StorageUnavailable("Postgres does not answer: users stay in state.db for now")
        moved_before = self._moved
        self._listeners += [] if progress is None else [progress]
        try:
            async with self.alone():
                await self._move_all()
        finally:
            self._listeners = [one for one in self._listeners if one is not progress]
        return self._moved - moved_before

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Meanwhile nobody else moves users, as long as `lead` is asked now and then.

        Raises:
            StorageUnavailable: another process is at it.
        """
        async with self._moving:
            if not await self.lead():
                raise StorageUnavailable("another process is moving users")
            try:
                yield
            finally:
                await self._leases.release(LEASE, self._owner)

    async def drained(self, background: Background) -> None:
        """Wait until nobody is to be moved."""
        while await self._homes.to_be_moved():
            await background.ask(UPLOAD)
            # Another process may be at it, or Postgres away for a moment.
            await asyncio.sleep(0.05)

    async def lead(self) -> bool:
        """Whether this process is the one that moves, for a while from now on."""
        return await self._leases.take(LEASE, self._owner, LEASE_SECONDS, self._clock())

    async def _upload_if_possible(self) -> None:
        if self._queue.answering():
            # Where another process is at it there is nothing to do.
            with suppress(StorageUnavailable):
                await self.upload()

    async def _move_all(self) -> None:
        failures = 0
        for user_id in await self._homes.to_be_moved():
            try:
                await self._move(user_id)
            except HybridMemoryError as error:
                failures += 1
                self._events.warning("local_memories_not_uploaded", user_id=user_id, error=str(error))
                if failures == _MOST_FAILURES or not self._queue.answering():
                    raise
            else:
                self._moved, failures = self._moved + 1, 0

    async def _move(self, user_id: str) -> None:
        expected = await self._state.read(lambda sql: rows_left(sql, user_id))
        upload = _Upload(user_id, new_id(), expected)
        start = time.perf_counter()
        while True:
            # Somebody who writes all the time cannot be caught up with; until it is little he does not have to wait.
            while await self._send_portion(upload) >= MOST_ROWS:
                pass
            async with self._writer.local.standing_still(user_id):
                while await self._send_portion(upload):
                    pass
                if await self._left(user_id):
                    break
        self._queue.on_put()
        with suppress(HybridMemoryError):
            await self._tidying.forget_watermarks([user_id], upload.run)
        duration = round((time.perf_counter() - start) * 1000, 3)
        self._events.info("local_memories_uploaded", user_id=user_id, rows=upload.sent, duration_ms=duration)

    async def _send_portion(self, upload: "_Upload") -> int:
        """Send what is next of what Postgres does not have; how many rows and deletions, 0 when it has everything."""
        user_id = upload.user_id
        portion = await self._state.read(partial(next_portion, user_id=user_id))
        if portion is None:
            return 0
        if not await self.lead():
            raise StorageUnavailable("another process has begun to move users")
        target = self._postgres(upload.run)
        for batch in in_batches(operations_of(portion, upload.numbers)):
            await self._send(user_id, upload.run, target, batch)
        await self._state.write(partial(note_delivered, user_id=user_id, portion=portion))
        is_much = upload.count(len(portion.nodes) + len(portion.relationships))
        for listener in self._listeners:
            listener(user_id, min(upload.sent, upload.expected), upload.expected)
        if is_much:
            self._events.info("upload_progress", user_id=user_id, rows=upload.sent, expected=upload.expected)
        return portion.size

    async def _send(self, user_id: str, run: str, target: Applies, operations: Sequence[Operation]) -> None:
        """Send a batch; an operation that Postgres refuses is set aside where all such operations are."""
        try:
            await target.apply({user_id: operations})
        except StorageRejected as error:
            if len(operations) > 1:
                middle = len(operations) // 2
                for part in (operations[:middle], operations[middle:]):
                    await self._send(user_id, run, target, part)
                return
            (operation,), now = operations, self._clock()
            reason = f"{error}" if error.sqlstate is None else f"{error} [{error.sqlstate}]"
            refused = replace(queued(user_id, None, run, operation, now), quarantined_at=now, reason=reason)
            await self._outbox.put([refused])
            self._events.error(
                "outbox_operation_quarantined",
                user_id=user_id,
                instance_id=run,
                number=operation.n,
                kind=operation.kind,
                reason=reason,
            )

    async def _left(self, user_id: str) -> bool:
        """Remove the user's rows if Postgres has all of them; False when another process wrote in the meantime."""
        await self._accesses.write_of(user_id)
        # Before they are there: whatever is written afterwards goes behind them.
        self._queue.expect(user_id)
        if not await self._state.write(partial(leave, user_id=user_id, counts=partial(self._put_counts, user_id))):
            return False
        self._homes.left(user_id)
        await self._sessions.moved(user_id)
        return True

    def _put_counts(self, user_id: str, sql: Statements, state: LocalState, counted: list[Counted]) -> None:
        now = self._clock()
        run, operations = counts_of(state.incarnation, counted, now)
        self._outbox.put_within(sql, [queued(user_id, None, run, one, now) for one in operations])
