"""The writer: neighbours share a round trip, each caller gets its own answer, order is kept."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from hybrid_memory import Settings
from hybrid_memory.errors import StorageRejected, StorageUnavailable
from hybrid_memory.postgres.batches import IF_VERSION, Applied, Batches
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.writer import Answer, Writer
from tests.support.recording import Recorded
from tests.support.rows import fact_row
from tests.support.servers import administration


def node(node_id: str | None = None, text: str = "a fact", **fields: Any) -> Write:
    return Write("nodes", fact_row(node_id or str(uuid4()), text) | fields)


def edge(one: str, two: str) -> Write:
    ends = {"from_node_id": one, "to_node_id": two}
    return Write("edges", ends | {"relationship_type": "led_to", "strength": 1, "metadata": {}})


def delete(node_id: str) -> Write:
    return Write("deletes", {"node_id": node_id})


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    instance = str(uuid4())
    opened = Writer(Batches(database, instance), instance, HybridClock())
    yield opened
    await opened.close()


async def stored(targets: Targets) -> dict[str, str]:
    async with administration(targets) as connection:
        rows = await connection.fetch("select node_id, content->>'text' as text from memory.nodes")
    return {str(row["node_id"]): row["text"] for row in rows}


def calls(events: Recorded) -> int:
    return sum(1 for fields in events.named("postgres_statement") if fields["query"].startswith("batches."))


async def test_many_callers_share_few_round_trips(writer: Writer, targets: Targets, events: Recorded) -> None:
    applied = await asyncio.gather(*(writer.write("nick", [node()]) for _ in range(200)))
    assert len(await stored(targets)) == 200
    assert calls(events) == 2
    assert {one.mark for one in applied if isinstance(one, Applied)} == {128, 200}
    assert writer.waiting == 0


@pytest.mark.parametrize(("users", "sent"), [(16, 1), (32, 2), (64, 4), (128, 4)])
async def test_users_travel_together_in_few_calls_side_by_side(
    writer: Writer, targets: Targets, events: Recorded, users: int, sent: int
) -> None:
    await asyncio.gather(*(writer.write(f"user{number}", [node()]) for number in range(users)))
    assert len(await stored(targets)) == users
    assert calls(events) == sent


async def test_who_writes_on_at_once_is_heard_by_the_same_sender(writer: Writer, targets: Targets) -> None:
    await writer.write("nick", [node()])
    senders = set(writer._calls)
    for _ in range(5):
        await writer.write("nick", [node()])
        senders |= writer._calls
    assert len(senders) == 1
    await writer.drained()
    assert len(await stored(targets)) == 6


async def test_of_who_waits_for_nothing_only_his_numbers_are_kept(writer: Writer) -> None:
    users = [f"user{number}" for number in range(20)]
    for _ in range(2):
        await asyncio.gather(*(writer.write(user, [node()]) for user in users))
    async with writer.standing_still("nobody"), writer.standing_still(users[0]):
        waits = asyncio.create_task(writer.write(users[0], [node()]))
        await asyncio.sleep(0)
    await waits
    await writer.drained()
    assert writer._users == {}
    assert writer.users == users
    assert [writer.number(user) for user in users] == [4, *[3] * 19]


async def test_who_is_to_stand_still_does_not_wait_for_others_who_write_on(writer: Writer) -> None:
    async def write_on() -> None:
        while not stood_still.is_set():
            await writer.write("busy", [node()])

    def is_under_way(user: str) -> bool:
        return user in writer._users and writer._users[user].under_way

    stood_still = asyncio.Event()
    others = asyncio.create_task(write_on())
    own = asyncio.create_task(writer.write("nick", [node()]))
    while not is_under_way("nick"):
        await asyncio.sleep(0)
    async with asyncio.timeout(5), writer.standing_still("nick"):
        assert not is_under_way("nick")
        await own
        waits = asyncio.create_task(writer.write("nick", [node()]))
        await writer.write("another", [node()])
        assert not waits.done()
    await waits
    stood_still.set()
    await others


async def test_one_bad_write_fails_alone(writer: Writer, targets: Targets, rng: random.Random) -> None:
    bad = set(rng.sample(range(60), 3))
    writes = [node(text=str(number), importance=2 if number in bad else 0.5) for number in range(60)]
    answers = await asyncio.gather(*(writer.write("nick", [one]) for one in writes), return_exceptions=True)
    assert {number for number, answer in enumerate(answers) if isinstance(answer, StorageRejected)} == bad
    assert {int(text) for text in (await stored(targets)).values()} == set(range(60)) - bad


async def test_a_bad_write_of_one_user_does_not_touch_another(writer: Writer, targets: Targets) -> None:
    answers = await asyncio.gather(
        *(writer.write(f"user{number}", [node(importance=2 if number == 3 else 1)]) for number in range(8)),
        return_exceptions=True,
    )
    assert [isinstance(answer, StorageRejected) for answer in answers] == [number == 3 for number in range(8)]
    assert len(await stored(targets)) == 7


async def test_who_meets_another_version_costs_the_others_one_more_call(
    writer: Writer, targets: Targets, events: Recorded
) -> None:
    writes = [node() for _ in range(16)]
    writes[3] = Write("nodes", {**writes[3].row, IF_VERSION: 5})
    answers = await asyncio.gather(
        *(writer.write(f"user{number}", [one]) for number, one in enumerate(writes)), return_exceptions=True
    )
    assert [isinstance(answer, StorageRejected) for answer in answers] == [number == 3 for number in range(16)]
    assert len(await stored(targets)) == 15
    assert calls(events) <= 3


async def test_a_missing_end_is_found_at_once_and_fails_alone(
    writer: Writer, targets: Targets, events: Recorded
) -> None:
    good = [node() for _ in range(40)]
    answers = await asyncio.gather(
        *(writer.write("nick", [one]) for one in good[:20]),
        writer.write("nick", [edge(good[0].row["node_id"], str(uuid4()))]),
        *(writer.write("nick", [one]) for one in good[20:]),
        return_exceptions=True,
    )
    assert [place for place, answer in enumerate(answers) if isinstance(answer, StorageRejected)] == [20]
    assert len(await stored(targets)) == 40
    assert calls(events) <= 6


async def test_writes_of_one_call_stand_or_fall_together(writer: Writer, targets: Targets) -> None:
    with pytest.raises(StorageRejected):
        await writer.write("nick", [node(), node(importance=2)])
    assert await stored(targets) == {}


async def test_order_is_kept_when_the_same_memory_is_written_deleted_and_written(
    writer: Writer, targets: Targets
) -> None:
    one = str(uuid4())
    steps = [node(one, "first"), node(one, "second"), delete(one), node(one, "third"), delete(one), node(one, "last")]
    await asyncio.gather(*(writer.write("nick", [step]) for step in steps))
    assert await stored(targets) == {one: "last"}


async def test_a_relationship_after_the_deletion_of_its_end_is_refused(writer: Writer) -> None:
    one, two = node(), node()
    answers = await asyncio.gather(
        writer.write("nick", [one]),
        writer.write("nick", [two]),
        writer.write("nick", [delete(two.row["node_id"])]),
        writer.write("nick", [edge(one.row["node_id"], two.row["node_id"])]),
        return_exceptions=True,
    )
    assert [type(answer).__name__ for answer in answers] == ["Applied", "Applied", "Applied", "StorageRejected"]


async def test_a_caller_that_gives_up_does_not_take_its_neighbours_along(writer: Writer, targets: Targets) -> None:
    tasks = [asyncio.create_task(writer.write("nick", [node(text=str(number))])) for number in range(20)]
    await asyncio.sleep(0)
    tasks[7].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [place for place, answer in enumerate(answers) if isinstance(answer, asyncio.CancelledError)] == [7]
    assert {"6", "8"} <= set((await stored(targets)).values())


@pytest.mark.parametrize("before", ["the answer", "hearing it"])
async def test_what_becomes_of_a_write_is_told_when_its_caller_has_given_up(database: Database, before: str) -> None:
    def give_up(*_: object) -> None:
        if before == "the answer":
            task.cancel()
        else:
            asyncio.get_running_loop().call_soon(task.cancel)

    instance, unheard = str(uuid4()), list[Answer]()
    writer = Writer(Batches(database, instance, changed=give_up), instance, HybridClock())
    writer.on_unheard = unheard.append
    task = asyncio.create_task(writer.write("nick", [node()]))
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.close()
    assert [(one.user_id, isinstance(one, Applied)) for one in unheard] == [("nick", True)]


async def test_without_an_answer_nothing_is_acknowledged(
    targets: Targets, settings: Settings, events: Recorded
) -> None:
    database = await Database.open(targets, settings, events)
    await database.close()
    lonely = Writer(Batches(database, str(uuid4())), str(uuid4()), HybridClock())
    with pytest.raises(StorageUnavailable):
        await lonely.write("nick", [node()])
    await lonely.close()
    with pytest.raises(StorageUnavailable, match="closed"):
        await lonely.write("nick", [node()])


def test_stamps_rise_while_the_wall_clock_does_not(rng: random.Random) -> None:
    times = [1_000_000 + rng.choice([-5, 0, 0, 0.0004, 0.002]) * number for number in range(500)]
    clock = HybridClock(iter(times).__next__)
    stamps = [clock.stamp() for _ in times]
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))
