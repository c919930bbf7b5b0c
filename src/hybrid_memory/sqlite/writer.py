"""The one thread that writes to a file: takes jobs, commits them in groups, answers, and keeps the WAL short."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import apsw

from hybrid_memory.sqlite import failures
from hybrid_memory.sqlite.connection import Connection, Statements
from hybrid_memory.sqlite.files import Kind
from hybrid_memory.sqlite.groups import Verdict, run_group
from hybrid_memory.sqlite.inbox import Inbox, Ticket

_MOST_JOBS_PER_COMMIT = 1000
_PAGES_BEFORE_CHECKPOINT = 1000
# Longer than this, the WAL grew behind a long reader: it is cut as soon as no reader needs it.
_PAGES_BEFORE_TRUNCATE = 8000

Repair = Callable[[BaseException], Connection]
Guard = Callable[[], None]


class Writer:
    """A thread with a connection of its own.

    `guard` is called before every group and raises when nothing may be committed now. `repair` is called when the file
    turns out to be damaged, after the connection is closed; it gives a connection to a healed file, on which the jobs
    run again, or raises what their callers are told.
    """

    def __init__(self, kind: Kind, connection: Connection, inbox: Inbox, *, guard: Guard, repair: Repair) -> None:
        self._kind = kind
        self._inbox = inbox
        self._guard = guard
        self._repair = repair
        self._wal_pages = 0
        self._checkpoint_at = _PAGES_BEFORE_CHECKPOINT
        self._use(connection)
        self._thread = threading.Thread(target=self._work, name=f"hybrid-memory {kind.name}", daemon=True)
        self._thread.start()

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller is a job."""
        return threading.current_thread() is self._thread

    def stop(self, timeout: float) -> bool:
        """Commit what is queued, then end; whether that was done in time."""
        self._inbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._inbox.drained:
            tickets = self._inbox.take(_MOST_JOBS_PER_COMMIT)
            # From here on a caller cannot take its job back; one that was cancelled before is skipped.
            self._settle([one for one in tickets if one.outcome.set_running_or_notify_cancel()])
            if self._wal_pages >= self._checkpoint_at:
                self._checkpoint()
        self._connection.close()

    def _settle(self, tickets: Sequence[Ticket[Any]]) -> None:
        if not tickets:
            return
        verdicts: Sequence[Verdict]
        try:
            verdicts = self._commit(tickets)
        except BaseException as error:  # noqa: BLE001 - no caller may wait for an answer that never comes
            verdicts = [(None, error)] * len(tickets)
        for ticket, (result, error_of_job) in zip(tickets, verdicts, strict=True):
            if error_of_job is None:
                ticket.outcome.set_result(result)
            else:
                ticket.outcome.set_exception(failures.translate(error_of_job, self._kind))

    def _commit(self, tickets: Sequence[Ticket[Any]]) -> Sequence[Verdict]:
        """Run jobs and commit them: what this returns is durable."""
        try:
            self._guard()
            return run_group(self._statements, tickets, self._kind)
        except (apsw.Error, UnicodeDecodeError) as error:
            if not failures.is_damage(error, self._kind):
                raise
            self._connection.close(force=True)
            self._use(self._repair(error))
        return run_group(self._statements, tickets, self._kind)

    def _use(self, connection: Connection) -> None:
        self._connection = connection
        self._statements = Statements(connection)
        self._wal_pages = 0
        connection.set_wal_hook(self._count_pages)

    def _count_pages(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Copy the WAL into the database; where readers or a full disk prevent that, try again some pages later."""
        truncate = self._wal_pages >= _PAGES_BEFORE_TRUNCATE
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
        copied = 0
        with suppress(apsw.Error):
            _, copied = self._connection.wal_checkpoint(mode=mode)
        complete = copied >= self._wal_pages or (truncate and copied == 0)
        self._checkpoint_at = _PAGES_BEFORE_CHECKPOINT + (0 if complete else self._wal_pages)
