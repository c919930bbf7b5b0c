"""SIGKILL while two processes write for the same users in one data directory, half of the time without Postgres."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.observability import Events
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.queue import Queue
from tests.support.children import Child
from tests.support.managers import as_json, settings_for
from tests.support.proxy import FaultProxy
from tests.support.scribes import Notes, Scribe, Verdict, count_of, noted, verdict
from tests.support.waiting import SHARED, until

SCRIBES = 4
KILLS_PER_STATE = 2
KILLS_PER_USERS = 24
LIVES = (0, 1, 1, 3, 10, 30, 60)
READY_WITHIN = 2.0
EARLY_BY = 1.0


async def write_until_killed(  # noqa: PLR0913, PLR0917 - what a child process is told
    events: Events, settings: Mapping[str, Any], log: str, name: str, users: list[str], bug: str | None
) -> None:
    start = time.monotonic()
    if bug == "acknowledges before it is durable":
        acknowledge_early()
    notes = Notes(log)
    async with HybridMemoryManager(Settings(**settings), events=events) as manager:
        scribes = [Scribe(manager, notes, users[n % len(users)], f"{name}-{n}") for n in range(SCRIBES)]

        async def write_on(scribe: Scribe) -> None:
            while True:
                await scribe.step()

        await scribes[0].step()
        notes.note(ready=time.monotonic() - start)
        await asyncio.gather(*map(write_on, scribes))


def acknowledge_early() -> None:
    """A bug: what goes into the outbox is acknowledged a moment before it is there."""
    honest, tasks = Queue.put, set()

    async def later(queue: Queue, operations: Any) -> None:
        await asyncio.sleep(EARLY_BY)
        await honest(queue, operations)

    async def put(queue: Queue, operations: Any) -> None:
        tasks.add(asyncio.ensure_future(later(queue, operations)))

    setattr(Queue, "put", put)  # noqa: B010 - mypy does not take a function for a method


@dataclass
class Killing:
    """Two processes at a time, killed one after the other."""

    proxy: FaultProxy
    settings: Settings
    directory: Path
    rng: random.Random
    bug: str | None = None
    lives: Sequence[int] = LIVES
    """How many writes are acknowledged between what happens to Postgres and a kill: one of these."""
    logs: list[Path] = field(default_factory=list)
    killed_without_postgres: int = 0

    async def run(self, kills: int) -> None:
        running = [self._start(0), self._start(0)]
        try:
            for kill in range(kills):
                away = kill // KILLS_PER_STATE % 2 == 1
                if kill % KILLS_PER_STATE == 0:
                    (self.proxy.reset if away else self.proxy.heal)()
                child, log = running.pop(self.rng.randrange(2))
                try:
                    await self._kill(child, log)
                finally:
                    child.end()
                self.killed_without_postgres += away
                running.append(self._start(kill))
            for survivor in running:
                await self._grown(*survivor, "ready", 1)
        finally:
            for child, _ in running:
                child.end()
        self.proxy.heal()

    @property
    def starts(self) -> list[float]:
        return [said["ready"] for log in self.logs for said in noted(log) if "ready" in said]

    async def _kill(self, child: Child, log: Path) -> None:
        await self._grown(child, log, "acknowledged", count_of(log, "acknowledged") + self.rng.choice(self.lives))
        await asyncio.to_thread(child.kill)

    async def _grown(self, child: Child, log: Path, word: str, wanted: int) -> None:
        def old_enough() -> bool:
            assert child.alive, f"ended by itself: {child.result(1)}"
            return count_of(log, word) >= wanted

        await until(old_enough, f"{wanted} times {word}", seconds=30)

    def _start(self, kill: int) -> tuple[Child, Path]:
        name = f"p{len(self.logs)}"
        log = self.directory / f"{name}.log"
        self.logs.append(log)
        era = kill // KILLS_PER_USERS
        arguments = {
            "settings": as_json(self.settings),
            "log": str(log),
            "name": name,
            "users": [f"ann {era}", f"bob {era}", f"eve {era}"],
            "bug": self.bug,
        }
        return Child(write_until_killed, arguments), log


@pytest.fixture
def killing(proxy: FaultProxy, targets: Targets, tmp_path: Path, rng: random.Random) -> Killing:
    reached = proxy.targets(targets)
    settings = settings_for(
        reached,
        postgres_port=reached.runtime.ports[0],
        data_dir=tmp_path / "data",
        max_staleness_seconds=60,
        stats_interval_seconds=0,
    )
    return Killing(proxy, settings, tmp_path, rng)


async def judged(killing: Killing, targets: Targets) -> Verdict:
    return await verdict(targets, killing.settings, killing.logs)


@pytest.mark.parametrize("kills", [4, pytest.param(500, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])])
async def test_nothing_acknowledged_is_lost_or_doubled(killing: Killing, targets: Targets, kills: int) -> None:
    await killing.run(kills)
    found = await judged(killing, targets)
    starts = sorted(killing.starts)
    print(
        f"{kills} kills, {killing.killed_without_postgres} of them without Postgres: {found.acknowledged} "
        f"acknowledged, {len(found.lost)} lost, {len(found.twice)} twice; from start to the first acknowledged write "
        f"{starts[len(starts) // 2]:.2f} s, at most {starts[-1]:.2f} s"
    )
    assert not found.wrong
    assert found.acknowledged > kills
    assert starts[-1] < READY_WITHIN * (1 if kills > 100 else SHARED)


async def test_acknowledging_early_is_caught(killing: Killing, targets: Targets) -> None:
    killing.bug = "acknowledges before it is durable"
    killing.lives = (30,)
    await killing.run(4)
    assert (await judged(killing, targets)).lost
