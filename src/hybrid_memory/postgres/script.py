"""The whole schema as one script for `psql -f`."""

from hybrid_memory import migrations, queries
from hybrid_memory.migrations import Migration

_HEAD = """\
-- The whole schema, for `psql -v ON_ERROR_STOP=1 -f schema.sql` on an empty database.
-- Made by `hybrid-memory schema` from the migrations, which are the source.

create extension if not exists vector;
create schema memory;
begin;
"""
# Written by ourselves from a number, a file name and a hexadecimal digest; psql has no parameters to bind.
_RECORD = "insert into memory.schema_migrations (number, name, checksum) values ({}, '{}', '{}');\n"


def schema_script(schema: str = "memory") -> str:
    """The migrations and their records, in order, for the given schema name."""
    parts = [_HEAD]
    inside = True
    for migration in migrations.load("postgres"):
        if inside != migration.transactional:
            inside = migration.transactional
            parts.append("begin;\n" if inside else "commit;\n")
        parts.append(f"\n-- {migration.number:04} {migration.name}\n{migration.text.strip()}\n\n{_record(migration)}")
    if inside:
        parts.append("\ncommit;\n")
    return queries.render("".join(parts), schema)


def _record(migration: Migration) -> str:
    return _RECORD.format(migration.number, migration.name, migration.checksum)
