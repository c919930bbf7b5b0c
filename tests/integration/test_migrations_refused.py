"""What a start refuses to touch, and whether following the sentence helps; schemas and extensions under other names."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from hybrid_memory import migrations
from hybrid_memory.errors import ConfigurationError, SchemaMismatch
from hybrid_memory.migrations import Migration
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings
from tests.support.probes import probed
from tests.support.servers import Server, administration, connection_to, in_database

SHIPPED = migrations.load("postgres")


@pytest.fixture
async def empty(server: Server) -> AsyncIterator[Targets]:
    async with server.empty_database() as targets:
        yield targets


@asynccontextmanager
async def bare_database(server: Server, name: str, owner: str = "hybrid_memory_owner") -> AsyncIterator[Targets]:
    """Not even the extension."""
    async with administration(server.targets) as outside:
        await outside.execute(f"create database {name} owner {owner} template template0")
        try:
            yield in_database(server.targets, name)
        finally:
            await outside.execute(f"drop database {name} with (force)")


async def fingerprint(targets: Targets, name: str) -> object:
    async with administration(targets) as outside:
        return await outside.fetch(
            "select oid, relname, xmin::text from pg_class where relnamespace = $1::text::regnamespace order by 1", name
        )


async def test_a_newer_schema(targets: Targets, settings: Settings) -> None:
    async with administration(targets) as outside:
        await outside.execute("insert into memory.schema_migrations values (99, 'from_the_future', 'x')")
    before = await fingerprint(targets, "memory")
    with pytest.raises(SchemaMismatch, match=rf"is at migration 99, .* knows {len(SHIPPED)}: install the version"):
        await schema.ensure(targets, settings, Events())
    assert await fingerprint(targets, "memory") == before


async def test_an_altered_migration(targets: Targets, settings: Settings) -> None:
    async with administration(targets) as outside:
        await outside.execute("update memory.schema_migrations set checksum = 'other' where number = 2")
    before = await fingerprint(targets, "memory")
    with pytest.raises(SchemaMismatch, match=r"0002_graph is not the one this version ships .* restore the file"):
        await schema.ensure(targets, settings, Events())
    assert await fingerprint(targets, "memory") == before


async def test_the_schema_of_the_earlier_system(empty: Targets, settings: Settings) -> None:
    """It used the same names for tables of another shape."""
    async with connection_to(empty.migration) as owner:
        await owner.execute(
            "create schema memory;"
            "create table memory.nodes (node_id uuid primary key, user_id text, content jsonb);"
            "create table memory.relationships (id serial primary key, from_node_id uuid, to_node_id uuid);"
            "create table memory.user_metadata (user_id text primary key, version int);"
            "insert into memory.user_metadata values ('nick', 7)"
        )
    before = await fingerprint(empty, "memory")
    with pytest.raises(SchemaMismatch, match=r"was not made by hybrid-memory .*nodes, relationships, ") as caught:
        await schema.ensure(empty, settings, Events())
    assert await fingerprint(empty, "memory") == before
    assert "HYBRID_MEMORY_SCHEMA" in str(caught.value)
    await schema.ensure(empty, Settings(schema="memory_2"), Events())
    async with administration(empty) as outside:
        await outside.execute(statement_in(caught.value))
        assert await outside.fetchval("select version from old_memory.user_metadata") == 7
    await schema.ensure(empty, settings, Events())


def statement_in(error: Exception) -> str:
    """The statement that the sentence tells somebody to run."""
    found = re.search(r"((?:CREATE|ALTER) .*;)$", str(error))
    assert found, str(error)
    return found[1]


async def test_a_role_without_rights_is_told_each_line_to_run(server: Server, settings: Settings) -> None:
    """Following every sentence as it stands ends in a working schema."""
    async with bare_database(server, "rightless", "postgres") as targets:
        by_step = ["CREATE EXTENSION vector;", 'CREATE SCHEMA "memory" AUTHORIZATION "hybrid_memory_owner";']
        for expected in by_step:
            with pytest.raises(ConfigurationError, match="run in database 'rightless'") as caught:
                await schema.ensure(targets, settings, Events())
            assert statement_in(caught.value) == expected
            async with administration(targets) as outside:
                await outside.execute(expected)
        state = await schema.ensure(targets, settings, Events())
        assert not state.pending(SHIPPED)


async def test_a_role_that_does_not_own_the_schema(empty: Targets, settings: Settings) -> None:
    await schema.ensure(empty, settings, Events())
    foreign = replace(empty, migration=empty.runtime)
    await schema.ensure(foreign, settings, Events())
    newer = [*SHIPPED, Migration(len(SHIPPED) + 1, "extra", "create table memory.more ();")]
    with pytest.raises(SchemaMismatch, match=r"needs 1 migration.*'hybrid_memory' does not own it.*MIGRATION_URL"):
        await schema.ensure(foreign, settings, Events(), shipped=newer)
    await schema.ensure(empty, settings, Events(), shipped=newer)


@pytest.mark.parametrize("name", ["memory", "Memory_Of_Nick", "select", "a" * 63])
async def test_schema_names(empty: Targets, name: str) -> None:
    given = Settings(schema=name)
    await schema.ensure(empty, given, Events())
    async with probed(empty, given) as database, database.transaction(["nick"]) as transaction:
        await transaction.execute("probe.ensure", user_id="nick")
        assert await transaction.fetchval("probe.lock", user_id="nick") == 0
    async with administration(empty) as outside:
        found = await outside.fetch(
            "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"
        )
    assert [row["nspname"] for row in found] == [name]


async def test_two_schemas_in_one_database(empty: Targets) -> None:
    for name in ("one", "two"):
        await schema.ensure(empty, Settings(schema=name), Events())
    async with probed(empty, Settings(schema="one")) as one, probed(empty, Settings(schema="two")) as two:
        async with one.transaction(["nick"]) as transaction:
            await transaction.execute("probe.ensure", user_id="nick")
        async with two.transaction(["nick"]) as transaction:
            assert await transaction.fetchval("probe.lock", user_id="nick") is None


async def test_an_extension_in_a_schema_of_its_own(server: Server, settings: Settings) -> None:
    async with bare_database(server, "elsewhere") as targets:
        async with administration(targets) as outside:
            await outside.execute(
                "create schema extensions; create extension vector schema extensions;"
                "grant usage on schema extensions to public"
            )
        state = await schema.ensure(targets, settings, Events())
        assert state.vector_schema == "extensions"
        database = await Database.open(targets, settings, Events(), vector_schema="extensions")
        try:
            async with database.transaction(["nick"]) as transaction:
                connection = transaction._connection
                found = await connection.fetchval("select '[1,2]'::extensions.vector")
                assert found.to_list() == [1.0, 2.0]
        finally:
            await database.close()
