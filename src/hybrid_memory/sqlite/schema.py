"""Bringing the schema of a SQLite file up to date: one migrator at a time, safe when many processes start at once."""

from hybrid_memory import migrations
from hybrid_memory.errors import SchemaMismatch
from hybrid_memory.migrations import Applied, Migration
from hybrid_memory.observability import Events
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.files import Kind


def shipped(kind: Kind) -> list[Migration]:
    """The migrations of a file, in order."""
    return migrations.load("sqlite", kind.chain)


def ensure(statements: Statements, kind: Kind, events: Events) -> None:
    """Apply what is pending. A file that is up to date is recognised without a lock.

    Raises:
        SchemaMismatch: the file was made by a newer version, or an applied migration was altered.
    """
    known = shipped(kind)
    if migrations.pending(known, applied(statements), kind.name):
        apply(statements, kind, known, events)


def apply(statements: Statements, kind: Kind, wanted: list[Migration], events: Events) -> None:
    """Apply those of `wanted` that are pending, all in one transaction."""
    connection = statements.connection
    connection.execute("begin immediate")
    try:
        connection.execute(statements.text("schema.create_migrations"))
        for migration in migrations.pending(wanted, applied(statements), kind.name):
            _apply(statements, migration, kind, events)
        connection.execute("commit")
    finally:
        if not connection.get_autocommit():
            connection.execute("rollback")


def applied(statements: Statements) -> list[Applied]:
    """What was applied to the file."""
    if not statements.value("schema.has_migrations"):
        return []
    return [Applied(*row) for row in statements.rows("schema.applied")]


def _apply(statements: Statements, migration: Migration, kind: Kind, events: Events) -> None:
    if not migration.transactional:
        raise SchemaMismatch(f"{kind.name}: migration {migration.number} must be transactional, as all are in SQLite")
    with events.timed("migration_applied", number=migration.number, migration=migration.name, file=kind.name):
        statements.connection.execute(migration.text)
        statements.run("schema.record", number=migration.number, name=migration.name, checksum=migration.checksum)
