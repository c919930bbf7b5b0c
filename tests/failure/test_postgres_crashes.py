"""Postgres is killed under load and started again: every write is acknowledged, what waits is sent soon and fast."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.errors import OutboxFull, UnknownMemory
from hybrid_memory.observability import Event, Events
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.queue import Queue
from hybrid_memory.replication.replay import Replay
from tests.support.managers import settings_for
from tests.support.scribes import Notes, Scribe, Verdict, verdict
from tests.support.servers import Server, running_server
from tests.support.waiting import SHARED, until

WRITERS = 12
PAUSE = 0.005
USERS = 4
CRASHES_PER_USERS = 3
DRAIN_STARTS_WITHIN = 5.0
FASTER_THAN = 1000.0


@pytest.fixture(scope="module")
def private() -> Iterator[Server]:
    """A server of our own that keeps what it has acknowledged."""
    with running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as started:
        yield started


def kill_postgres(server: Server) -> None:
    server.embedded._run("pg_ctl", "stop", "-D", str(server.embedded._data), "-m", "immediate", "-w", "-t", "60")


def start_postgres(server: Server) -> None:
    server.embedded.start()


@dataclass
class Load:
    """Writers that go on whatever happens, unless they are told to rest."""

    manager: HybridMemoryManager
    notes: Notes
    era: int = 0
    scribes: dict[tuple[int, int], Scribe] = field(default_factory=dict)
    going: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    resting: int = 0

    async def write_on(self, number: int) -> None:
        while not self.ended:
            era = self.era
            scribe = self.scribes.setdefault((era, number), self.scribe(number))
            while self.going.is_set() and era == self.era:
                await scribe.step()
                await asyncio.sleep(PAUSE)
            self.resting += 1
            await self.going.wait()
            self.resting -= 1

    def scribe(self, number: int) -> Scribe:
        return Scribe(self.manager, self.notes, f"user {number % USERS} {self.era}", f"writer {number}")

    async def rest(self) -> None:
        self.going.clear()
        await until(lambda: self.resting == WRITERS, "the writers rest")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as writers:
            for number in range(WRITERS):
                writers.create_task(self.write_on(number))
            yield
            self.ended, self.era = True, -1
            self.going.set()


@dataclass
class Outage:
    """What one outage was like."""

    queued: int
    starts_after: float
    seconds: float


class Replays:
    """When something that waited was sent last, and since when."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def __call__(self, event: Event) -> None:
        if event.name == "outbox_replayed":
            self.last = time.monotonic()
            self.first = self.first or self.last


async def outage(server: Server, manager: HybridMemoryManager, load: Load, replays: Replays, queue: int) -> Outage:
    """Postgres is killed, starts again when so much waits, and has everything soon."""
    load.going.set()
    await asyncio.to_thread(kill_postgres, server)
    await until(lambda: (manager.health().outbox_depth or 0) >= queue, f"{queue} writes wait", seconds=60)
    replays.first = 0.0
    await asyncio.to_thread(start_postgres, server)
    back = time.monotonic()
    await until(lambda: replays.first, "the drain starts", seconds=30)
    await load.rest()
    rested, depth = time.monotonic(), manager.health().outbox_depth or 0
    await until(lambda: manager.health().outbox_depth == 0, "all is sent", seconds=60)
    return Outage(depth, max(replays.first - back, 0), replays.last - rested)


@dataclass
class Crashing:
    """A manager on a server that is killed again and again."""

    server: Server
    targets: Targets
    settings: Settings
    log: Path
    outages: list[Outage] = field(default_factory=list)

    async def run(self, crashes: int, queues: Callable[[], int]) -> None:
        notes, replays = Notes(self.log), Replays()
        async with HybridMemoryManager(self.settings, events=Events(replays)) as manager:
            load = Load(manager, notes)
            async with load.running():
                for crash in range(crashes):
                    load.era = crash // CRASHES_PER_USERS
                    self.outages.append(await outage(self.server, manager, load, replays, queues()))

    async def judged(self) -> Verdict:
        return await verdict(self.targets, self.settings, [self.log])


@pytest.fixture
async def crashing(private: Server, tmp_path: Path) -> AsyncIterator[Crashing]:
    async with private.migrated_database() as targets:
        settings = settings_for(targets, data_dir=tmp_path / "data", max_staleness_seconds=60, stats_interval_seconds=0)
        yield Crashing(private, targets, settings, tmp_path / "log")


@pytest.mark.parametrize("crashes", [1, pytest.param(50, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])])
async def test_every_write_is_acknowledged_and_sent(crashing: Crashing, rng: random.Random, crashes: int) -> None:
    """A write that is refused ends its writer, and the test."""
    await crashing.run(crashes, lambda: rng.randrange(300, 1000))
    outages, found = crashing.outages, await crashing.judged()
    queued, seconds = sum(one.queued for one in outages), sum(one.seconds for one in outages)
    print(
        f"{crashes} crashes: {found.acknowledged} acknowledged, {len(found.lost)} lost, {len(found.twice)} twice; the "
        f"drain began at most {max(one.starts_after for one in outages):.2f} s after the server was back, and sent "
        f"{queued} operations at {queued / seconds:.0f}/s"
    )
    assert not found.wrong
    slack = 1 if crashes > 1 else SHARED
    assert max(one.starts_after for one in outages) < DRAIN_STARTS_WITHIN * slack
    assert queued / seconds >= FASTER_THAN / slack


def drop_when_full() -> Callable[..., Any]:
    """A bug: what finds no room is acknowledged and dropped."""
    honest = Queue.put

    async def put(queue: Queue, operations: Any) -> None:
        try:
            await honest(queue, operations)
        except OutboxFull:
            return

    return put


def send_in_any_order() -> Callable[..., Any]:
    """A bug: the later half of a batch is sent first."""
    honest = Replay._send

    async def send(replay: Replay, operations: Any) -> bool:
        middle = len(operations) // 2
        if middle and not await honest(replay, operations[middle:]):
            return False
        return await honest(replay, operations[:middle] if middle else operations)

    return send


@pytest.mark.parametrize(
    ("bug", "noticed"), [("drops when full", "lost"), ("sends in any order", "lost")], ids=["drops", "disorder"]
)
async def test_planted_bugs_are_caught(
    crashing: Crashing, monkeypatch: pytest.MonkeyPatch, bug: str, noticed: str
) -> None:
    if bug == "drops when full":
        crashing.settings = crashing.settings.model_copy(update={"max_outbox_operations": 150})
        monkeypatch.setattr(Queue, "put", drop_when_full())
    else:
        monkeypatch.setattr(Replay, "_send", send_in_any_order())
    refused = False
    try:
        await crashing.run(1, lambda: 140)
    except* UnknownMemory:
        # A relationship to what was dropped: the next call of its writer tells.
        refused = True
    assert refused or getattr(await crashing.judged(), noticed)
