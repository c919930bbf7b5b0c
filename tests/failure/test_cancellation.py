"""Cancelled calls leave nothing behind: no connection, no transaction, no task."""

import asyncio
import random
from contextlib import suppress

import pytest

from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings
from tests.support.probes import has_all_connections, probed, sessions, write
from tests.support.servers import administration
from tests.support.waiting import Deadline, until


@pytest.fixture
async def targets(lasting_targets: Targets) -> Targets:
    async with administration(lasting_targets) as outside:
        await outside.execute("truncate memory.user_metadata, memory.erasures")
    return lasting_targets


@pytest.mark.parametrize("cancels", [200, pytest.param(10_000, marks=pytest.mark.campaign)])
async def test_random_cancellations(targets: Targets, settings: Settings, rng: random.Random, cancels: int) -> None:
    size = 6
    kept = settings.model_copy(update={"postgres_pool_size": size, "postgres_pool_min_size": 2})
    async with probed(targets, kept) as database:

        async def work(number: int) -> None:
            async with database.transaction([f"user-{number}"]) as transaction:
                await transaction.execute("probe.ensure", user_id=f"user-{number}")
                await transaction.fetchval("probe.lock", user_id=f"user-{number}")
                if number % 3 == 0:
                    await transaction.execute("probe.wait", seconds=5.0)

        async def cancelled(number: int) -> None:
            task = asyncio.create_task(work(number))
            await asyncio.wait([task], timeout=rng.choice((0, 0.001, 0.003, 0.01, 0.02)))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        before = asyncio.all_tasks()
        for first in range(0, cancels, 10):
            await asyncio.gather(*(cancelled(number) for number in range(first, min(first + 10, cancels))))
        await until(lambda: not database._recovering, "all connections are taken back")
        with Deadline(2):
            await asyncio.gather(*(write(database, f"after-{number}") for number in range(2 * size)))
        await until(lambda: has_all_connections(database), "all connections are given back")
        assert 2 <= database._pool.get_size() <= size

        async def busy() -> list[tuple[str, str]]:
            return [(one["state"], one["query"]) for one in await sessions(targets) if one["state"] != "idle"]

        async def quiet() -> bool:
            return not await busy()

        try:
            await until(quiet, "no session is in a transaction or still busy for nobody", seconds=3)
        except AssertionError:
            pytest.fail(f"still there for nobody: {await busy()}")
        assert len(await sessions(targets)) <= size
        assert asyncio.all_tasks() == before, "a task was left behind"
        print(f"{cancels} cancellations: {database._pool.get_size()} connections of {size}, all idle, no task left")


async def test_a_cancelled_call_lets_go_of_its_lock(targets: Targets, settings: Settings) -> None:
    async with probed(targets, settings) as database:
        await write(database, "nick")
        holding = asyncio.Event()

        async def hold() -> None:
            async with database.transaction(["nick"]) as transaction:
                await transaction.fetchval("probe.lock", user_id="nick")
                holding.set()
                await transaction.execute("probe.wait", seconds=60.0)

        task = asyncio.create_task(hold())
        await holding.wait()
        task.cancel()
        with Deadline(0), suppress(asyncio.CancelledError):
            await task
        with Deadline(1):
            async with database.transaction(["nick"]) as transaction:
                assert await transaction.fetchval("probe.lock", user_id="nick") == 0


async def test_a_caller_that_walks_away_from_the_block(targets: Targets, settings: Settings) -> None:
    """An error of the application in the block is rolled back and comes out as it is."""
    async with probed(targets, settings) as database:
        with pytest.raises(LookupError, match="mine"):
            async with database.transaction(["nick"]) as transaction:
                await transaction.execute("probe.ensure", user_id="nick")
                raise LookupError("mine")
        assert database._pool.get_idle_size() == database._pool.get_size()
        async with database.transaction(["nick"]) as transaction:
            assert await transaction.fetch("probe.users") == []
