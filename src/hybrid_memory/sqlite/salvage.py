"""Saving the rows of a damaged `state.db` into a new one.

The damaged file is read page by page; a row counts when its checksum is right, which also tells the table it belongs
to. The new file is made beside it and takes its place only when it is complete: an interrupted rescue begins again, or
is finished, at the next start. The damaged file is kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hybrid_memory import queries
from hybrid_memory.observability import Events
from hybrid_memory.sqlite import files, schema
from hybrid_memory.sqlite.checksum import Value, row_checksum
from hybrid_memory.sqlite.connection import Patience, Statements, connect
from hybrid_memory.sqlite.files import Kind
from hybrid_memory.sqlite.pages import Found, Pages

_MIGRATION_COLUMNS = 4
# What is made right again in a table of which rows may be missing.
_REPAIRS = {
    "outbox": ("outbox.make_missing_heads", "outbox_totals.recount"),
    "outbox_payloads": ("outbox_payloads.forget_orphans",),
    "checkpoint_lines": (
        "checkpoints.forget_orphans",
        "checkpoint_values.forget_orphans",
        "checkpoint_writes.forget_orphans",
    ),
    "local_nodes": ("local_relationships.forget_orphans", "local_vectors.forget_orphans", "local_users.recount"),
}


@dataclass(frozen=True, slots=True)
class Rescue:
    """What was saved, by table, and where the damaged file is now."""

    rows: Mapping[str, int]
    kept_in: Path

    @property
    def total(self) -> int:
        """Rows saved."""
        return sum(self.rows.values())


@dataclass(frozen=True, slots=True)
class _Table:
    """What a row of a table looks like: its columns, and which one stands for the rowid."""

    name: str
    columns: int
    key: int | None

    def row(self, found: Found) -> tuple[Value, ...] | None:
        """The row as it was written, or None when it is not one of this table, or damaged."""
        rowid, values = found
        if len(values) != self.columns:
            return None
        if self.key is not None:
            values = (*values[: self.key], rowid, *values[self.key + 1 :])
        return values if values[-1] == row_checksum(self.name, *values[:-1]) else None

    @property
    def insert(self) -> str:
        """The statement that stores a row; its names come from our own migrations."""
        marks = ", ".join("?" * self.columns)
        return f"insert or ignore into {queries.quote(self.name)} values ({marks})"  # noqa: S608 - see above


def rescue(path: Path, kind: Kind, events: Events) -> Rescue:
    """Save what is intact, put the new file in place and the damaged one aside. Nobody else may have it open."""
    fresh = _unfinished(path)
    files.remove(fresh)
    files.create(fresh)
    with Pages(path) as pages:
        saved = _fill(fresh, kind, pages, events)
    kept = files.set_aside(path, path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"))
    finish(path)
    return Rescue(saved, kept)


def finish(path: Path) -> None:
    """Put a complete new file in place if a rescue was interrupted just before that."""
    fresh = _unfinished(path)
    if fresh.exists() and not path.exists():
        fresh.rename(path)
        files.flush_directory(path.parent)


def _fill(fresh: Path, kind: Kind, pages: Pages, events: Events) -> dict[str, int]:
    connection = connect(fresh, kind, Patience(0))
    try:
        statements = Statements(connection)
        schema.apply(statements, kind, schema.shipped(kind)[: _level(kind, pages)], events)
        tables = list(_tables(statements))
        saved = dict.fromkeys((table.name for table in tables), 0)
        connection.execute("begin immediate")
        for found in pages.rows():
            for table in tables:
                row = table.row(found)
                if row is not None:
                    connection.execute(table.insert, row)
                    saved[table.name] += connection.changes()
        for table in tables:
            for repair in _REPAIRS.get(table.name, ()):
                statements.run(repair)
        connection.execute("commit")
    finally:
        connection.close(force=True)
    return {name: count for name, count in saved.items() if count}


def _level(kind: Kind, pages: Pages) -> int:
    """The last migration recorded in the damaged file; its rows have the shape of that one."""
    known = {migration.number: migration.checksum for migration in schema.shipped(kind)}
    recorded = (
        rowid
        for rowid, values in pages.rows()
        if len(values) == _MIGRATION_COLUMNS and rowid in known and values[2] == known[rowid]
    )
    return max(recorded, default=len(known))


def _tables(statements: Statements) -> Iterator[_Table]:
    for (name,) in statements.rows("schema.tables"):
        columns = statements.rows("schema.columns", table=name)
        if columns[-1][0] == "checksum" and name != "schema_migrations":
            key = next((place for place, (_, is_key) in enumerate(columns) if is_key), None)
            yield _Table(name, len(columns), key)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".rescued")
