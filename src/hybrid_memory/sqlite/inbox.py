"""The line in front of the writer: bounded, first come first served, for callers of any thread and loop.

At most `limit` jobs are queued; the callers of further ones stand in line behind them. A caller that stops waiting
takes its job out again, so nothing in here is ever without a live caller.
"""

import threading
from itertools import islice
from typing import Any

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.sqlite.tickets import Ticket


class Inbox:
    """Jobs on their way to one writer."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition(threading.Lock())
        self._queued: dict[Ticket[Any], None] = {}
        self._in_line: dict[Ticket[Any], None] = {}
        self._closed = False
        self._called = False

    @property
    def queued(self) -> int:
        """Jobs the writer will take."""
        return len(self._queued)

    @property
    def in_line(self) -> int:
        """Callers waiting for a place in the queue."""
        return len(self._in_line)

    @property
    def drained(self) -> bool:
        """Whether it is closed and empty."""
        return self._closed and not self._queued

    def put(self, *tickets: Ticket[Any]) -> None:
        """Queue jobs, or their callers when the queue is full.

        Raises:
            StorageUnavailable: the database is closed.
        """
        with self._changed:
            self.check_open()
            for ticket in tickets:
                full = len(self._queued) >= self._limit
                (self._in_line if full else self._queued)[ticket] = None
            self._changed.notify()

    def withdraw(self, ticket: Ticket[Any]) -> bool:
        """Take a job out that nobody waits for any more; False when the writer has it already."""
        with self._changed:
            inside = ticket in self._queued or ticket in self._in_line
            self._in_line.pop(ticket, None)
            self._queued.pop(ticket, None)
            self._move_up()
            return inside

    def take(self, most: int) -> list[Ticket[Any]]:
        """The next jobs, up to `most`; none when there are none."""
        with self._changed:
            taken = list(islice(self._queued, most))
            for ticket in taken:
                del self._queued[ticket]
            self._move_up()
            return taken

    def call(self) -> None:
        """Call the writer, though there may be no job."""
        with self._changed:
            self._called = True
            self._changed.notify()

    def wait(self) -> None:
        """Wait until there is a job, a call, or the end."""
        with self._changed:
            while not (self._queued or self._called or self._closed):
                self._changed.wait()
            self._called = False

    def check_open(self) -> None:
        """Refuse what comes after the end."""
        if self._closed:
            raise StorageUnavailable("the database is closed")

    def close(self) -> None:
        """Take nothing more in; what is inside is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _move_up(self) -> None:
        while self._in_line and len(self._queued) < self._limit:
            ticket = next(iter(self._in_line))
            del self._in_line[ticket]
            self._queued[ticket] = None
