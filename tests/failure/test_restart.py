"""The server is restarted without a shutdown while calls run: the same process goes on, and nothing is lost."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.settings import Settings
from tests.support.ledger import Ledger
from tests.support.probes import probed, stored, write
from tests.support.servers import Server, running_server
from tests.support.waiting import until

DEADLINE = 5.0
WRITERS = 8


@pytest.fixture(scope="module")
def private() -> Iterator[Server]:
    """A server of our own that keeps what it has acknowledged."""
    with running_server(18, synchronous_commit="on") as started:
        yield started


def restart(server: Server) -> None:
    server.embedded._run("pg_ctl", "restart", "-D", str(server.embedded._data), "-m", "immediate", "-w", "-t", "60")


async def keep_writing(database: Database, ledger: Ledger, numbers: Iterator[int], ended: asyncio.Event) -> None:
    while not ended.is_set():
        name = f"user-{next(numbers)}"
        if not await ledger.record(name, write(database, name, timeout=DEADLINE)):
            await asyncio.sleep(0.01)  # A caller that is refused at once does not try again at once.


async def more_acknowledged(ledger: Ledger, number: int) -> None:
    wanted = len(ledger.acknowledged) + number
    await until(lambda: len(ledger.acknowledged) >= wanted, "calls are answered", seconds=20)


@pytest.mark.parametrize("restarts", [2, pytest.param(20, marks=pytest.mark.campaign)])
async def test_immediate_restarts_under_load(
    private: Server, settings: Settings, rng: random.Random, restarts: int
) -> None:
    ledger, numbers, ended, recoveries = Ledger(), count(), asyncio.Event(), []
    async with private.migrated_database() as targets, probed(targets, settings, Events()) as database:
        writers = [asyncio.create_task(keep_writing(database, ledger, numbers, ended)) for _ in range(WRITERS)]
        for _ in range(restarts):
            await more_acknowledged(ledger, rng.randrange(20, 200))
            await asyncio.to_thread(restart, private)
            start = time.monotonic()
            await more_acknowledged(ledger, 1)
            recoveries.append(time.monotonic() - start)
        ended.set()
        await asyncio.gather(*writers)
        assert database._pool.get_size() <= settings.postgres_pool_size
        there = await stored(targets)
    print(
        f"{restarts} restarts: {len(ledger.acknowledged)} acknowledged, {len(ledger.unknown)} unknown, "
        f"{len(ledger.refused)} refused, longest call {ledger.longest:.2f} s, "
        f"longest recovery {max(recoveries):.2f} s after the server was back"
    )
    ledger.check(there)
    assert ledger.longest <= DEADLINE + 1
    assert ledger.unknown | ledger.refused, "the restarts disturbed nobody, so nothing was tested"
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        ledger.check(there - {min(ledger.acknowledged)})
    with pytest.raises(AssertionError, match="reported as not written"):
        replace(ledger, refused={min(there)}, acknowledged=set()).check({min(there)})
