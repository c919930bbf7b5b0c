"""Group commit: many jobs, one transaction, one flush of the disk, and every job for itself.

Each job runs inside a savepoint, so one that fails is undone alone. Where SQLite gives the whole transaction up (a full
disk, a failed commit), the jobs run once more, each in a transaction of its own. A job may therefore run twice and must
do nothing but work on the database.
"""

from collections.abc import Sequence
from typing import Any

import apsw

from hybrid_memory.sqlite import failures
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.files import Kind
from hybrid_memory.sqlite.inbox import Ticket

Verdict = tuple[Any, BaseException | None]


def run_group(statements: Statements, tickets: Sequence[Ticket[Any]], kind: Kind) -> list[Verdict]:
    """Run and commit jobs; the result or the error of each, in their order, final when this returns.

    Raises:
        apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError: the file is damaged; nothing was committed.
    """
    try:
        return _run_together(statements, tickets, kind)
    except (apsw.Error, _TransactionLostError) as error:
        if failures.is_damage(error, kind):
            raise
        if len(tickets) == 1 or isinstance(error, apsw.BusyError):
            return [(None, error.__cause__ if isinstance(error, _TransactionLostError) else error)] * len(tickets)
    return [run_group(statements, [ticket], kind)[0] for ticket in tickets]


class _TransactionLostError(Exception):
    """A job's error made SQLite roll everything back."""


def _run_together(statements: Statements, tickets: Sequence[Ticket[Any]], kind: Kind) -> list[Verdict]:
    connection = statements.connection
    connection.execute("begin immediate")
    try:
        verdicts = [_run_alone(statements, ticket, kind) for ticket in tickets]
        connection.execute("commit")
    finally:
        if not connection.get_autocommit():
            connection.execute("rollback")
    return verdicts


def _run_alone(statements: Statements, ticket: Ticket, kind: Kind) -> Verdict:
    connection = statements.connection
    connection.execute("savepoint job")
    try:
        result = ticket.job(statements)
    except BaseException as error:
        if failures.is_damage(error, kind):
            raise
        if connection.get_autocommit():
            raise _TransactionLostError from error
        connection.execute("rollback to job")
        connection.execute("release job")
        return None, error
    connection.execute("release job")
    return result, None
