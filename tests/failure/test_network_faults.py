"""Networks that lose replies, bytes and directions: calls end in time, reads go on, nothing is lost or doubled."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy, proxy_for
from tests.support.repeats import recognise_no_repeat
from tests.support.scribes import Notes, Scribe, Verdict, verdict
from tests.support.waiting import SHARED, until

DEADLINE = 2.0
HEALTHY_WITHIN = 5.0
READ_WITHIN = 0.05
LANES = 4
# Only the statement that applies a batch says this.
BATCH = b'"oldest"'


def through(proxy: FaultProxy, targets: Targets, directory: Path, waits: float = DEADLINE) -> Settings:
    reached = proxy.targets(targets)
    return settings_for(
        reached,
        postgres_port=reached.runtime.ports[0],
        data_dir=directory,
        command_timeout_seconds=waits,
        max_staleness_seconds=60,
        stats_interval_seconds=0,
    )


class TestRepliesToCommit:
    @pytest.mark.parametrize("losses", [5, pytest.param(200, marks=[pytest.mark.campaign, pytest.mark.timeout(1200)])])
    async def test_are_lost_and_nothing_else(
        self, proxy: FaultProxy, targets: Targets, tmp_path: Path, rng: random.Random, losses: int
    ) -> None:
        found = await replies_lost(proxy, targets, tmp_path, rng, losses)
        print(
            f"{proxy.replies_dropped} replies to COMMIT dropped: {found.acknowledged} acknowledged, "
            f"{len(found.lost)} lost, {len(found.twice)} twice"
        )
        assert not found.wrong

    async def test_skipping_the_watermark_is_caught(
        self,
        proxy: FaultProxy,
        targets: Targets,
        tmp_path: Path,
        rng: random.Random,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        recognise_no_repeat(monkeypatch.setattr)
        assert (await replies_lost(proxy, targets, tmp_path, rng, 40)).twice


async def replies_lost(
    proxy: FaultProxy, targets: Targets, directory: Path, rng: random.Random, losses: int
) -> Verdict:
    """Postgres commits, and whoever asked never hears of it; what is sent again may be lost again."""
    settings, log = through(proxy, targets, directory / "data"), directory / "log"
    proxy.commits_itself = BATCH
    notes = Notes(log)
    async with HybridMemoryManager(settings) as manager:
        scribes = [Scribe(manager, notes, f"user {number}", f"scribe {number}") for number in range(3)]
        took = 0.02
        while proxy.replies_dropped < losses:
            begun = time.monotonic()
            steps = [asyncio.create_task(scribe.step()) for scribe in scribes]
            # Any write of a step may be the one, however fast the machine is.
            await asyncio.sleep(rng.random() * took)
            proxy.at_commit("drop_reply")
            await asyncio.gather(*steps)
            took = time.monotonic() - begun
            proxy.heal()
            assert await manager.flush(20)
    return await verdict(targets, settings, [log])


@dataclass
class Timed:
    """How long calls took."""

    calls: list[float] = field(default_factory=list)
    reads: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measured(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - start
            (self.reads if what == "read" else self.calls).append(took)
            self.slowest[what] = max(took, self.slowest.get(what, 0))

    @property
    def p99_of_reads(self) -> float:
        return statistics.quantiles(self.reads, n=100)[-1]


@dataclass
class Lane:
    """A manager behind a proxy of its own, with readers, writers and new users all the time."""

    name: str
    proxy: FaultProxy
    manager: HybridMemoryManager
    notes: Notes
    timed: Timed
    rng: random.Random
    era: int = 0
    numbers: "count[int]" = field(default_factory=count)

    async def run(self, faults: int) -> None:
        known = f"{self.name}, known"
        await self.manager.store_many(known, [{"content": f"fact {number} of tea"} for number in range(100)])
        await self.manager.ensure_user_memories(known)
        async with AsyncExitStack() as stack:
            for work in (self.read_on(known), self.meet_new_users(), self.write_on(0), self.write_on(1)):
                await stack.enter_async_context(going_on(work))
            for self.era in range(faults):
                self.fail()
                await asyncio.sleep(self.rng.choice((0.1, 0.3, 1.0, 3.0)))
                self.proxy.heal()
                start = time.monotonic()
                await until(self.is_healthy, "it is healthy", seconds=30)
                self.timed.recoveries.append(time.monotonic() - start)

    def fail(self) -> None:
        proxy, rng = self.proxy, self.rng
        faults: list[Callable[[], None]] = [
            proxy.black_hole,
            lambda: proxy.black_hole("to_server"),
            lambda: proxy.black_hole("to_client"),
            proxy.reset,
            lambda: proxy.cut_after(rng.randrange(3000), "to_server"),
            lambda: proxy.cut_after(rng.randrange(600), "to_client"),
            lambda: proxy.swallow_after(rng.randrange(3000), "to_server"),
            lambda: proxy.swallow_after(rng.randrange(600), "to_client"),
        ]
        rng.choice(faults)()

    async def is_healthy(self) -> bool:
        """Whether a write reaches Postgres at once; for somebody of whom nothing waits."""
        if self.manager.health().breaker != "closed":
            return False
        user = f"{self.name}, healthy {next(self.numbers)}"
        node = await self.manager.get_node(user, await self.manager.store_persistent_memory(user, f"{self.era}"))
        return node is not None and node.version is not None

    async def read_on(self, user: str) -> None:
        while True:
            with self.timed.measured("read"):
                memory = await self.manager.ensure_user_memories(user)
                assert memory.retrieve_relevant("tea", max_results=3)
            await asyncio.sleep(0.005)

    async def meet_new_users(self) -> None:
        for number in count():
            with self.timed.measured("load"):
                await self.manager.ensure_user_memories(f"{self.name}, new {number}")
            await asyncio.sleep(0.1)

    async def write_on(self, number: int) -> None:
        while True:
            era, scribe = self.era, self.scribe(number)
            while era == self.era:
                await scribe.step()
                await asyncio.sleep(0.05)

    def scribe(self, number: int) -> Scribe:
        user, name = f"{self.name} {self.era}", f"scribe {number}"
        return Scribe(TimedWrites(self.manager, self.timed), self.notes, user, name)


class TimedWrites(HybridMemoryManager):
    """The calls of a scribe, timed."""

    def __init__(self, manager: HybridMemoryManager, timed: Timed) -> None:
        self._manager = manager
        self._timed = timed

    async def store_persistent_memory(self, *values: Any, **keywords: Any) -> str:
        with self._timed.measured("store"):
            return await self._manager.store_persistent_memory(*values, **keywords)

    async def add_message(self, *values: Any, **keywords: Any) -> str:
        with self._timed.measured("message"):
            return await self._manager.add_message(*values, **keywords)

    async def store_entity(self, *values: Any, **keywords: Any) -> str:
        with self._timed.measured("entity"):
            return await self._manager.store_entity(*values, **keywords)


@asynccontextmanager
async def going_on(work: Awaitable[None]) -> AsyncIterator[None]:
    """Work beside the block, until the block ends; what it raises is raised."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        if not task.done():
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def faults_in_lanes(
    targets: Targets, directory: Path, rng: random.Random, faults: int, waits: float = DEADLINE
) -> tuple[Timed, Verdict]:
    timed, log = Timed(), directory / "log"
    notes = Notes(log)
    async with AsyncExitStack() as stack:
        lanes = []
        for number in range(min(LANES, faults)):
            proxy = await stack.enter_async_context(proxy_for(targets))
            settings = through(proxy, targets, directory / f"data {number}", waits)
            manager = await stack.enter_async_context(HybridMemoryManager(settings))
            lanes.append(Lane(f"lane {number}", proxy, manager, notes, timed, rng))
        async with asyncio.TaskGroup() as running:
            for lane in lanes:
                running.create_task(lane.run(faults // len(lanes)))
        for lane in lanes:
            assert await lane.manager.flush(30)
    return timed, await verdict(targets, settings_for(targets, data_dir=directory / "data 0"), [log])


@pytest.mark.parametrize("faults", [4, pytest.param(200, marks=[pytest.mark.campaign, pytest.mark.timeout(1200)])])
async def test_no_call_outlives_its_deadline(targets: Targets, tmp_path: Path, rng: random.Random, faults: int) -> None:
    timed, found = await faults_in_lanes(targets, tmp_path, rng, faults)
    print(
        f"{faults} faults: {len(timed.calls)} calls, the longest {max(timed.calls):.2f} s at a deadline of "
        f"{DEADLINE:g} s; {len(timed.reads)} local reads, p99 {timed.p99_of_reads * 1000:.1f} ms; healthy at most "
        f"{max(timed.recoveries):.2f} s after healing; {found.acknowledged} acknowledged, {len(found.lost)} lost, "
        f"{len(found.twice)} twice; slowest {timed.slowest}"
    )
    assert not found.wrong
    slack = 1 if faults > LANES else SHARED
    assert max(timed.calls) <= DEADLINE + slack
    assert max(timed.recoveries) <= HEALTHY_WITHIN * slack
    assert timed.p99_of_reads < READ_WITHIN * slack


async def test_a_call_without_a_deadline_is_caught(
    targets: Targets, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug: nobody asks whether the server still answers, and a call waits for longer than it may."""
    monkeypatch.setattr(Link, "_suspect", lambda _: None)
    monkeypatch.setattr(Lane, "fail", lambda lane: lane.proxy.black_hole())
    monkeypatch.setattr(rng, "choice", lambda _: DEADLINE + 1.5)
    timed, _ = await faults_in_lanes(targets, tmp_path, rng, 1, waits=DEADLINE + 1.3)
    assert max(timed.calls) > DEADLINE + 1
