"""One connection to one of our files: how it is opened, how long it waits, and the named queries on it."""

import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import apsw

from hybrid_memory import queries
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.sqlite import checksum
from hybrid_memory.sqlite.files import Kind

_STATEMENTS_KEPT = 200
_WAL_BYTES_KEPT = 16 * 1024 * 1024
_LONGEST_NAP_SECONDS = 0.002

Row = tuple[Any, ...]


class Patience:
    """How long a connection waits for a lock of another one: in short naps of random length.

    SQLite's own waiting naps up to 100 ms; a process that comes and goes quickly would starve those who wait that way.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since = 0.0
        self._random = random.Random()  # noqa: S311 - spreads the naps, guards nothing

    def __call__(self, earlier_calls: int) -> bool:
        """Nap, or give up: False. Called by SQLite, which counts its calls for one lock."""
        now = time.monotonic()
        if earlier_calls == 0:
            self._since = now
        if now - self._since >= self.seconds:
            return False
        time.sleep(self._random.uniform(0, _LONGEST_NAP_SECONDS))
        return True

    @contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Wait no longer than this inside the block."""
        usual, self.seconds = self.seconds, min(self.seconds, seconds)
        try:
            yield
        finally:
            self.seconds = usual


class Connection(apsw.Connection):
    """A connection to a file that exists. It knows which process opened it.

    SQLite's locks do not survive a fork, so a child must neither use its parent's connection nor open the same file
    beside it.
    """

    def __init__(self, path: Path, patience: Patience) -> None:
        if any(other.inherited and other.filename == str(path) for other in _ours()):
            raise ConfigurationError(
                f"{path.name} was open when this process was forked, and SQLite does not survive that: open it after "
                "the fork, or start processes with `spawn`."
            )
        super().__init__(str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=_STATEMENTS_KEPT)
        self._process = os.getpid()
        self.patience = patience
        self.set_busy_handler(patience)

    @property
    def inherited(self) -> bool:
        """Whether another process opened it."""
        return self._process != os.getpid()


class Statements:
    """The named queries, with their parameters as keywords, on one connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._queries = queries.load("sqlite")

    def run(self, name: str, /, **values: Any) -> int:
        """Run a query that changes rows; how many it changed."""
        self._cursor(name, values)
        return self.connection.changes()

    def text(self, name: str) -> str:
        """The SQL of a query."""
        return self._queries[name].text

    def run_many(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
        """Run a query once per row; how many it changed.

        `columns` are its parameters in their order, which is that of the values too.
        """
        query = self._queries[name]
        if tuple(columns) != query.parameters:
            raise TypeError(f"{name} takes {query.parameters}, not {columns}")
        before = self.connection.total_changes()
        self.connection.executemany(query.text, rows)
        return self.connection.total_changes() - before

    def rows(self, name: str, /, **values: Any) -> list[Row]:
        """All rows of a query."""
        return self._cursor(name, values).fetchall()

    def row(self, name: str, /, **values: Any) -> Row | None:
        """The first row of a query, or None."""
        for row in self._cursor(name, values):
            return cast("Row", row)
        return None

    def value(self, name: str, /, **values: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.row(name, **values)
        return row[0] if row else None

    def _cursor(self, name: str, values: Mapping[str, Any]) -> apsw.Cursor:
        query = self._queries[name]
        return self.connection.execute(query.text, query.arguments(values))


def connect(path: Path, kind: Kind, patience: Patience, *, empty: bool = False) -> Connection:
    """Open a connection for the writer, after emptying the file in place if asked to."""
    connection = Connection(path, patience)
    try:
        if empty:
            _empty(connection)
        _configure(connection, kind)
        connection.pragma("page_size", kind.page_bytes)
        connection.pragma("auto_vacuum", "incremental")
        connection.pragma("journal_mode", "wal")
        connection.pragma("journal_size_limit", _WAL_BYTES_KEPT)
        # Deleted rows are overwritten: they are gone for whoever reads the file, and for a rescue from a damaged one.
        connection.pragma("secure_delete", "fast" if kind.disposable else "on")
    except BaseException:
        connection.close(force=True)
        raise
    return connection


def connect_reader(path: Path, kind: Kind, patience: Patience) -> Connection:
    """Open a connection that only reads and never checkpoints."""
    connection = Connection(path, patience)
    try:
        _configure(connection, kind)
        connection.pragma("query_only", 1)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    except BaseException:
        connection.close(force=True)
        raise
    return connection


def _empty(connection: apsw.Connection) -> None:
    """Empty a database, however damaged it is, under SQLite's own locks: others may have it open."""
    connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 1)
    try:
        connection.execute("vacuum")
    finally:
        connection.config(apsw.SQLITE_DBCONFIG_RESET_DATABASE, 0)


def _configure(connection: Connection, kind: Kind) -> None:
    connection.wal_autocheckpoint(0)
    connection.pragma("synchronous", kind.synchronous)
    connection.pragma("fullfsync", 1)
    connection.pragma("foreign_keys", 1)
    connection.pragma("trusted_schema", 0)
    # A plan that may depend on what is bound is made anew with every value, which takes longer than most queries.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    checksum.register(connection)


def _ours() -> list[Connection]:
    return [one for one in apsw.connections() if isinstance(one, Connection)]
