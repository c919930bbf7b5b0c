"""Queries that only tests need, beside the library's own, and a database that knows them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.queries import parse
from hybrid_memory.settings import Settings
from tests.support.servers import administration

PROBES = """
-- name: wait
-- A statement that takes its time.
select pg_sleep(:seconds);

-- name: one
-- A round trip.
select 1;

-- name: users
-- Whose rows are seen, whatever was asked for.
select user_id from memory.user_metadata order by user_id;

-- name: raise
-- An error of one's choice.
do $$ begin raise exception using errcode = '22000'; end $$;

-- name: deferred
-- A transaction that fails at COMMIT.
insert into memory.deferred values (:id);
"""


@asynccontextmanager
async def probed(targets: Targets, settings: Settings, events: Events | None = None) -> AsyncIterator[Database]:
    """The library's pool, with the queries above as `probe.<name>`."""
    database = await Database.open(targets, settings, events or Events())
    database._queries = {**database._queries, **parse("probe", PROBES, "postgres")}
    try:
        yield database
    finally:
        await database.close()


async def stored(targets: Targets) -> set[str]:
    """The users that have a row, looked at from outside."""
    async with administration(targets) as outside:
        return {row["user_id"] for row in await outside.fetch("select user_id from memory.user_metadata")}


async def sessions(targets: Targets) -> list[asyncpg.Record]:
    """The library's sessions on the server and what they do."""
    async with administration(targets) as outside:
        return list(
            await outside.fetch(
                "select pid, state, query from pg_stat_activity "
                "where datname = current_database() and application_name = 'hybrid-memory'"
            )
        )


async def write(database: Database, user: str, *, timeout: float | None = None) -> None:
    """The smallest write there is: a row for `user`."""
    async with database.transaction([user], timeout=timeout) as transaction:
        await transaction.execute("users.ensure", user_id=user)
