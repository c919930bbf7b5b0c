"""Callers give up at any moment, with and without Postgres: nothing is left of them but what was acknowledged."""

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.errors import StorageUnavailable, UnknownMemory
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.writer import Writer
from hybrid_memory.sqlite.database import _READING_THREADS as READING_THREADS
from tests.support.managers import settings_for
from tests.support.probes import sessions
from tests.support.proxy import FaultProxy
from tests.support.servers import administration
from tests.support.waiting import Deadline, until

USERS = 5
AT_A_TIME = 20
PER_STATE = 400
POOL, LISTENER = 6, 1


@dataclass
class Held:
    """What a process holds that a call could leave behind."""

    descriptors: int
    threads: int
    tasks: Counter[str]

    @classmethod
    def now(cls) -> "Held":
        tasks = Counter(str(task.get_coro()).partition(" at ")[0] for task in asyncio.all_tasks())
        return cls(sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count(), tasks)

    def more_than(self, before: "Held") -> dict[str, Any]:
        more = {"descriptors": self.descriptors - before.descriptors, "threads": self.threads - before.threads}
        return {what: number for what, number in more.items() if number > 0} | dict(self.tasks - before.tasks)


@dataclass
class Callers:
    """Calls of every kind, each given up after a moment or answered."""

    manager: HybridMemoryManager
    rng: random.Random
    acknowledged: Counter[str] = field(default_factory=Counter)
    begun: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    ids: list[tuple[str, str]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)

    async def give_up(self) -> None:
        """Begin one call and cancel it, unless it has been answered by then."""
        call = self.rng.choice(
            [self._store, self._store, self._report, self._say, self._read, self._load, self._change]
        )
        task = asyncio.create_task(call(f"user {self.rng.randrange(USERS)}"))
        await asyncio.wait([task], timeout=self.rng.choice((0, 0.001, 0.005, 0.02, 0.1, 0.3)))
        self.cancelled += task.cancel()
        with suppress(asyncio.CancelledError, StorageUnavailable, UnknownMemory):
            await task

    async def _store(self, user: str) -> None:
        text = f"fact {next(self._numbers)}"
        self.begun[text] += 1
        node_id = await self.manager.store_persistent_memory(user, text, deduplicate=self.rng.random() < 0.5)
        self.acknowledged[text] += 1
        self.ids.append((user, node_id))

    async def _say(self, user: str) -> None:
        text = f"turn {next(self._numbers)}"
        self.begun[text] += 1
        await self.manager.add_message(user, "thread", "user", text)
        self.acknowledged[text] += 1

    async def _report(self, user: str) -> None:
        """A report has a key of its own in one of some entities: one that counts twice shows."""
        number = next(self._numbers)
        self.begun[f"report {number}"] += 1
        await self.manager.store_entity(
            user,
            entity_id=str(number % 50),
            entity_system="s",
            entity_type="counter",
            entity_name=f"counter {number % 50}",
            data={f"report {number}": True},
        )
        self.acknowledged[f"report {number}"] += 1

    async def _read(self, user: str) -> None:
        owner, node_id = self.rng.choice(self.ids) if self.ids else (user, user)
        await self.manager.get_node(owner, node_id)

    async def _load(self, user: str) -> None:
        await self.manager.ensure_user_memories(self.rng.choice([user, f"new {next(self._numbers)}"]))

    async def _change(self, user: str) -> None:
        owner, node_id = self.rng.choice(self.ids) if self.ids else (user, user)
        await self.manager.update_memory(owner, node_id, importance=self.rng.random())


@pytest.fixture
def through(proxy: FaultProxy, targets: Targets, tmp_path: Path) -> Settings:
    reached = proxy.targets(targets)
    return settings_for(
        reached,
        postgres_port=reached.runtime.ports[0],
        postgres_pool_size=POOL,
        postgres_pool_min_size=POOL,
        data_dir=tmp_path,
        max_staleness_seconds=0.2,
        stats_interval_seconds=0,
    )


async def recovered(manager: HybridMemoryManager, proxy: FaultProxy) -> None:
    proxy.heal()
    await until(lambda: manager.health().breaker == "closed", "the breaker closes")
    assert await manager.flush(30)


async def everything_at_once(manager: HybridMemoryManager) -> None:
    """Opens all connections and threads that there may be."""
    parts = await manager._ready()
    assert parts.sessions._filling._keeper is not None
    for file in (manager._state.database(), parts.sessions._filling._keeper._users._cache):
        all_read = threading.Barrier(READING_THREADS)
        await asyncio.gather(*(file.read(lambda _: all_read.wait(5)) for _ in range(READING_THREADS)))  # noqa: B023
    pool = min(32, (os.cpu_count() or 1) + 4)
    all_work = threading.Barrier(pool)
    await asyncio.gather(*(asyncio.to_thread(all_work.wait, 5) for _ in range(pool)))
    with Deadline(10):
        await asyncio.gather(*(manager.ensure_user_memories(f"warm {number}") for number in range(4 * POOL)))
        await asyncio.gather(*(manager.user_stats(f"warm {number}") for number in range(4 * POOL)))
        await asyncio.gather(*(manager.store_persistent_memory(f"warm {n}", "x") for n in range(4 * POOL)))


