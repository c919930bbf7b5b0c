"""Processes work on the same users while something fails every few seconds: nothing is lost or stale, nothing grows."""

import asyncio
import dataclasses
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory.postgres.target import Targets
from tests.support.children import Child
from tests.support.managers import as_json, settings_for
from tests.support.proxy import FaultProxy, proxy_for
from tests.support.racers import Promised, Race, percentile, race
from tests.support.servers import Server, administration, running_server
from tests.support.waiting import until

PROCESSES_PER_DIRECTORY = 2
LARGEST_WAL = 64_000_000
# The allocator keeps what a busy moment took; a leak goes on.
GROWTH, SLACK = 1.25, 30_000_000


@pytest.fixture(scope="module")
def private() -> Iterator[Server]:
    """A server of our own, to be restarted, that keeps what it has acknowledged."""
    with running_server(18, synchronous_commit="on") as started:
        yield started


@pytest.fixture
async def database(private: Server) -> AsyncIterator[Targets]:
    async with private.migrated_database() as targets:
        yield targets


@dataclass
class Sizes:
    """What a process takes, again and again."""

    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def take(self, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/statm").read_text()
            self.descriptors.append(sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))
            self.memory.append(int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        except OSError:
            """It ends just now."""


class Trouble:
    """Processes, and what happens to them and their server."""

    def __init__(self, server: Server, targets: Targets, proxy: FaultProxy, rng: random.Random, told: Race) -> None:
        self._server = server
        self._targets = targets
        self._proxy = proxy
        self._rng = rng
        self._told = told
        self._ends = time.monotonic() + told.seconds
        self._running = ExitStack()
        self._children: dict[int, Child] = {}
        self._lives = Counter[int]()
        self.sizes: dict[int, Sizes] = {}
        self.largest_wal = 0
        self.happened = Counter[str]()

    def start(self, index: int) -> None:
        self._lives[index] += 1
        told = dataclasses.replace(self._told, seconds=max(1.0, self._ends - time.monotonic()))
        arguments = {"index": index, "run": f"{index}.{self._lives[index]}", "plan": dataclasses.asdict(told)}
        self._children[index] = self._running.enter_context(Child(race, arguments))
        self.sizes[index] = Sizes()

    async def run(self, every: float) -> list[dict[str, Any]]:
        faults: list[Callable[[], Awaitable[None]]] = [
            self._listeners_end, self._all_sessions_end, self._server_restarts, self._black_hole, self._resets,
            self._process_killed, self._process_stands_still,
        ]  # fmt: skip
        with self._running:
            for index in range(self._told.racers):
                self.start(index)
            await until(self._all_are_ready, "all are ready", seconds=120)
            self._ends = time.monotonic() + self._told.seconds
            while time.monotonic() < self._ends - every:
                await asyncio.sleep(every * self._rng.uniform(0.5, 1.5))
                fault = self._rng.choice(faults)
                self.happened[fault.__name__.strip("_")] += 1
                await fault()
                self._measure()
            # Together: the failure of one is seen at once, and ends the others.
            children = self._children.values()
            found: list[dict[str, Any]] = await asyncio.gather(
                *(asyncio.to_thread(one.result, 300) for one in children)
            )
            return found

    def _all_are_ready(self) -> bool:
        return sum(1 for _ in Path(self._told.folder).glob("ready-*")) == self._told.racers

    def _measure(self) -> None:
        for index, child in self._children.items():
            self.sizes[index].take(child.pid)
        for wal in Path(self._told.folder).glob("data-*/*-wal"):
            self.largest_wal = max(self.largest_wal, wal.stat().st_size)

    async def _listeners_end(self) -> None:
        await self._terminate("query ilike 'listen%'")

    async def _all_sessions_end(self) -> None:
        await self._terminate("true")

    async def _terminate(self, which: str) -> None:
        async with administration(self._targets) as connection:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                f" where datname = $1 and pid <> pg_backend_pid() and {which}",
                self._targets.runtime.database,
            )

    async def _server_restarts(self) -> None:
        embedded = self._server.embedded
        arguments = ("pg_ctl", "restart", "-D", str(embedded._data), "-m", "immediate", "-w", "-t", "60")
        await asyncio.to_thread(embedded._run, *arguments)

    async def _black_hole(self) -> None:
        self._proxy.black_hole()
        await self._for_a_while()

    async def _resets(self) -> None:
        self._proxy.reset()
        await self._for_a_while()

    async def _for_a_while(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.2, 3))
        self._proxy.heal()

    async def _process_killed(self) -> None:
        index = self._rng.choice(list(self._children))
        await asyncio.to_thread(self._children[index].kill)
        self.start(index)

    async def _process_stands_still(self) -> None:
        child = self._rng.choice(list(self._children.values()))
        os.kill(child.pid, signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.5, 3))
        os.kill(child.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("racers", "seconds", "every"),
    [(2, 8, 1.0), pytest.param(4, 1200, 5.0, marks=[pytest.mark.campaign, pytest.mark.timeout(3600)])],
)
async def test_mixed_load(  # noqa: PLR0913, PLR0917 - fixtures
    private: Server,
    database: Targets,
    tmp_path: Path,
    rng: random.Random,
    racers: int,
    seconds: float,
    every: float,
) -> None:
    async with proxy_for(database) as proxy:
        for directory in range(racers):
            (tmp_path / f"data-{directory // PROCESSES_PER_DIRECTORY}").mkdir(exist_ok=True)
        settings = settings_for(
            proxy.targets(database),
            data_dir=tmp_path / "data-{directory}",
            max_staleness_seconds=10,
            poll_interval_seconds=1,
            connect_timeout_seconds=3,
        )
        told = Race(as_json(settings), str(tmp_path), racers, seconds=seconds, pause=0.1, hears=False)
        trouble = Trouble(private, database, proxy, rng, told)
        found = await trouble.run(every)
    async with administration(database) as connection:
        promised = Promised.in_diaries(tmp_path)
        differences = await promised.differences(connection)
    delays = [delay for one in found for delay in one["delays"]]
    print(
        f"{racers} processes, {seconds} s, {sum(trouble.happened.values())} faults {dict(trouble.happened)}: "
        f"{len(promised.nodes) + promised.reports.total() + len(promised.gone) + len(promised.edges)} acknowledged, "
        f"{sum(one['refused'] for one in found)} refused; seen elsewhere after p50 {percentile(delays, 0.5):.3f} s, "
        f"p99 {percentile(delays, 0.99):.3f} s, at most {max(delays, default=0):.1f} s; "
        f"largest WAL {trouble.largest_wal / 1e6:.1f} MB; "
        f"memory {[one.memory[-1] // 10**6 for one in trouble.sizes.values() if one.memory]} MB"
    )
    assert differences == []
    assert [one["stale"] for one in found] == [0] * racers
    assert not any("database_replaced" in one["events"] for one in found), "a restart is no restore"
    assert trouble.largest_wal < LARGEST_WAL
    for sizes in trouble.sizes.values():
        early = len(sizes.memory) // 4
        if early:
            assert sizes.memory[-1] < sizes.memory[early] * GROWTH + SLACK, sizes.memory
            assert sizes.descriptors[-1] < max(sizes.descriptors[: early + 1]) + 20, sizes.descriptors
