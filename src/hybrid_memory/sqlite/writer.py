"""The writer of a file: takes jobs, commits them in groups, answers, and keeps the WAL short.

There is one connection and one turn to use it. A thread of its own works off the inbox; a caller that would only wait
for that thread while nothing else is going on takes the turn itself and saves both ways.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import apsw

from hybrid_memory.sqlite import failures
from hybrid_memory.sqlite.connection import Connection, Statements
from hybrid_memory.sqlite.files import Kind
from hybrid_memory.sqlite.groups import TransactionLostError, Verdict, run_as_one, run_group
from hybrid_memory.sqlite.inbox import Inbox
from hybrid_memory.sqlite.pace import Pace
from hybrid_memory.sqlite.tickets import Ticket, tell

_MOST_JOBS_PER_COMMIT = 1000
# An append makes the WAL longer, which the disk takes much longer to keep than a page written over.
_BYTES_BEFORE_CHECKPOINT = 4 * 1024 * 1024
# Longer than this, the WAL grew behind a long reader: it is cut as soon as no reader needs it.
_BYTES_BEFORE_TRUNCATE = 16 * 1024 * 1024

Repair = Callable[[BaseException], Connection]
Guard = Callable[[], None]
Run = Callable[[Statements, Sequence[Ticket[Any]], Kind], Sequence[Verdict]]


class Writer:
    """The one connection that writes.

    `guard` is called before every group and raises when nothing may be committed now. `repair` is called when the file
    turns out to be damaged, after the connection is closed; it gives a connection to a healed file, on which the jobs
    run again, or raises what their callers are told.
    """

    def __init__(self, kind: Kind, connection: Connection, inbox: Inbox, *, guard: Guard, repair: Repair) -> None:
        self._kind = kind
        self._inbox = inbox
        self._guard = guard
        self._repair = repair
        self._turn = threading.Lock()
        self._working = 0
        self._wal_pages = 0
        self._has_written = False
        self._flushes = True
        self._pace = Pace()
        self._pages_per_checkpoint = _BYTES_BEFORE_CHECKPOINT // kind.page_bytes
        self._checkpoint_at = self._pages_per_checkpoint
        self._use(connection)
        self._thread = threading.Thread(target=self._work, name=f"hybrid-memory {kind.name}", daemon=True)
        self._thread.start()

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller is a job."""
        return threading.get_ident() == self._working

    def run_now(self, ticket: Ticket[Any], timeout: float) -> bool:
        """Run and commit a job in the caller's thread, if it is nobody else's turn in this process."""
        if self._inbox.queued or not self._turn.acquire(blocking=False):
            return False
        try:
            self._inbox.check_open()
            with self._connection.patience.at_most(timeout):
                self._work_off([ticket])
        finally:
            self._turn.release()
        return True

    def run_quickly(self, tickets: Sequence[Ticket[Any]]) -> bool:
        """Run and commit jobs in an event loop's thread, if that will hardly hold the loop up; False when not done."""
        # A WAL of twice the length at which the thread was called is one it gets no chance to copy.
        if not self._pace.is_quick() or self._wal_pages >= 2 * self._checkpoint_at or self._inbox.queued:
            return False
        if not self._turn.acquire(blocking=False):
            return False
        try:
            self._inbox.check_open()
            begun = time.perf_counter()
            with self._connection.patience.at_most(0):
                verdicts = self._verdicts(tickets, run_as_one)
        finally:
            self._turn.release()
        # Another process writes, or may do so before each has had a transaction of its own: threads can wait.
        if all(isinstance(error, (apsw.BusyError, TransactionLostError)) for _, error in verdicts):
            return False
        self._pace.in_loop(time.perf_counter() - begun)
        self._settle(tickets, verdicts)
        if self._wal_pages >= self._checkpoint_at:
            self._inbox.call()
        return True

    def stop(self, timeout: float) -> bool:
        """Commit what is queued, then end; whether that was done in time. The inbox is closed already."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._inbox.drained:
            self._inbox.wait()
            with self._turn:
                # From here on a caller cannot take its job back.
                self._work_off(self._inbox.take(_MOST_JOBS_PER_COMMIT))
        with self._turn:
            self._connection.close(force=True)

    def _work_off(self, tickets: Sequence[Ticket[Any]]) -> None:
        """Run jobs, commit them, tell their callers: in this order. Then keep the WAL short."""
        if tickets:
            begun = time.perf_counter()
            verdicts = self._verdicts(tickets, run_group)
            if self._has_written:  # what wrote nothing was quick on any disk
                self._pace.in_thread(time.perf_counter() - begun)
            self._settle(tickets, verdicts)
            tell(tickets)
        if self._wal_pages >= self._checkpoint_at:
            self._checkpoint()

    def _verdicts(self, tickets: Sequence[Ticket[Any]], run: Run) -> Sequence[Verdict]:
        """Run and commit jobs; what became of each."""
        self._working, self._has_written = threading.get_ident(), False
        try:
            return self._commit(tickets, run)
        except BaseException as error:  # noqa: BLE001 - no caller may wait for an answer that never comes
            return [(None, error)] * len(tickets)
        finally:
            self._working = 0

    def _settle(self, tickets: Sequence[Ticket[Any]], verdicts: Sequence[Verdict]) -> None:
        for ticket, (result, error) in zip(tickets, verdicts, strict=True):
            ticket.settle(result, None if error is None else failures.translate(error, self._kind))

    def _commit(self, tickets: Sequence[Ticket[Any]], run: Run) -> Sequence[Verdict]:
        """Run jobs and commit them: what this returns is durable."""
        try:
            self._guard()
            self._wait_for_the_disk(durable=any(ticket.durable for ticket in tickets))
            return run(self._statements, tickets, self._kind)
        except (apsw.Error, UnicodeDecodeError) as error:
            if not failures.is_damage(error, self._kind):
                raise
            self._connection.close(force=True)
            self._use(self._repair(error))
        return run(self._statements, tickets, self._kind)

    def _wait_for_the_disk(self, *, durable: bool) -> None:
        """Commit from now on with or without a flush; a later commit with one makes earlier ones durable too."""
        if durable != self._flushes:
            self._connection.pragma("synchronous", self._kind.synchronous if durable else "normal")
            self._flushes = durable

    def _use(self, connection: Connection) -> None:
        self._connection = connection
        self._statements = Statements(connection)
        self._wal_pages = 0
        self._flushes = True
        connection.set_wal_hook(self._count_pages)

    def _count_pages(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages, self._has_written = pages, True
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Copy the WAL into the database; where readers or a full disk prevent that, try again some pages later."""
        truncate = self._wal_pages * self._kind.page_bytes >= _BYTES_BEFORE_TRUNCATE
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
        self._checkpoint_at = self._wal_pages + self._pages_per_checkpoint
        with suppress(apsw.Error), self._connection.patience.at_most(0):
            in_wal, copied = self._connection.wal_checkpoint(mode=mode)
            if in_wal == copied:
                self._wal_pages = 0
                self._checkpoint_at = self._pages_per_checkpoint