async def cancel_many(  # noqa: PLR0913, PLR0917 - the fixtures of its tests
    through: Settings, proxy: FaultProxy, targets: Targets, rng: random.Random, cancels: int, seconds: float = 5
) -> tuple[Callers, dict[str, Any]]:
    """Cancel so many calls, with Postgres and without in turn; the callers, and what was left behind."""
    async with HybridMemoryManager(through) as manager:
        callers = Callers(manager, rng)
        await everything_at_once(manager)
        for _ in range(3):
            await callers.give_up()
        proxy.reset()
        await manager.store_persistent_memory("whoever notices", "it is away")
        await recovered(manager, proxy)
        await everything_at_once(manager)
        before = Held.now()
        per_state = min(PER_STATE, cancels // 2)
        for state in range(10**6):
            (proxy.reset if state % 2 else proxy.heal)()
            wanted = min(callers.cancelled + per_state, cancels)
            while callers.cancelled < wanted:
                await asyncio.gather(*(callers.give_up() for _ in range(AT_A_TIME)))
            if callers.cancelled >= cancels:
                break
        await recovered(manager, proxy)
        await everything_at_once(manager)

        async def busy() -> list[str]:
            return [one["query"] for one in await sessions(targets) if one["state"] != "idle"]

        async def quiet() -> bool:
            return not await busy() and not Held.now().more_than(before)

        left: dict[str, Any] = {}
        try:
            await until(quiet, "nothing is left of the calls", seconds=seconds)
        except AssertionError:
            left = Held.now().more_than(before) | dict.fromkeys(await busy(), "busy for nobody")
        found = len(await sessions(targets))
        if found > POOL + LISTENER:
            left["sessions"] = found
        if (await manager._ready()).writer.waiting:
            left["writes"] = "wait for nobody"
        assert await manager.quarantined() == []
    return callers, left


async def check(callers: Callers, targets: Targets) -> None:
    """Acknowledged means stored, once; and nothing comes from nowhere."""
    async with administration(targets) as connection:
        rows = await connection.fetch(
            "select coalesce(content ->> 'text', content ->> 'content') as text from memory.nodes"
            " where user_id like 'user %' and context_type <> 'domain_entity'"
        )
        counters = await connection.fetch(
            "select reported.key, (n.content ->> 'update_count')::int as reports, n.node_id from memory.nodes n,"
            " jsonb_object_keys(n.content -> 'entity_data') as reported (key)"
            " where n.user_id like 'user %' and n.context_type = 'domain_entity'"
        )
    stored = Counter(row["text"] for row in rows) + Counter(row["key"] for row in counters)
    keys = Counter(row["node_id"] for row in counters)
    assert not callers.acknowledged - stored, f"lost: {callers.acknowledged - stored}"
    assert not stored - callers.begun, f"twice, or never asked for: {stored - callers.begun}"
    assert {row["node_id"]: row["reports"] for row in counters} == keys, "reports are counted twice"


@pytest.mark.parametrize("cancels", [120, pytest.param(10_000, marks=[pytest.mark.campaign, pytest.mark.timeout(900)])])
async def test_nothing_is_left_of_cancelled_calls(
    through: Settings, proxy: FaultProxy, targets: Targets, rng: random.Random, cancels: int
) -> None:
    callers, left = await cancel_many(through, proxy, targets, rng, cancels)
    print(
        f"{callers.cancelled} cancellations, half of them without Postgres: left behind {left or 'nothing'}; "
        f"{callers.acknowledged.total()} of {callers.begun.total()} writes acknowledged before, all there"
    )
    assert not left
    await check(callers, targets)
    assert callers.acknowledged, "everybody gave up before he was answered"


def leave_a_task() -> Callable[..., Any]:
    """A bug: a caller that gives up leaves somebody who waits for its answer."""
    honest: Callable[..., Any] = Writer.write

    async def write(writer: Writer, *values: Any) -> Any:
        task = asyncio.ensure_future(honest(writer, *values))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            writer.__dict__.setdefault("_left", []).append(asyncio.create_task(asyncio.Event().wait()))
            raise

    return write


def leave_a_descriptor() -> Callable[..., Any]:
    """A bug: what a load has opened stays open when its caller gives up."""
    honest: Callable[..., Coroutine[Any, Any, Any]] = Sessions.opened

    async def opened(sessions: Sessions, *values: Any) -> Any:
        pipe = os.pipe()
        answer: Awaitable[Any] = honest(sessions, *values)
        found = await answer
        for end in pipe:
            os.close(end)
        return found

    return opened


@pytest.mark.parametrize("bug", ["task", "descriptor"])
async def test_what_is_left_is_found(  # noqa: PLR0913, PLR0917 - fixtures
    through: Settings,
    proxy: FaultProxy,
    targets: Targets,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    bug: str,
) -> None:
    if bug == "task":
        monkeypatch.setattr(Writer, "write", leave_a_task())
    else:
        monkeypatch.setattr(Sessions, "opened", leave_a_descriptor())
    _, left = await cancel_many(through, proxy, targets, rng, 40, seconds=1)
    assert left
