"""Behind PgBouncer in transaction mode, where every transaction may get another session."""

import asyncio
import random
import time
from dataclasses import replace

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import ConfigurationError, StorageRejected
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings
from tests.support import pgbouncer
from tests.support.managers import settings_for
from tests.support.probes import probed, sessions, stored, write
from tests.support.recording import Recorded
from tests.support.servers import Server, administration
from tests.support.waiting import until

pytestmark = [
    pytest.mark.unpooled,
    pytest.mark.skipif(
        pgbouncer.PROGRAM is None, reason="pgbouncer is not installed here (Debian: apt-get install pgbouncer)"
    ),
]

USERS = [f"user-{number}" for number in range(12)]
SESSIONS = 3


async def one_query(database: Database, rng: random.Random) -> None:
    """One of the things an application does; each sees the rows of the users it is bound to, and no other."""
    mine = rng.sample(USERS, rng.randint(1, 3))
    kind = rng.choice(("write", "read", "count", "fail", "ping"))
    if kind == "ping":
        await database.call("server.ping")
    elif kind == "fail":
        with pytest.raises(StorageRejected):
            async with database.transaction(mine) as transaction:
                await transaction.execute("probe.raise")
    elif kind == "write":
        await write(database, mine[0])
    else:
        async with database.transaction(mine) as transaction:
            seen = {row["user_id"] for row in await transaction.fetch("probe.users")}
            assert seen <= set(mine), f"bound to {mine}, saw {seen}"
            if kind == "count":
                await transaction.fetchval("probe.lock", user_id=mine[0])


async def test_a_thousand_mixed_queries(
    server: Server, targets: Targets, settings: Settings, rng: random.Random
) -> None:
    with pgbouncer.pgbouncer(server, targets, sessions=SESSIONS) as pooled:
        async with probed(pooled, settings.model_copy(update={"postgres_pool_size": 16})) as database:
            for user in USERS:
                await write(database, user)
            todo = iter(range(1_000))

            async def client() -> None:
                for _ in todo:
                    await one_query(database, rng)

            await asyncio.gather(*(client() for _ in range(16)))
            assert next(todo, None) is None
            async with database.transaction() as transaction:
                assert await transaction.fetch("probe.users") == [], "a session kept the binding of a transaction"
            assert database._pool.get_size() > SESSIONS >= len(await sessions(targets)), "sessions were shared"
    assert await stored(targets) == set(USERS)


async def test_without_the_setting_the_error_names_it(server: Server, targets: Targets, settings: Settings) -> None:
    with (
        pgbouncer.pgbouncer(server, targets, sessions=SESSIONS) as pooled,
        pytest.raises(ConfigurationError, match="HYBRID_MEMORY_POOLER=true and POSTGRES_LISTEN_URL"),
    ):
        await Database.open(replace(pooled, pooled=False), settings, Events())


@pytest.mark.skipif(
    pgbouncer.PROGRAM is not None and pgbouncer.version() >= (1, 21),
    reason="this pgbouncer follows named prepared statements",
)
async def test_prepared_statements_lost_in_a_lenient_pooler(
    server: Server, targets: Targets, settings: Settings, rng: random.Random
) -> None:
    lenient = "statement_timeout,idle_in_transaction_session_timeout"
    with (
        pgbouncer.pgbouncer(server, targets, sessions=SESSIONS, ignore=lenient) as pooled,
        pytest.raises(ConfigurationError, match="HYBRID_MEMORY_POOLER=true"),
    ):
        async with probed(replace(pooled, pooled=False), settings) as database:
            await asyncio.gather(*(one_query(database, rng) for _ in range(100)))


async def seen_after(writing: HybridMemoryManager, reading: HybridMemoryManager) -> float:
    """How long it takes until what one process writes is in a memory that another one holds."""
    memory = await reading.ensure_user_memories("nick")
    count = len(memory.get_all_nodes())
    await writing.store_persistent_memory("nick", f"news {count}")
    began = time.monotonic()
    await until(lambda: len(memory.get_all_nodes()) > count, "the news are shown")
    return time.monotonic() - began


async def test_with_a_direct_connection_processes_hear_of_each_other(server: Server, targets: Targets) -> None:
    with pgbouncer.pgbouncer(server, targets, sessions=SESSIONS) as pooled:
        rarely = settings_for(pooled, max_staleness_seconds=3600, poll_interval_seconds=3600)
        async with HybridMemoryManager(rarely) as writing, HybridMemoryManager(rarely) as reading:
            await until(lambda: reading.health().listener == "listening", "it listens")
            assert min([await seen_after(writing, reading) for _ in range(5)]) < 0.25


async def test_without_one_they_ask_and_say_so(server: Server, targets: Targets, events: Recorded) -> None:
    with pgbouncer.pgbouncer(server, targets, sessions=SESSIONS) as pooled:
        settings = settings_for(
            replace(pooled, direct=pooled.runtime), max_staleness_seconds=60, poll_interval_seconds=0.5
        )
        async with HybridMemoryManager(settings) as writing, HybridMemoryManager(settings, events=events) as reading:
            assert max([await seen_after(writing, reading) for _ in range(3)]) < 0.5 + 1
            assert reading.health().listener == "polling"
            (lost,) = events.named("listener_lost")
            assert "POSTGRES_LISTEN_URL" in lost["reason"]


async def test_a_pooler_given_as_the_direct_connection_is_found_out(
    server: Server, targets: Targets, events: Recorded
) -> None:
    lenient = "statement_timeout,idle_in_transaction_session_timeout"
    with pgbouncer.pgbouncer(server, targets, sessions=SESSIONS, ignore=lenient) as pooled:
        through = f"postgresql://{pooled.runtime.user}@127.0.0.1:{pooled.runtime.ports[0]}/{pooled.runtime.database}"
        settings = settings_for(
            pooled, postgres_listen_url=through, poll_interval_seconds=0.5, max_staleness_seconds=60
        )
        async with HybridMemoryManager(settings) as writing, HybridMemoryManager(settings, events=events) as reading:
            await until(lambda: events.named("listener_lost"), "the test hears nothing")
            assert reading.health().listener == "polling"
            assert await seen_after(writing, reading) < 0.5 + 1


async def test_a_link_through_a_pooler_closes_again(server: Server, targets: Targets, events: Recorded) -> None:
    """The server's sessions end and the pooler stays: whether it answers is asked the way the pooler takes it."""
    with pgbouncer.pgbouncer(server, targets, sessions=SESSIONS) as pooled:
        async with HybridMemoryManager(settings_for(pooled), events=events) as manager:
            await manager.store_persistent_memory("nick", "before")
            async with administration(server.targets) as connection:
                name = targets.runtime.database
                await connection.execute(f"alter database {name} with allow_connections false")
                await connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and usename = $2",
                    name,
                    targets.runtime.user,
                )
                await manager.store_persistent_memory("nick", "meanwhile")
                await connection.execute(f"alter database {name} with allow_connections true")
            assert await manager.flush(30)
            assert manager.health().breaker == "closed"
            assert not events.named("postgres_misconfigured")


async def test_migrations_are_not_made_through_a_pooler(server: Server, settings: Settings) -> None:
    async with server.empty_database() as empty:
        with pgbouncer.pgbouncer(server, empty, sessions=SESSIONS) as pooled:
            alone = replace(pooled, direct=pooled.runtime, migration=pooled.runtime)
            with pytest.raises(ConfigurationError, match="HYBRID_MEMORY_MIGRATION_URL"):
                await schema.ensure(alone, settings, Events())
