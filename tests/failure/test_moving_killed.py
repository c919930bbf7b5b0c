"""From local only to Postgres and back, the moving process killed again and again: everything is there, once."""

import asyncio
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.memory.moving import Moving
from hybrid_memory.observability import Events
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication import uploading
from hybrid_memory.replication.batching import in_batches
from hybrid_memory.sqlite.local_leaving import next_portion, note_delivered
from tests.support.children import Child
from tests.support.managers import as_json, settings_for
from tests.support.moving import Kept, in_postgres, kept, local
from tests.support.waiting import until_blocking

# A process is killed after at most so many steps, less one.
MOST_STEPS = 6
REPORTS = 3


@dataclass(frozen=True)
class Size:
    memories: int
    kills: int
    """In each direction."""


SMALL, CAMPAIGN = Size(memories=700, kills=2), Size(memories=10_000, kills=5)


class Diary:
    """What was begun, acknowledged and reached; the notes outlive the process."""

    def __init__(self, log: str) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word: str, what: str) -> None:
        os.write(self._log, (json.dumps({word: what}) + "\n").encode())


async def move_until_killed(events: Events, settings: dict[str, Any], log: str, bug: str | None) -> None:
    """Move everybody to Postgres, and store new memories all the time."""
    del events
    plant(bug)
    diary = Diary(log)

    async def remember(manager: HybridMemoryManager) -> None:
        while True:
            node_id = str(uuid4())
            diary.note("begun", node_id)
            await manager.store_persistent_memory("nick", f"meanwhile {node_id}", node_id=node_id)
            diary.note("acknowledged", node_id)

    async with HybridMemoryManager(Settings(**settings)) as manager:
        others = asyncio.create_task(remember(manager))
        await manager.upload(lambda _, rows, expected: diary.note("reached", f"{rows}/{expected}"))
        diary.note("reached", "the end")
        await others


async def fetch_until_killed(events: Events, settings: dict[str, Any], log: str) -> None:
    """Copy everybody from Postgres."""
    del events
    diary = Diary(log)
    async with HybridMemoryManager(Settings(**settings)) as manager:
        await manager.flush(30)
        await manager.download(None, lambda _, rows, expected: diary.note("reached", f"{rows}/{expected}"))
        diary.note("reached", "the end")
        await asyncio.Event().wait()


def plant(bug: str | None) -> None:
    """Make the move wrong in a way that the checks have to catch."""
    if bug == "noted before it is sent":
        Moving._send_portion = noted_early  # type: ignore[method-assign]
    if bug == "counts each time":
        reports = uploading._reports

        def counted(stamped: Any, vectors: Any) -> Iterator[Any]:
            for kind, row, embeddings in reports(stamped, vectors):
                yield kind, row | {"content": row["content"] | {"update_count": 1}}, embeddings

        uploading._reports = counted
        send = Moving._send

        async def killed_after(self: Moving, user_id: str, run: str, target: Any, operations: Any) -> None:
            """Reports are sent, and not noted yet, when the kill comes."""
            await send(self, user_id, run, target, operations)
            if any(operation.kind == "entities" for operation in operations):
                await a_kill(self, user_id)

        Moving._send = killed_after  # type: ignore[method-assign]


async def a_kill(moving: Moving, user_id: str) -> None:
    """Whichever step the kill waits for, it falls into the pause."""
    for _ in range(MOST_STEPS):
        for listener in moving._listeners:
            listener(user_id, 0, 0)
    await asyncio.sleep(2)


async def noted_early(self: Moving, upload: Any) -> int:
    portion = await self._state.read(partial(next_portion, user_id=upload.user_id))
    if portion is None:
        return 0
    await self._state.write(partial(note_delivered, user_id=upload.user_id, portion=portion))
    await a_kill(self, upload.user_id)
    for batch in in_batches(uploading.operations_of(portion, upload.numbers)):
        await self._send(upload.user_id, upload.run, self._postgres(upload.run), batch)
    return portion.size


def notes(logs: list[Path], word: str) -> list[str]:
    found = []
    for log in logs:
        # The last line may be half written.
        lines = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        found += [said[word] for said in map(json.loads, lines) if word in said]
    return found


class Journey:
    """One user's memory on its way."""

    def __init__(self, targets: Targets, directory: Path, rng: random.Random) -> None:
        self.hybrid = settings_for(targets)
        self.elsewhere = settings_for(targets, data_dir=directory / "elsewhere")
        self._settings = as_json(self.hybrid)
        self._directory = directory
        self._rng = rng
        self.logs: list[Path] = []

    def kill(self, function: Any, times: int, **arguments: Any) -> None:
        """Run it in a process that is killed when it has come a little further, again and again."""
        for _ in range(times):
            log = self._directory / f"{len(self.logs)}.log"
            self.logs.append(log)
            wanted = self._rng.randrange(1, MOST_STEPS)
            child = Child(function, {"settings": self._settings, "log": str(log), **arguments})
            try:
                until_blocking(partial(has_come_far, child, log, wanted), "it gets on", seconds=60)
            finally:
                child.end()

    def meanwhile(self) -> tuple[set[str], set[str]]:
        """What was stored during moves: begun, and acknowledged."""
        return set(notes(self.logs, "begun")), set(notes(self.logs, "acknowledged"))


