"""Errors that a real server really gives, through the library's own calls."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import asyncpg
import pytest

from hybrid_memory.errors import ConfigurationError, HybridMemoryError, StorageRejected, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.queries import parse
from hybrid_memory.settings import Settings
from tests.support.probes import has_all_connections, probed, write
from tests.support.servers import administration
from tests.support.waiting import until

STATEMENTS = """
-- name: divide
-- 22012
select 1 / 0;

-- name: text
-- A parameter that must be text.
select :value::text;

-- name: double
-- 23505
insert into memory.user_metadata (user_id) values (:user_id);

-- name: statistics
-- 42501
select * from memory.user_stats;

-- name: bump
-- Write to a user's row.
update memory.user_metadata set version = version + 1 where user_id = :user_id;

-- name: at_once
-- 55P03
select from memory.user_metadata where user_id = :user_id for update nowait;

-- name: suicide
-- 57P01
select pg_terminate_backend(pg_backend_pid());

-- name: missing
-- 42P01
select * from memory.no_such_table;

-- name: everything
-- A result whose columns a migration can change.
select * from memory.deployment;
"""
Provoke = Callable[[Database], Awaitable[object]]


@pytest.fixture
async def targets(lasting_targets: Targets) -> Targets:
    async with administration(lasting_targets) as outside:
        await outside.execute("truncate memory.user_metadata, memory.erasures")
    return lasting_targets


@pytest.fixture
async def database(targets: Targets, settings: Settings) -> AsyncIterator[Database]:
    kept = settings.model_copy(update={"postgres_pool_min_size": 1})
    async with probed(targets, kept) as opened:
        opened._queries = {**opened._queries, **parse("provoke", STATEMENTS, "postgres")}
        yield opened


async def double(database: Database) -> None:
    await write(database, "nick")
    async with database.transaction(["nick"]) as transaction:
        await transaction.execute("provoke.double", user_id="nick")


async def too_large(database: Database) -> None:
    # Random bytes, because the index compresses.
    import random

    await write(database, "".join(random.Random(1).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=9_000)))


async def another_user(database: Database) -> None:
    async with database.transaction(["anna"]) as transaction:
        await transaction.execute("provoke.double", user_id="nick")


async def serialisation(database: Database) -> None:
    await write(database, "nick")
    async with database.transaction(["nick"], isolation="repeatable_read") as slow:
        await slow.fetch("probe.users")
        async with database.transaction(["nick"]) as fast:
            await fast.execute("provoke.bump", user_id="nick")
        await slow.execute("provoke.bump", user_id="nick")


async def deadlock(database: Database) -> None:
    for user in ("anna", "nick"):
        await write(database, user)
    both_hold = asyncio.Barrier(2)

    async def lock(first: str, second: str) -> None:
        async with database.transaction(["anna", "nick"]) as transaction:
            await transaction.execute("provoke.bump", user_id=first)
            await both_hold.wait()
            await transaction.execute("provoke.bump", user_id=second)

    answers = await asyncio.gather(lock("anna", "nick"), lock("nick", "anna"), return_exceptions=True)
    failed = [answer for answer in answers if answer is not None]
    assert len(failed) == 1
    raise failed[0]


async def locked(database: Database) -> None:
    await write(database, "nick")
    async with database.transaction(["nick"]) as holder:
        await holder.fetchval("probe.lock", user_id="nick")
        async with database.transaction(["nick"]) as other:
            await other.execute("provoke.at_once", user_id="nick")


CASES: list[tuple[str, Provoke, type[HybridMemoryError]]] = [
    ("22012", lambda database: database.call("provoke.divide"), StorageRejected),
    ("22000", lambda database: database.call("provoke.text", value=b"bytes"), StorageRejected),
    ("22000", lambda database: database.call("provoke.text", value="\ud800"), StorageRejected),
    ("22021", lambda database: database.call("provoke.text", value="a\0b"), StorageRejected),
    ("23505", double, StorageRejected),
    ("54000", too_large, StorageRejected),
    ("42501", lambda database: database.call("provoke.statistics"), ConfigurationError),
    ("42501", another_user, ConfigurationError),
    ("42P01", lambda database: database.call("provoke.missing"), ConfigurationError),
    ("40001", serialisation, StorageUnavailable),
    ("40P01", deadlock, StorageUnavailable),
    ("55P03", locked, StorageUnavailable),
]


@pytest.mark.parametrize(
    ("sqlstate", "provoke", "expected"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)]
)
async def test_provoked(database: Database, sqlstate: str, provoke: Provoke, expected: type[HybridMemoryError]) -> None:
    with pytest.raises(expected, match=sqlstate) as caught:
        await provoke(database)
    if isinstance(caught.value, StorageUnavailable):
        assert not caught.value.outcome_unknown
    await write(database, "afterwards")
    await until(lambda: has_all_connections(database), "all connections are given back")


async def test_57p01_is_lost_and_not_written(database: Database) -> None:
    with pytest.raises(StorageUnavailable) as caught:
        async with database.transaction(["nick"]) as transaction:
            await transaction.execute("probe.ensure", user_id="nick")
            await transaction.execute("provoke.suicide")
    assert not caught.value.outcome_unknown
    await write(database, "afterwards")


async def test_a_failure_that_the_block_swallowed_is_no_success(database: Database) -> None:
    with pytest.raises(StorageRejected, match="nothing was written"):
        async with database.transaction(["nick"]) as transaction:
            await transaction.execute("probe.ensure", user_id="nick")
            with suppress(asyncpg.DataError):
                await transaction.execute("probe.raise")
    async with database.transaction(["nick"]) as transaction:
        assert await transaction.fetch("probe.users") == []


async def test_a_database_without_pgvector(targets: Targets, settings: Settings) -> None:
    elsewhere = replace(targets, runtime=targets.runtime.to_database("template1"))
    with pytest.raises(ConfigurationError, match="pgvector is not in schema 'public'"):
        await Database.open(elsewhere, settings, Events())


async def test_53300_too_many_connections(targets: Targets, settings: Settings) -> None:
    role = "crowded"
    async with administration(targets) as outside:
        await outside.execute(f"create role {role} login connection limit 1")
        await outside.execute("select memory.grant_runtime($1)", role)
        try:
            crowded = replace(targets, runtime=replace(targets.runtime, user=role))
            async with probed(crowded, settings.model_copy(update={"postgres_pool_min_size": 1})) as database:
                async with database.transaction() as transaction:
                    await transaction.fetch("probe.one")
                    with pytest.raises(StorageUnavailable, match="53300") as caught:
                        await database.call("server.ping")
                    assert not caught.value.outcome_unknown
                await database.call("server.ping")
        finally:
            await outside.execute(f"drop owned by {role}; drop role {role}")


async def test_a_migration_under_a_prepared_statement(database: Database, targets: Targets) -> None:
    """What another process's migration does to a running one is not the fault of the data."""
    async with database.transaction() as transaction:
        await transaction.fetch("provoke.everything")
    async with administration(targets) as outside:
        await outside.execute("alter table memory.deployment add column later integer")
    await until(lambda: has_all_connections(database), "the connection is given back")
    with pytest.raises(StorageUnavailable, match="0A000") as caught:
        async with database.transaction() as transaction:
            await transaction.fetch("provoke.everything")
    assert not caught.value.outcome_unknown
    async with database.transaction() as transaction:
        (row,) = await transaction.fetch("provoke.everything")
    assert "later" in row.keys()  # noqa: SIM118 - a record is no mapping
