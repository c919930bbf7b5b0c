"""Looking for damage in a file before it is used, for a limited time.

SQLite checks the structure, the row checksums check the content. What the time does not suffice for is noticed when the
row is read.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import apsw

from hybrid_memory.sqlite.connection import Statements

_INSTRUCTIONS_BETWEEN_LOOKS_AT_THE_CLOCK = 10_000


def examine_presence(statements: Statements) -> None:
    """See whether a file that was made is still a database: SQLite takes one of no length for a new one.

    Raises:
        apsw.CorruptError: its content is gone.
    """
    if not statements.value("schema.has_migrations"):
        raise apsw.CorruptError("its content is gone")


def examine_structure(statements: Statements, seconds: float) -> None:
    """Let SQLite look at every page, and compare the indexes with their tables: a wrong entry hides a row.

    Raises:
        apsw.CorruptError: one is damaged.
    """
    with _at_most(statements.connection, seconds):
        (finding,) = statements.connection.execute("pragma integrity_check(1)").fetchall()[0]
        if finding != "ok":
            raise apsw.CorruptError(str(finding).splitlines()[-1])


def examine_rows(statements: Statements, seconds: float) -> None:
    """Compare every row with its checksum.

    Raises:
        apsw.CorruptError: one is damaged.
    """
    with _at_most(statements.connection, seconds):
        for (table,) in statements.rows("schema.tables"):
            if table != "schema_migrations":
                statements.value(f"{table}.verify")


@contextmanager
def _at_most(connection: apsw.Connection, seconds: float) -> Iterator[None]:
    """End the block quietly when the time is over."""
    deadline = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS_BETWEEN_LOOKS_AT_THE_CLOCK)
    try:
        with suppress(apsw.InterruptError):
            yield
    finally:
        connection.set_progress_handler(None)
