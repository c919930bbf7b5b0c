"""What every table and statement of the SQLite side keeps to: the checksums and the rescue rest on it."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from hybrid_memory import queries
from hybrid_memory.observability import Events
from hybrid_memory.sqlite import checksum, schema
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.files import CACHE, STATE, Kind

ROOT = Path(__file__).parents[2]
SOURCE = "\n".join(module.read_text() for module in (ROOT / "src" / "hybrid_memory" / "sqlite").rglob("*.py"))
OWN = {"schema"}


@pytest.fixture(params=[STATE, CACHE], ids=lambda kind: kind.name)
def migrated(request: pytest.FixtureRequest) -> Iterator[Statements]:
    """A file of each kind, with its schema."""
    connection = apsw.Connection(":memory:")
    checksum.register(connection)
    statements = Statements(connection)
    schema.ensure(statements, request.param, Events())
    yield statements
    connection.close()


def tables(statements: Statements) -> list[str]:
    return [name for (name,) in statements.rows("schema.tables") if name != "schema_migrations"]


def test_every_table_ends_with_its_checksum_and_has_a_rowid(migrated: Statements) -> None:
    assert tables(migrated)
    for table in tables(migrated):
        assert migrated.rows("schema.columns", table=table)[-1][0] == "checksum", table
        migrated.connection.execute(f"select rowid from {queries.quote(table)}")


def test_every_table_can_be_verified_over_all_its_columns(migrated: Statements) -> None:
    for table in tables(migrated):
        *columns, _ = [name for name, _ in migrated.rows("schema.columns", table=table)]
        text = re.sub(r"\s+", " ", migrated.text(f"{table}.verify"))
        assert f"row_is_intact(checksum, '{table}', {', '.join(columns)})" in text


def test_rows_are_read_with_their_checksum_and_written_with_it() -> None:
    for name, query in queries.load("sqlite").items():
        if name.split(".")[0] in OWN or re.search("place_of|size_of", name):
            continue
        if query.text.lstrip().startswith(("select", "with")):
            assert re.search(r"row_is_intact\((\w+\.)?checksum, ", query.text), name
        if re.match(r"\s*(insert|update)", query.text):
            assert "row_checksum(" in query.text, name


def test_every_query_can_be_prepared_in_one_of_the_files() -> None:
    left = dict(queries.load("sqlite"))
    for kind in (STATE, CACHE):
        for name in list(left):
            if _can_be_prepared(kind, name):
                del left[name]
    assert left == {}


def _can_be_prepared(kind: Kind, name: str) -> bool:
    connection = apsw.Connection(":memory:")
    checksum.register(connection)
    statements = Statements(connection)
    schema.ensure(statements, kind, Events())
    query = queries.load("sqlite")[name]
    try:
        connection.execute(f"explain {query.text}", dict.fromkeys(query.parameters))
    except apsw.SQLError:
        return False
    finally:
        connection.close()
    return True


def test_every_query_is_used() -> None:
    for name in queries.load("sqlite"):
        if not name.endswith(".verify"):
            assert f'"{name}"' in SOURCE, name


def test_no_database_is_opened_by_anything_but_apsw() -> None:
    assert not re.search(r"import (sqlite3|aiosqlite)|from (sqlite3|aiosqlite)", SOURCE)


def test_every_query_for_files_of_the_stock_saver_fits_one_and_is_used() -> None:
    code = "\n".join(module.read_text() for module in (ROOT / "src" / "hybrid_memory" / "transfer").rglob("*.py"))
    with closing(sqlite3.connect(":memory:")) as connection:
        SqliteSaver(connection).setup()
        for name, query in queries.load("stock").items():
            connection.execute(f"explain {query.text}", dict.fromkeys(query.parameters))
            assert f'"{name}"' in code, name
