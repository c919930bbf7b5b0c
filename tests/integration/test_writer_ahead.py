"""Where many write for one user, half of it is made ready while the other half is on its way; nothing else changes."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import StorageRejected
from hybrid_memory.postgres.batches import Applied, Batches, Operation
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication import writer as writing
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.requests import Answer
from hybrid_memory.replication.writer import Writer
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy
from tests.support.rows import fact_row
from tests.support.servers import administration
from tests.support.waiting import until

CALLERS = 32


class Watched(Batches):
    """Knows what has been made ready, and lets nothing leave while `may_leave` is not set."""

    def __init__(self, database: Database, instance_id: str) -> None:
        super().__init__(database, instance_id)
        self.ready: list[int] = []
        self.left: list[int] = []
        self.may_leave = asyncio.Event()
        self.may_leave.set()

    async def apply(
        self,
        batches: Mapping[str, Sequence[Operation]],
        *,
        when: Callable[[], Awaitable[None]] | None = None,
        **keywords: Any,
    ) -> dict[str, Applied]:
        size = sum(map(len, batches.values()))
        self.ready.append(size)

        async def leaves() -> None:
            if when is not None:
                await when()
            await self.may_leave.wait()
            self.left.append(size)

        return await super().apply(batches, when=leaves, **keywords)


@pytest.fixture(autouse=True)
def any_server_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "QUICK_SECONDS", math.inf)


@pytest.fixture
def batches(database: Database) -> Watched:
    return Watched(database, str(uuid4()))


@pytest.fixture
async def writer(batches: Watched) -> AsyncIterator[Writer]:
    opened = Writer(batches, str(batches._instance), HybridClock(), most_under_way=2)
    yield opened
    await opened.close()


def node(text: str, node_id: str | None = None, **fields: Any) -> Write:
    return Write("nodes", fact_row(node_id or str(uuid4()), text) | fields)


async def texts(targets: Targets) -> list[str]:
    async with administration(targets) as connection:
        rows = await connection.fetch("select content ->> 'text' as text from memory.nodes")
    return sorted(row["text"] for row in rows)


@asynccontextmanager
async def held_up(targets: Targets, user_id: str) -> AsyncIterator[None]:
    """The server can write nothing of a user meanwhile."""
    async with administration(targets) as connection, connection.transaction():
        assert await connection.fetchval("select 1 from memory.user_metadata where user_id = $1 for update", user_id)
        yield


async def all_of(writer: Writer, writes: Sequence[Write]) -> list[Answer | BaseException]:
    return await asyncio.gather(*(writer.write("nick", [one]) for one in writes), return_exceptions=True)


async def test_one_half_is_ready_while_the_other_is_on_its_way(
    writer: Writer, batches: Watched, targets: Targets
) -> None:
    batches.may_leave.clear()
    halves = asyncio.create_task(all_of(writer, [node(f"{number:02}") for number in range(CALLERS)]))
    await until(lambda: len(batches.ready) == 2, "both halves are ready")
    assert batches.left == []
    batches.may_leave.set()
    answers = await halves
    assert batches.left == [CALLERS // 2] * 2
    assert sorted({one.version for one in answers if isinstance(one, Applied)}) == [1, 2]
    assert await texts(targets) == [f"{number:02}" for number in range(CALLERS)]


async def test_the_second_half_leaves_when_the_first_has_been_written(
    writer: Writer, batches: Watched, targets: Targets
) -> None:
    await writer.write("nick", [node("first")])
    async with held_up(targets, "nick"):
        halves = asyncio.create_task(all_of(writer, [node(str(number)) for number in range(CALLERS)]))
        await until(lambda: len(batches.ready) == 3, "both halves are ready")
        await writer.write("ann", [node("hers")])
        assert batches.left == [1, CALLERS // 2, 1]
    await halves
    assert batches.left == [1, CALLERS // 2, 1, CALLERS // 2]


async def test_few_are_not_taken_apart(writer: Writer, batches: Watched) -> None:
    await all_of(writer, [node(str(number)) for number in range(15)])
    assert batches.left == [15]


async def test_where_a_batch_takes_long_it_is_not_taken_apart(
    writer: Writer, batches: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "QUICK_SECONDS", 0)
    for _ in range(2):
        await all_of(writer, [node(str(number)) for number in range(CALLERS)])
    assert batches.left == [CALLERS // 2, CALLERS // 2, CALLERS]
    monkeypatch.setattr(writing, "QUICK_SECONDS", math.inf)
    for _ in range(2):
        await all_of(writer, [node(str(number)) for number in range(CALLERS)])
    assert batches.left[3:] == [CALLERS, CALLERS // 2, CALLERS // 2]


async def test_a_user_of_whom_something_is_ready_can_be_made_to_stand_still(
    writer: Writer, batches: Watched, targets: Targets
) -> None:
    batches.may_leave.clear()
    halves = asyncio.create_task(all_of(writer, [node(str(number)) for number in range(CALLERS)]))
    await until(lambda: len(batches.ready) == 2, "both halves are ready")
    batches.may_leave.set()
    async with asyncio.timeout(10), writer.standing_still("nick"):
        assert len(await texts(targets)) == CALLERS
    await halves


@pytest.mark.parametrize("bad", [3, 20])
async def test_a_bad_write_of_either_half_fails_alone(writer: Writer, targets: Targets, bad: int) -> None:
    writes = [node(f"{number:02}", importance=2 if number == bad else 0.5) for number in range(CALLERS)]
    answers = await all_of(writer, writes)
    assert [place for place, one in enumerate(answers) if isinstance(one, StorageRejected)] == [bad]
    assert await texts(targets) == [f"{number:02}" for number in range(CALLERS) if number != bad]


async def test_what_was_acknowledged_last_is_there_whatever_was_refused_before(
    writer: Writer, targets: Targets, rng: random.Random
) -> None:
    """Numbers that came too late would count as repeats, and be lost without a word."""
    last: dict[str, str] = {}
    ids = [str(uuid4()) for _ in range(200)]

    async def caller(number: int) -> None:
        for turn in range(8):
            one, text = rng.choice(ids[number::CALLERS]), f"{number} {turn}"
            try:
                await writer.write("nick", [node(text, one, importance=2 if rng.random() < 0.02 else 0.5)])
            except StorageRejected:
                continue
            last[one] = text

    await asyncio.gather(*map(caller, range(CALLERS)))
    assert await texts(targets) == sorted(last.values())


async def test_what_is_ready_goes_into_the_outbox_behind_what_was_lost_on_its_way(
    targets: Targets, proxy: FaultProxy
) -> None:
    settings = settings_for(proxy.targets(targets), postgres_port=proxy.port, connect_timeout_seconds=2)
    where = ("memories", "nick")
    async with HybridMemoryManager(settings) as manager:
        await manager.store.aput(where, "first", {"text": "first"})
        async with held_up(targets, "nick"):
            # The later of two writes of an item is in the second half.
            puts = [
                asyncio.create_task(manager.store.aput(where, str(number % 20), {"text": f"{number:02}"}))
                for number in range(CALLERS)
            ]
            await asyncio.sleep(0)
            writer = (await manager._ready()).writer.postgres
            await until(lambda: len(writer._users["nick"].under_way) == 2, "both halves are taken")
            proxy.reset()
            await asyncio.gather(*puts)
        depth = manager.health().outbox_depth
        assert depth is not None
        assert depth >= CALLERS
        proxy.heal()
        assert await manager.flush(timeout=15)
    newest = [f"{number + 20 if number < CALLERS - 20 else number:02}" for number in range(20)]
    assert await texts(targets) == sorted([*newest, "first"])
