"""Which migrations are pending, and what is refused."""

import pytest

from hybrid_memory import migrations
from hybrid_memory.errors import SchemaMismatch
from hybrid_memory.migrations import Applied, Migration

ONE = Migration(1, "first", "create table a ();")
TWO = Migration(
    2, "second", "-- transactional: no\ndrop index concurrently if exists i;\ncreate index concurrently i on a (x);\n"
)


def applied(*done: Migration) -> list[Applied]:
    return [Applied(one.number, one.name, one.checksum) for one in done]


def test_what_is_pending() -> None:
    assert migrations.pending([ONE, TWO], [], "here") == [ONE, TWO]
    assert migrations.pending([ONE, TWO], applied(ONE), "here") == [TWO]
    assert migrations.pending([ONE, TWO], applied(TWO, ONE), "here") == []


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="here is at migration 2, this version of hybrid-memory knows 1: install"):
        migrations.pending([ONE], applied(ONE, TWO), "here")


def test_an_altered_migration_is_refused() -> None:
    altered = Migration(1, "first", "create table b ();")
    with pytest.raises(SchemaMismatch, match="migration 0001_first is not the one this version ships"):
        migrations.pending([altered, TWO], applied(ONE), "here")


def test_a_migration_outside_a_transaction_runs_statement_by_statement() -> None:
    assert ONE.transactional
    assert not TWO.transactional
    assert TWO.statements == ["drop index concurrently if exists i", "create index concurrently i on a (x)"]


def test_ours_are_numbered_without_a_gap() -> None:
    ours = migrations.load("postgres")
    assert [one.number for one in ours] == list(range(1, len(ours) + 1))
    for one in ours:
        if not one.transactional:
            assert one.statements[0].startswith("drop index concurrently if exists"), "safe to run twice"
