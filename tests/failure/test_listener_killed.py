"""The connection that listens is ended again and again while others write: it comes back, and nothing stays unseen."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy
from tests.support.racers import percentile
from tests.support.recording import Recorded
from tests.support.servers import administration
from tests.support.waiting import until

RECONNECTS_WITHIN = 3.0
FRESH_WITHIN = 2.0
USERS = [f"user-{number}" for number in range(5)]


async def ended(targets: Targets) -> bool:
    """End every connection that listens on a database."""
    async with administration(targets) as connection:
        rows = await connection.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = $1 and pid <> pg_backend_pid() and query ilike 'listen%'",
            targets.runtime.database,
        )
    return bool(rows)


@pytest.mark.hears
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=[pytest.mark.campaign, pytest.mark.timeout(900)])])
async def test_it_comes_back_and_nobody_stays_behind(
    targets: Targets, tmp_path: Path, rng: random.Random, events: Recorded, kills: int
) -> None:
    rarely = {"max_staleness_seconds": 3600, "poll_interval_seconds": 3600}
    writing = HybridMemoryManager(settings_for(targets, data_dir=tmp_path / "one", listen=False, **rarely))
    reading = HybridMemoryManager(settings_for(targets, data_dir=tmp_path / "two", **rarely), events=events)
    async with writing, reading:
        memories = {user: await reading.ensure_user_memories(user) for user in USERS}
        counts, written = dict.fromkeys(USERS, 0), asyncio.Event()

        async def write_on() -> None:
            while not written.is_set():
                user = rng.choice(USERS)
                await writing.store_persistent_memory(user, f"fact {counts[user]}")
                counts[user] += 1
                await asyncio.sleep(rng.uniform(0, 0.02))

        task, took = asyncio.create_task(write_on()), []
        for number in range(kills):
            await until(lambda: reading.health().listener == "listening", "it listens")
            await asyncio.sleep(rng.uniform(0, 0.2))
            assert await ended(targets)
            began = time.monotonic()
            connected = number + 2
            await until(
                lambda connected=connected: len(events.named("listener_connected")) >= connected,  # type: ignore[misc]
                "it is connected again",
            )
            took.append(time.monotonic() - began)
        written.set()
        await task
        await until(
            lambda: all(len(memories[user].get_all_nodes()) == counts[user] for user in USERS),
            "everything is shown",
            seconds=FRESH_WITHIN,
        )
    print(
        f"{kills} kills during {sum(counts.values())} writes: back after p99 {percentile(took, 0.99):.2f} s, none stale"
    )
    assert percentile(took, 0.99) < RECONNECTS_WITHIN


@pytest.mark.hears
@pytest.mark.parametrize("fault", [FaultProxy.black_hole, FaultProxy.reset])
async def test_a_connection_that_falls_silent_is_noticed(
    targets: Targets, proxy: FaultProxy, tmp_path: Path, fault: Callable[[FaultProxy], None]
) -> None:
    """Only the connection that listens goes through the proxy; nobody says goodbye to it."""
    settings = settings_for(
        replace(targets, direct=proxy.target(targets.direct)),
        data_dir=tmp_path / "two",
        max_staleness_seconds=3600,
        poll_interval_seconds=1,
        connect_timeout_seconds=1,
    )
    async with (
        HybridMemoryManager(settings_for(targets, data_dir=tmp_path / "one", listen=False)) as writing,
        HybridMemoryManager(settings) as reading,
    ):
        memory = await reading.ensure_user_memories("nick")
        await until(lambda: reading.health().listener == "listening", "it listens")
        fault(proxy)
        await until(lambda: reading.health().listener == "polling", "it is noticed", seconds=10)
        await writing.store_persistent_memory("nick", "meanwhile")
        await until(lambda: len(memory.get_all_nodes()) == 1, "it is asked for", seconds=3)
        proxy.heal()
        await until(lambda: reading.health().listener == "listening", "it listens again", seconds=10)
        began = time.monotonic()
        await writing.store_persistent_memory("nick", "later")
        await until(lambda: len(memory.get_all_nodes()) == 2, "it is heard")
        assert time.monotonic() - began < 1
