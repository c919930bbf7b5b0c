"""Connections that read: as many as read at the same time, a few kept for the next ones.

Each read sees one state of the file from its beginning to its end and never waits for the writer.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.sqlite.connection import Connection, Statements

T = TypeVar("T")

_KEPT = 4


class Readers:
    """The reading connections of one file, for callers of any thread."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._changed = threading.Condition()
        self._idle: list[Statements] = []
        self._busy = 0
        self.generation = 0
        self._closed = False

    def read(self, query: Callable[[Statements], T]) -> T:
        """Run `query` in the caller's thread, in one transaction."""
        with self._borrowed() as statements:
            statements.connection.execute("begin")
            try:
                return query(statements)
            finally:
                if not statements.connection.get_autocommit():
                    statements.connection.execute("rollback")

    def renew(self) -> None:
        """Let no read from now on use a connection opened before: the file was replaced or emptied."""
        with self._changed:
            self.generation += 1
            stale, self._idle = self._idle, []
        for statements in stale:
            statements.connection.close(force=True)

    def close(self, timeout: float) -> bool:
        """Close the connections once the reads that are under way have ended; whether all did in time."""
        with self._changed:
            self._closed = True
            ended = self._changed.wait_for(lambda: self._busy == 0, timeout)
        self.renew()
        return ended

    @contextmanager
    def _borrowed(self) -> Iterator[Statements]:
        with self._changed:
            if self._closed:
                raise StorageUnavailable("the database is closed")
            generation = self.generation
            statements = self._idle.pop() if self._idle else None
            self._busy += 1
        good = False
        try:
            statements = statements or Statements(self._connect())
            yield statements
            good = True
        finally:
            self._give_back(statements, keep=good, generation=generation)

    def _give_back(self, statements: Statements | None, *, keep: bool, generation: int) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()
            keep = keep and generation == self.generation and len(self._idle) < _KEPT and not self._closed
            if keep and statements is not None:
                self._idle.append(statements)
        if not keep and statements is not None:
            statements.connection.close(force=True)
