"""A process that stores memories is killed in the middle of it: the next one finds whatever was acknowledged, once."""

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings, UserMemory
from hybrid_memory.memory.memories import Memories
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Applied
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.writer import Answer
from tests.support.children import Child, together
from tests.support.managers import KNOWN_TYPES, as_json, settings_for
from tests.support.servers import administration
from tests.support.waiting import until

WRITERS = 8
Row = dict[str, Any]


class Diary:
    """Writes, each noted before it is begun and once it is acknowledged; the notes outlive the process."""

    def __init__(self, manager: HybridMemoryManager, log: str) -> None:
        self._manager = manager
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, **words: Any) -> None:
        os.write(self._log, (json.dumps(words) + "\n").encode())

    async def written(self, row: Row, write: Awaitable[object]) -> None:
        self.note(begun=row)
        await write
        self.note(acknowledged=row)

    async def memory(self, user: str, name: str, context_type: str, content: Any) -> None:
        row = {"name": name, "type": context_type, "content": content, "tags": [name, "x"], "metadata": {"from": name}}
        call = self._manager.store_persistent_memory(
            user, content, context_type, node_id=name, tags=row["tags"], metadata={"from": name}
        )
        await self.written({"user": user} | row, call)

    async def entity(self, user: str, number: int) -> str:
        data = {"number": number}
        row = {"user": user, "entity": str(number), "data": data}
        call = asyncio.ensure_future(
            self._manager.store_entity(
                user,
                entity_id=str(number),
                entity_system="crm",
                entity_type="account",
                entity_name=f"Account {number}",
                data=data,
            )
        )
        await self.written(row, call)
        return call.result()

    async def edge(self, user: str, start: str, end: str, kind: str) -> None:
        row = {"user": user, "edge": [start, end, kind], "metadata": {"why": kind}}
        await self.written(row, self._manager.relate(user, start, end, kind, strength=0.5, metadata={"why": kind}))

    async def one_of_each(self, user: str) -> None:
        """Facts, tool output, entities and an edge of every type; and what an agent sees in them."""
        await self.memory(user, "fact", "conversation_fact", "likes tea")
        await self.memory(user, "output", "tool_output", {"tool": "crm", "rows": [1, {"deep": None}]})
        entities = [await self.entity(user, number) for number in range(3)]
        for place, kind in enumerate(sorted(KNOWN_TYPES)):
            await self.edge(user, "fact" if place % 2 else "output", entities[place % 3], kind)
        self.note(seen=seen(await self._manager.ensure_user_memories(user)))

    async def ever_more(self, user: str, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self.memory(user, f"fact {number}", "conversation_fact", f"number {number}")
            entity = await self.entity(user, number)
            await self.edge(user, f"fact {number}", entity, "mentions")


def seen(memory: UserMemory) -> dict[str, Any]:
    """What an agent is told about a memory, as JSON has it."""
    start = memory.get_all_nodes()[0].node_id
    told = {
        "ids": [node.node_id for node in memory.get_all_nodes()],
        "important": [(node.node_id, score) for node, score in memory.find_important_memories(5)],
        "clusters": [[node.node_id for node in cluster] for cluster in memory.find_memory_clusters()],
        "bridges": [(node.node_id, score) for node, score in memory.find_bridge_memories(5)],
        "related": [node.node_id for node in memory.get_related_nodes(start)],
    }
    answer: dict[str, Any] = json.loads(json.dumps(told))
    return answer


async def write_until_killed(events: Events, settings: dict[str, Any], user: str, log: str, bug: str | None) -> None:
    if bug == "acknowledges early":
        acknowledge_early()
    async with HybridMemoryManager(Settings(**settings), events=events) as manager:
        diary, numbers = Diary(manager, log), count()
        await diary.one_of_each(user)
        await asyncio.gather(*(diary.ever_more(f"{user}, more", numbers) for _ in range(WRITERS)))


def acknowledge_early() -> None:
    """A bug: a write is acknowledged before Postgres has it."""
    honest: Callable[..., Awaitable[Answer]] = Memories.write
    tasks = set()

    async def later(memories: Memories, user_id: str, writes: Sequence[Write]) -> None:
        # Long enough that a kill at any moment finds something on its way.
        await asyncio.sleep(0.05)
        await honest(memories, user_id, writes)

    async def write(memories: Memories, user_id: str, writes: Sequence[Write]) -> Answer:
        if user_id.endswith("more"):
            tasks.add(asyncio.ensure_future(later(memories, user_id, writes)))
            await asyncio.sleep(0)
            return Applied(user_id, "", 0, 0, ())
        return await honest(memories, user_id, writes)

    setattr(Memories, "write", write)  # noqa: B010 - mypy does not take a function for a method


def notes(log: Path, word: str) -> list[Any]:
    # The last line may be half written.
    lines = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
    return [said[word] for said in map(json.loads, lines) if word in said]


def as_noted(memory: UserMemory) -> list[Row]:
    """Everything in a memory, in the words of the notes."""
    rows: list[Row] = []
    names = {node.node_id: node.external_id or node.node_id for node in memory.get_all_nodes()}
    for node in memory.get_all_nodes():
        if node.context_type == "domain_entity":
            rows.append({"entity": node.content["entity_id"], "data": node.content["entity_data"]})
        else:
            content = node.text if node.content_kind == "text" else node.content
            row = {"name": node.external_id, "type": node.context_type, "content": content}
            rows.append(row | {"tags": list(node.tags), "metadata": dict(node.metadata)})
    for edge in memory.get_all_edges():
        ends = [names[edge.from_node_id], names[edge.to_node_id], edge.relationship_type]
        rows.append({"edge": ends, "metadata": dict(edge.metadata)})
    return [{"user": memory.user_id} | row for row in rows]


def texts(rows: Sequence[Row]) -> list[str]:
    """Rows as text; JSON in Postgres has an order of its own."""
    return [json.dumps(row, sort_keys=True) for row in rows]


async def killed_once(targets: Targets, log: Path, user: str, rng: random.Random, bug: str | None = None) -> int:
    """Kill a writing process at a random moment and look with another; how many writes were acknowledged."""
    arguments = {"settings": as_json(settings_for(targets)), "user": user, "log": str(log), "bug": bug}
    with Child(write_until_killed, arguments) as child:
        wanted = rng.randrange(30, 120)
        await until(lambda: len(notes(log, "acknowledged")) >= wanted, "writes are acknowledged", seconds=30)
        child.kill()
    async with HybridMemoryManager(settings_for(targets)) as manager:
        first = await manager.ensure_user_memories(user)
        more = await manager.ensure_user_memories(f"{user}, more")
        stored = texts(as_noted(first) + as_noted(more))
        acknowledged = set(texts(notes(log, "acknowledged")))
        assert not acknowledged - set(stored), f"acknowledged and lost: {sorted(acknowledged - set(stored))[:5]}"
        assert not set(stored) - set(texts(notes(log, "begun")))
        assert len(stored) == len(set(stored))
        assert [seen(first)] == notes(log, "seen")
    return len(acknowledged)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=[pytest.mark.campaign, pytest.mark.timeout(600)])])
