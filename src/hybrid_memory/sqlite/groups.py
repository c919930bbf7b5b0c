"""Group commit: many jobs, one transaction, one flush of the disk, and every job for itself.

Most groups hold no job that fails, so their jobs simply run one after another. Where one fails, all are undone and run
again, each inside a savepoint, so that the failed one is undone alone. Where SQLite gives the whole transaction up (a
full disk, a failed commit), they run once more, each in a transaction of its own. A job may therefore run several times
and must do nothing but work on the database.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Generic, Self, TypeVar, cast

import apsw

from hybrid_memory.sqlite import failures
from hybrid_memory.sqlite.breathing import breathing
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.files import Kind
from hybrid_memory.sqlite.tickets import Ticket

Verdict = tuple[Any, BaseException | None]
T = TypeVar("T")


class Joint(ABC, Generic[T]):
    """A job that takes less together with others of its class than each alone."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, sql: Statements) -> T:
        """Do it alone."""

    @classmethod
    @abstractmethod
    def together(cls, jobs: Sequence[Self], sql: Statements) -> Sequence[T]:
        """Do several; what doing them one after another would give."""


def run_group(statements: Statements, tickets: Sequence[Ticket[Any]], kind: Kind) -> list[Verdict]:
    """Run and commit jobs; the result or the error of each, in their order, final when this returns.

    Raises:
        apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError: the file is damaged; nothing was committed.
    """
    try:
        return run_as_one(statements, tickets, kind)
    except TransactionLostError:
        return [_run_single(statements, ticket, kind) for ticket in tickets]


def run_as_one(statements: Statements, tickets: Sequence[Ticket[Any]], kind: Kind) -> list[Verdict]:
    """The same in one transaction.

    Raises:
        TransactionLostError: SQLite gave it up; nothing of any of them has happened.
        apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError: as above.
    """
    if len(tickets) == 1:
        return [_run_single(statements, tickets[0], kind)]
    try:
        verdicts = _run_all_or_none(statements, tickets, kind)
        return verdicts or _run_together(statements, tickets, kind)
    except apsw.BusyError as error:
        return [(None, error)] * len(tickets)
    except apsw.Error as error:
        if failures.is_damage(error, kind):
            raise
        raise TransactionLostError from error


class TransactionLostError(Exception):
    """An error made SQLite roll everything back."""


def _run_single(statements: Statements, ticket: Ticket[Any], kind: Kind) -> Verdict:
    """A job in a transaction of its own."""
    connection = statements.connection
    try:
        connection.execute("begin immediate")
        result = ticket.job(statements)
        connection.execute("commit")
    except BaseException as error:
        if failures.is_damage(error, kind):
            raise
        return None, error
    finally:
        _leave_transaction(connection)
    return result, None


def _run_all_or_none(statements: Statements, tickets: Sequence[Ticket[Any]], kind: Kind) -> list[Verdict] | None:
    """The jobs without a net: None when one fails, and then nothing of any of them has happened."""
    connection = statements.connection
    try:
        connection.execute("begin immediate")
        try:
            verdicts: list[Verdict] = [(result, None) for result in _results(statements, tickets)]
        except BaseException as error:
            if failures.is_damage(error, kind):
                raise
            return None
        connection.execute("commit")
    finally:
        _leave_transaction(connection)
    return verdicts


def _results(statements: Statements, tickets: Sequence[Ticket[Any]]) -> list[Any]:
    """What jobs give, one after another; neighbours that may be done together are."""
    results: list[Any] = []
    for kind, some in groupby((ticket.job for ticket in tickets), key=type):
        if issubclass(kind, Joint):
            results.extend(kind.together(cast("list[Joint[Any]]", list(some)), statements))
        else:
            results.extend(job(statements) for job in breathing(some))
    return results


def _run_together(statements: Statements, tickets: Sequence[Ticket[Any]], kind: Kind) -> list[Verdict]:
    connection = statements.connection
    try:
        connection.execute("begin immediate")
        verdicts = [_run_in_savepoint(statements, ticket, kind) for ticket in tickets]
        connection.execute("commit")
    finally:
        _leave_transaction(connection)
    return verdicts


def _run_in_savepoint(statements: Statements, ticket: Ticket[Any], kind: Kind) -> Verdict:
    connection = statements.connection
    connection.execute("savepoint job")
    try:
        result = ticket.job(statements)
    except BaseException as error:
        if failures.is_damage(error, kind):
            raise
        if connection.get_autocommit():
            raise TransactionLostError from error
        connection.execute("rollback to job")
        connection.execute("release job")
        return None, error
    connection.execute("release job")
    return result, None


def _leave_transaction(connection: apsw.Connection) -> None:
    """Roll back what was not committed; SQLite has done so itself after some errors."""
    if not connection.get_autocommit():
        connection.execute("rollback")
