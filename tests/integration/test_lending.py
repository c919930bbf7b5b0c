"""Connections are lent again as soon as they are free, never to two at a time, and nobody who waits is overtaken."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from hybrid_memory.observability import Events
from hybrid_memory.postgres import lending
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings
from tests.support.probes import has_all_connections, knowing
from tests.support.servers import administration
from tests.support.waiting import Deadline, until

LONG = 60.0


@pytest.fixture
async def narrow(targets: Targets, settings: Settings) -> AsyncIterator[Database]:
    """A pool of a single connection."""
    single = settings.model_copy(update={"postgres_pool_size": 1, "postgres_pool_min_size": 0})
    database = knowing(await Database.open(targets, single, Events()), settings)
    yield database
    await database.close()


async def session_of(database: Database) -> int:
    async with database._connection() as connection:
        pid: int = connection.get_server_pid()
        return pid


async def test_one_call_after_the_other_goes_through_the_same_session(database: Database) -> None:
    async with database._connection():
        assert await session_of(database)
    assert len({await session_of(database) for _ in range(20)}) == 1
    await until(lambda: has_all_connections(database), "it goes back to the pool when nobody comes")
    assert database._pool.get_size() >= 2


async def test_no_two_have_the_same_one(database: Database) -> None:
    under_way: set[int] = set()

    async def work() -> None:
        for _ in range(20):
            async with database._connection() as connection:
                pid = connection.get_server_pid()
                assert pid not in under_way
                under_way.add(pid)
                await asyncio.sleep(0)
                under_way.discard(pid)

    await asyncio.gather(*(work() for _ in range(12)))


async def test_who_waits_is_not_overtaken_by_who_comes_later(narrow: Database) -> None:
    done: list[str] = []

    async def call_on(name: str, times: int) -> None:
        for _ in range(times):
            await narrow.call("probe.wait", seconds=0.005)
            done.append(name)

    async def follow() -> None:
        while not done:
            await asyncio.sleep(0)
        await call_on("second", 1)

    await asyncio.gather(call_on("first", 20), follow())
    assert done.index("second") <= 3


# A pooler keeps its client's connection when it loses a session of the server.
@pytest.mark.unpooled
async def test_one_that_was_lost_is_not_lent_again(
    narrow: Database, targets: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "_SECONDS_AT_HAND", LONG)
    lost = await session_of(narrow)
    assert await session_of(narrow) == lost
    async with administration(targets) as outside:
        await outside.fetchval("select pg_terminate_backend($1, 5000)", lost)
    await until(lambda: narrow._pool.get_size() == 0, "it is noticed")
    assert await session_of(narrow) != lost


@pytest.mark.parametrize("how", ["interrupted", "closed"])
async def test_what_is_at_hand_goes_back(narrow: Database, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(lending, "_SECONDS_AT_HAND", 0.2 if how == "interrupted" else LONG)
    before = await session_of(narrow)
    if how == "interrupted":
        await narrow.interrupt()
        assert await session_of(narrow) != before
    else:
        with Deadline(1):
            await narrow.close()
        assert not narrow._recovering