async def test_whatever_was_acknowledged_is_found(
    lasting_targets: Targets, tmp_path: Path, rng: random.Random, kills: int
) -> None:
    found = [
        await killed_once(lasting_targets, tmp_path / f"{kill}.log", f"user {kill} of {kills}", rng)
        for kill in range(kills)
    ]
    print(f"{kills} kills, {sum(found)} acknowledged writes, all found")


async def test_acknowledging_early_is_caught(lasting_targets: Targets, tmp_path: Path, rng: random.Random) -> None:
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        await killed_once(lasting_targets, tmp_path / "log", "early", rng, bug="acknowledges early")


async def merge_ten(events: Events, settings: dict[str, Any], index: int) -> list[str]:
    """Ten merges at once into the one entity, each with a key of its own and one that all write."""
    async with HybridMemoryManager(Settings(**settings), events=events) as manager:
        merges = (
            manager.store_entity(
                "nick",
                entity_id="1",
                entity_system="crm",
                entity_type="account",
                entity_name="GenePoint",
                data={f"key {index} {number}": number, "shared": f"{index} {number}"},
            )
            for number in range(10)
        )
        return await asyncio.gather(*merges)


async def test_fifty_merges_from_five_processes_make_one_row(lasting_targets: Targets) -> None:
    answers = await asyncio.to_thread(together, merge_ten, 5, settings=as_json(settings_for(lasting_targets)))
    assert len({node_id for ids in answers for node_id in ids}) == 1
    keys = {f"key {index} {number}": number for index in range(5) for number in range(10)}
    async with HybridMemoryManager(settings_for(lasting_targets)) as manager:
        (node,) = (await manager.ensure_user_memories("nick")).get_all_nodes()
    data = dict(node.content["entity_data"])
    assert data.pop("shared") in {f"{index} {number}" for index in range(5) for number in range(10)}
    assert (data, node.content["update_count"]) == (keys, 50)
    async with administration(lasting_targets) as outside:
        assert await outside.fetchval("select count(*) from memory.nodes where user_id = 'nick'") == 1
