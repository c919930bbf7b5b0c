"""Queries that only tests need, beside the library's own, and a database that knows them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.queries import parse, render
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

-- name: ensure
-- The smallest write: a row for a user.
insert into memory.user_metadata (user_id) values (:user_id) on conflict (user_id) do nothing;

-- name: lock
-- The version of a user, held until the transaction ends.
select version from memory.user_metadata where user_id = :user_id for update;

-- name: touch
-- Another write, through a function.
select memory.touch_user(:user_id);

-- name: raise
-- An error of one's choice.
do $$ begin raise exception using errcode = '22000'; end $$;
"""


def knowing(database: Database, settings: Settings) -> Database:
    """Teach it the queries above."""
    probes = parse("probe", render(PROBES, settings.schema_name), "postgres")
    database._queries = {**database._queries, **probes}
    return database


def has_all_connections(database: Database) -> bool:
    """Whether nobody has a connection, and none is at hand for the next call: all are in the pool."""
    return not database._recovering and database._pool.get_idle_size() == database._pool.get_size()


@asynccontextmanager
async def probed(targets: Targets, settings: Settings, events: Events | None = None) -> AsyncIterator[Database]:
    """The library's pool, with the queries above as `probe.<name>`."""
    database = knowing(await Database.open(targets, settings, events or Events()), settings)
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
        await transaction.execute("probe.ensure", user_id=user)
