"""Behind PgBouncer in transaction mode, where every transaction may get another session."""

import asyncio
import random
from dataclasses import replace

import pytest

from hybrid_memory.errors import ConfigurationError, StorageRejected
from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings
from tests.support import pgbouncer
from tests.support.probes import probed, sessions, stored, write
from tests.support.servers import Server

pytestmark = pytest.mark.skipif(
    pgbouncer.PROGRAM is None, reason="pgbouncer is not installed here (Debian: apt-get install pgbouncer)"
)

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