def has_come_far(child: Child, log: Path, wanted: int) -> bool:
    reached = notes([log], "reached")
    assert child.alive
    return len(reached) >= wanted or "the end" in reached


async def remember(size: Size) -> None:
    """Local only: memories, entities that are reported often, relationships, deletions, reads."""
    async with HybridMemoryManager(local()) as manager:
        ids = await manager.store_many("nick", [{"content": f"fact {number}"} for number in range(size.memories)])
        for step in range(REPORTS):
            await asyncio.gather(*(report(manager, number, step) for number in range(size.memories // 100)))
        related = zip(ids[::7], ids[1::7], strict=False)
        await asyncio.gather(*(manager.relate("nick", one, other, "led_to") for one, other in related))
        await asyncio.gather(*(manager.forget("nick", one) for one in ids[::20]))
        await asyncio.gather(*(manager.get_node("nick", one) for one in ids[1::9]))


async def report(manager: HybridMemoryManager, number: int, step: int) -> None:
    await manager.store_entity(
        "nick",
        entity_id=f"{number}",
        entity_system="crm",
        entity_type="account",
        entity_name=f"Account {number}",
        data={"always": step, f"step {step}": number},
    )


async def seen_by(settings: Settings) -> Kept:
    async with HybridMemoryManager(settings) as manager:
        assert await manager.flush(120), "not everything arrives"
        return kept(await manager.ensure_user_memories("nick"))


def check_same(there: Kept, here: Kept, journey: Journey) -> None:
    """Everything is there as it was, and of what was stored meanwhile at least what was acknowledged."""
    begun, acknowledged = journey.meanwhile()
    there_nodes, meanwhile = dict(there[0]), set(there[0]) & (begun - set(here[0]))
    assert acknowledged <= there_nodes.keys(), "acknowledged and lost"
    for node_id in meanwhile:
        assert there_nodes.pop(node_id).text == f"meanwhile {node_id}"
    assert there_nodes.keys() == here[0].keys(), "another set of memories"
    for node_id, node in here[0].items():
        assert there_nodes[node_id] == node, "a memory is not what it was"
    assert there[1] == here[1], "other relationships"


async def check_counters(targets: Targets) -> int:
    (state,) = [row for row in await in_postgres(targets, "user_metadata") if row["user_id"] == "nick"]
    nodes, edges = await in_postgres(targets), await in_postgres(targets, "relationships")
    entities = sum(row["context_type"] == "domain_entity" for row in nodes)
    counted = (state["node_count"], state["relationship_count"], state["entity_count"])
    assert counted == (len(nodes), len(edges), entities)
    return len(nodes) + len(edges)


async def there(journey: Journey, size: Size, bug: str | None = None) -> Kept:
    """Local only, and then moved to Postgres; what is there in the end."""
    await remember(size)
    here = await seen_by(local())
    await asyncio.to_thread(journey.kill, move_until_killed, size.kills, bug=bug)
    shown = await seen_by(journey.hybrid)
    check_same(shown, here, journey)
    moved = await seen_by(journey.elsewhere)
    check_same(moved, here, journey)
    return moved


@pytest.mark.parametrize(
    "size",
    [SMALL, pytest.param(CAMPAIGN, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])],
    ids=["short", "campaign"],
)
async def test_there_and_back_and_there(targets: Targets, tmp_path: Path, rng: random.Random, size: Size) -> None:
    journey = Journey(targets, tmp_path, rng)
    moved = await there(journey, size)
    await check_counters(targets)
    await asyncio.to_thread(journey.kill, fetch_until_killed, size.kills)
    async with HybridMemoryManager(journey.hybrid) as manager:
        assert await manager.flush(60)
        assert await manager.download() == 1
    assert await seen_by(local()) == moved
    async with HybridMemoryManager(local()) as manager:
        await asyncio.gather(*(report(manager, number, REPORTS) for number in range(size.memories // 100)))
        await asyncio.gather(*(manager.forget("nick", one) for one in list(moved[0])[::30]))
        await asyncio.gather(*(manager.get_node("nick", one) for one in list(moved[0])[::11]))
    here = await seen_by(local())
    assert await seen_by(journey.hybrid) == here
    assert await seen_by(journey.elsewhere) == here
    rows = await check_counters(targets)
    begun, acknowledged = journey.meanwhile()
    print(
        f"{size.memories} memories, {2 * size.kills} kills, {len(acknowledged)} of {len(begun)} writes acknowledged "
        f"meanwhile, {rows} rows in Postgres in the end, all as they were"
    )


@pytest.mark.parametrize(
    ("bug", "complaint"),
    [("noted before it is sent", "another set of memories"), ("counts each time", "a memory is not what it was")],
)
async def test_a_planted_bug_is_caught(
    targets: Targets, tmp_path: Path, rng: random.Random, bug: str, complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        await there(Journey(targets, tmp_path, rng), SMALL, bug)
