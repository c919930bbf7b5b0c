"""One SQLite file, for callers of any thread and any event loop: `write` and `read`.

A write is a job: a function that gets the named queries and returns a value. Its caller goes on when it is committed,
together with whatever else was waiting. A job must do nothing but work on the database, because it may run twice.

    with Database(STATE, directory, events) as database:
        database.write_blocking(lambda sql: sql.run("transient_memories.forget_thread", thread_id="t1"))
        count = await database.read(lambda sql: sql.value("transient_memories.verify"))
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import apsw

from hybrid_memory.errors import ConfigurationError, StateDamaged, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.sqlite import failures, files
from hybrid_memory.sqlite.connection import Connection, Patience, Statements, connect_reader
from hybrid_memory.sqlite.deadlines import Deadlines
from hybrid_memory.sqlite.files import Kind
from hybrid_memory.sqlite.gathering import Gathering
from hybrid_memory.sqlite.inbox import Inbox
from hybrid_memory.sqlite.opening import Opener
from hybrid_memory.sqlite.presence import Presence
from hybrid_memory.sqlite.readers import Readers
from hybrid_memory.sqlite.tickets import LoopTicket, ThreadTicket, Ticket
from hybrid_memory.sqlite.version import require_safe, sqlite_version
from hybrid_memory.sqlite.writer import Writer

T = TypeVar("T")

_READING_THREADS = 4
# So many light jobs are still worth no thread: what a graph writes at the end of a step.
_MOST_QUICK = 3
# A look at the directory before every commit would make it a tenth slower.
_SECONDS_BETWEEN_LOOKS = 0.1


class Database:
    """An open file: one writer, as many readers as needed. Used from `open` to `close`, or in a `with` block.

    Args:
        kind: which of the two files.
        directory: where it is; made when missing.
        events: where it reports.
        timeout: deadline in seconds of every call, waiting included.
        queue_limit: jobs taken in at most; callers beyond that stand in line.
    """

    def __init__(
        self, kind: Kind, directory: Path, events: Events, *, timeout: float = 10.0, queue_limit: int = 10_000
    ) -> None:
        self.kind = kind
        self.path = directory.absolute() / kind.name
        self._events = events
        self._timeout = timeout
        self._inbox = Inbox(queue_limit)
        self._gathering = Gathering(self._hand_over)
        self._deadlines = Deadlines()
        self._presence = Presence(self.path, timeout)
        self._readers = Readers(lambda: connect_reader(self.path, kind, Patience(timeout)))
        self._threads = ThreadPoolExecutor(_READING_THREADS, thread_name_prefix=f"hybrid-memory {kind.name} reader")
        self._writer: Writer | None = None
        self._process = os.getpid()
        self._identity: tuple[int, int] | None = None
        self._looked_at = 0.0
        self._damage: str | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Make the file where it is missing, bring its schema up to date, heal a damaged cache. Then calls work.

        Opening an open one changes nothing.

        Raises:
            StateDamaged: `state.db` was damaged; what is intact was saved, and the next `open` goes on with it.
            SchemaMismatch: `state.db` was made by a newer version.
            ConfigurationError: this SQLite is not safe, or the process was forked with the file open.
            StorageUnavailable: the file cannot be opened.
        """
        if self._writer is not None:
            return
        require_safe(sqlite_version())
        try:
            files.secure_directory(self.path.parent)
            connection = self._opener().first()
        except (apsw.Error, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError):
                raise StorageUnavailable(f"{self.path} cannot be opened: {error.strerror}") from error
            raise failures.translate(error, self.kind) from error
        files.secure_files(self.path)
        self._identity = files.identity(self.path)
        self._writer = Writer(self.kind, connection, self._inbox, guard=self._guard, repair=self._repair)

    def close(self, timeout: float | None = None) -> bool:
        """Commit what is queued, end the threads, close the connections; whether all of it was done in time."""
        timeout = self._timeout if timeout is None else timeout
        self._inbox.close()
        if self._writer is None or self._process != os.getpid():
            return True
        # Readers first: the last connection to go cleans the WAL up, and that is the writer's.
        nobody_reads = self._readers.close(timeout)
        self._threads.shutdown(wait=nobody_reads, cancel_futures=True)
        done = self._writer.stop(timeout) and nobody_reads
        if done:
            self._presence.leave()
        return done

    async def write(
        self,
        job: Callable[[Statements], T],
        *,
        timeout: float | None = None,
        durable: bool = True,
        light: bool = False,
        followed: bool = False,
    ) -> T:
        """Run `job` in the writer and wait for the commit, from any event loop.

        What need not be `durable` is written without waiting for the disk: a loss of power may undo it. A `light` job
        takes microseconds: when it comes alone, and commits are quick here, it is done without asking a thread. One
        that is usually `followed` by another waits a few turns of the loop for it, and shares its commit.

        A cancelled caller has either nothing committed or all of it; a job that had not begun is dropped.

        Raises:
            StorageUnavailable: not done in time, the disk is full, the file locked; `outcome_unknown` says whether the
                job may have been committed all the same.
            StorageRejected: SQLite refused the data.
            StateDamaged: the file is damaged.
        """
        writer = self._check_usable()
        if light and not followed and self._gathering.quiet:
            lone = Ticket(job, durable=durable)
            if writer.run_quickly([lone]):
                await self._gathering.one_turn()
                return lone.outcome()
        ticket = LoopTicket(job, self._timeout if timeout is None else timeout, durable=durable, light=light)
        self._gathering.put(ticket)
        try:
            in_time = await ticket.settled
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise
        finally:
            self._deadlines.forget(ticket)
        if not in_time:
            self._raise_too_late(ticket)
        return ticket.outcome()

    def _hand_over(self, tickets: Sequence[LoopTicket[Any]]) -> None:
        """In the thread of an event loop: give its jobs to the writer."""
        try:
            if self._are_quick(tickets) and self._check_usable().run_quickly(tickets):
                for ticket in tickets:
                    ticket.end_wait(in_time=True)
            else:
                self._deadlines.watch(tickets)
                self._inbox.put(*tickets)
        except Exception as error:  # noqa: BLE001 - nobody waits for ever, such as for one that was closed in this turn
            for ticket in tickets:
                ticket.settle(None, error)
                ticket.end_wait(in_time=True)

    @staticmethod
    def _are_quick(tickets: Sequence[LoopTicket[Any]]) -> bool:
        return len(tickets) <= _MOST_QUICK and all(ticket.light for ticket in tickets)

    def _withdraw(self, ticket: Ticket[Any]) -> bool:
        """Take a job back that nobody waits for any more; False when it may have begun."""
        gathered = isinstance(ticket, LoopTicket) and self._gathering.withdraw(ticket)
        return gathered or self._inbox.withdraw(ticket)

    def write_blocking(
        self, job: Callable[[Statements], T], *, timeout: float | None = None, durable: bool = True
    ) -> T:
        """The same from any thread, that of an event loop included, whose other tasks wait meanwhile."""
        ticket = ThreadTicket(job, durable=durable)
        timeout = self._timeout if timeout is None else timeout
        if self._check_usable().run_now(ticket, timeout):
            return ticket.outcome()
        self._inbox.put(ticket)
        try:
            settled = ticket.wait(timeout)
        except BaseException:
            self._inbox.withdraw(ticket)
            raise
        if not settled:
            self._raise_too_late(ticket)
        return ticket.outcome()

    async def _in_thread(self, query: Callable[[Statements], T]) -> T:
        try:
            answer = self._threads.submit(self.read_blocking, query)
        except RuntimeError:
            # The interpreter is ending and gives nothing more to threads.
            return self.read_blocking(query)
        return await asyncio.wrap_future(answer)

    async def read(self, query: Callable[[Statements], T], *, timeout: float | None = None) -> T:
        """Run `query` in a reading thread, on one state of the file.

        Raises:
            StorageUnavailable: not done in time, or the file cannot be read.
            StateDamaged: the file is damaged.
        """
        self._check_usable()
        try:
            async with asyncio.timeout(self._timeout if timeout is None else timeout) as deadline:
                return await self._in_thread(query)
        except TimeoutError:
            if deadline.expired():
                raise StorageUnavailable(f"{self.kind.name} was not read in time") from None
            raise

    def read_blocking(self, query: Callable[[Statements], T]) -> T:
        """The same in the caller's thread, without a hop."""
        self._check_usable()
        generation = self._readers.generation
        try:
            return self._readers.read(query)
        except (apsw.Error, UnicodeDecodeError) as error:
            if not failures.is_damage(error, self.kind):
                raise failures.translate(error, self.kind) from error
            self._report_damage(error, generation)
        return self._read_healed(query)

    @property
    def queued(self) -> int:
        """Jobs waiting for the writer."""
        return self._inbox.queued

    def _opener(self) -> Opener:
        return Opener(self.path, self.kind, self._presence, Patience(self._timeout / 2), self._events)

    def _read_healed(self, query: Callable[[Statements], T]) -> T:
        try:
            return self._readers.read(query)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise failures.translate(error, self.kind) from error

    def _check_usable(self) -> Writer:
        """The writer, if calls make sense here and now."""
        if self._process != os.getpid():
            raise ConfigurationError(
                f"{self.kind.name} was opened before this process was forked, and SQLite does not survive that: open "
                "it after the fork, or start processes with `spawn`."
            )
        if self._writer is None:
            raise StorageUnavailable(f"{self.kind.name} is not open")
        self._inbox.check_open()
        if self._writer.is_current_thread:
            raise RuntimeError("a job must not wait for another call")
        return self._writer

    def _raise_too_late(self, ticket: Ticket[Any]) -> NoReturn:
        begun = not self._withdraw(ticket)
        how = "it may still be committed" if begun else "it had not begun and was dropped"
        raise StorageUnavailable(
            f"{self.kind.name} did not take a write in time; {how}", outcome_unknown=begun
        ) from None

    def _guard(self) -> None:
        """Let nothing be committed to a damaged file, or to one that is not at its path any more."""
        if self._damage is None and not self._has_moved():
            return
        reason = self._damage or "it was deleted or replaced while in use"
        if self.kind.disposable:
            raise apsw.CorruptError(reason)
        raise StateDamaged(f"{self.path} takes nothing more ({reason}): start again.")

    def _has_moved(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at < _SECONDS_BETWEEN_LOOKS:
            return False
        moved = files.identity(self.path) != self._identity
        if not moved:
            self._looked_at = now
        return moved

    def _repair(self, error: BaseException) -> Connection:
        """In the writer's thread: heal a cache; note the damage of a state file for the next start."""
        self._damage = str(error)
        if not self.kind.disposable:
            self._note_damage(error)
            raise failures.translate(error, self.kind)
        connection = self._opener().healed(error)
        self._identity = files.identity(self.path)
        self._readers.renew()
        self._damage = None
        return connection

    def _report_damage(self, error: BaseException, generation: int) -> None:
        """In a reader's thread: have a cache healed, unless that happened since; a state file ends the call."""
        if not self.kind.disposable:
            self._note_damage(error)
            raise failures.translate(error, self.kind) from error

        def heal(_: Statements) -> None:
            if self._readers.generation == generation:
                raise error

        self.write_blocking(heal)

    def _note_damage(self, error: BaseException) -> None:
        self._damage = str(error)
        self._presence.note_damage()
        self._events.error("state_damaged", file=self.kind.name, reason=str(error))
