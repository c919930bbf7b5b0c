"""Writers whose every call is noted, and the checker that holds the notes against what Postgres has in the end.

A scribe notes what it begins and what was acknowledged; the notes belong to the system and outlive the process. Each
step is a memory related to the one before, a turn of a conversation, and a report of an entity under a key of its own:
a lost write is missing, one that was applied twice is counted twice, and one that jumped the queue is in the wrong
place. The checker also asks a fresh manager, which has to see what Postgres has.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.postgres.target import Targets
from tests.support.servers import administration

SYSTEM = "scribes"
# A batch holds one report of an entity.
ENTITIES = 16

Name = tuple[str, str, str, int]
"""What it is, whose it is, whose scribe wrote it, and the how-manieth of it."""


class Notes:
    """Lines of JSON that are the system's as soon as they are written."""

    def __init__(self, path: Path | str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def note(self, **words: Any) -> None:
        os.write(self._file, (json.dumps(words) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


def noted(path: Path) -> Iterator[dict[str, Any]]:
    """The notes of a file; the last line of a killed process may be half written."""
    if path.exists():
        yield from map(json.loads, path.read_text().rpartition("\n")[0].splitlines())


def count_of(path: Path, word: str) -> int:
    """How many notes say a word."""
    return path.read_bytes().count(f'{{"{word}":'.encode()) if path.exists() else 0


class Scribe:
    """Writes for one user, one write after the other."""

    def __init__(self, manager: HybridMemoryManager, notes: Notes, user: str, name: str) -> None:
        self._manager = manager
        self._notes = notes
        self._user = user
        self._name = name
        self._number = 0
        self._last: list[str] = []

    async def step(self) -> None:
        """One memory related to the one before, one turn, one report."""
        self._number += 1
        manager, user, text = self._manager, self._user, f"{self._name} {self._number}"
        store = manager.store_persistent_memory(
            user, text, "conversation_fact", relates_to=self._last, deduplicate=False
        )
        self._last = [await self._written("memory", store)]
        await self._written("turn", manager.add_message(user, self._name, "user", text))
        report = manager.store_entity(
            user,
            entity_id=f"{self._name}#{self._number % ENTITIES}",
            entity_system=SYSTEM,
            entity_type="scribe",
            entity_name=self._name,
            data={str(self._number): True},
        )
        await self._written("report", report)

    async def _written(self, kind: str, write: Awaitable[str]) -> str:
        name = [kind, self._user, self._name, self._number]
        self._notes.note(begun=name)
        answer = await write
        self._notes.note(acknowledged=name)
        return answer


@dataclass
class Verdict:
    """What the checker says: all but the counts has to be empty."""

    acknowledged: int
    stored: int
    lost: set[Name] = field(default_factory=set)
    twice: set[Name] = field(default_factory=set)
    unasked: set[Name] = field(default_factory=set)
    out_of_order: list[Name] = field(default_factory=list)
    unrelated: set[Name] = field(default_factory=set)
    seen_otherwise: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> dict[str, list[Any]]:
        """What is wrong, a few of each; empty when nothing is."""
        said = {name: value for name, value in vars(self).items() if not isinstance(value, int) and value}
        return {name: sorted(value)[:5] for name, value in said.items()}


async def verdict(targets: Targets, settings: Settings, logs: Iterable[Path], *, seconds: float = 120) -> Verdict:
    """Deliver what waits, then hold notes against Postgres, and what a manager sees against both."""
    begun: set[Name] = set()
    acknowledged: set[Name] = set()
    for log in logs:
        for said in noted(log):
            for word, names in (("begun", begun), ("acknowledged", acknowledged)):
                if word in said:
                    kind, user, scribe, number = said[word]
                    names.add((kind, user, scribe, number))
    found = Verdict(len(acknowledged), 0)
    async with HybridMemoryManager(settings) as manager:
        if not await manager.flush(seconds):
            found.left_over.append(f"{manager.health().outbox_depth} writes still wait after {seconds:g} s")
        found.left_over += [f"quarantine: {one.kind} {one.reason}" for one in await manager.quarantined()]
        for user in sorted({user for _, user, _, _ in begun}):
            rows = await _Rows.of(targets, user)
            found.stored += rows.names.total()
            found.lost |= {name for name in acknowledged if name[1] == user} - set(rows.names)
            found.twice |= {name for name, count in rows.names.items() if count > 1} | rows.counted_twice
            found.unasked |= set(rows.names) - begun
            found.out_of_order += rows.out_of_order
            found.unrelated |= rows.unrelated & acknowledged
            memory = await manager.ensure_user_memories(user)
            seen = {node.node_id for node in memory.get_all_nodes()}
            if (seen, len(memory.get_all_edges())) != (rows.ids, rows.edges) or memory.stale:
                found.seen_otherwise.append(user)
    return found


@dataclass
class _Rows:
    """What Postgres has of a user, in the words of the notes."""

    names: Counter[Name] = field(default_factory=Counter)
    counted_twice: set[Name] = field(default_factory=set)
    out_of_order: list[Name] = field(default_factory=list)
    unrelated: set[Name] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    edges: int = 0

    @classmethod
    async def of(cls, targets: Targets, user: str) -> "_Rows":
        rows = cls()
        async with administration(targets) as connection:
            nodes = await connection.fetch(
                "select node_id, context_type, content, thread_id from memory.nodes where user_id = $1 order by seq",
                user,
            )
            edges = await connection.fetch(
                "select from_node_id, to_node_id from memory.relationships where user_id = $1", user
            )
        rows.edges = len(edges)
        memories: dict[str, Name] = {}
        for node in nodes:
            rows.ids.add(str(node["node_id"]))
            content = json.loads(node["content"])
            if node["context_type"] == "domain_entity":
                rows._count_reports(user, content)
            elif node["thread_id"] is None:
                memories[str(node["node_id"])] = name = _name("memory", user, content["text"])
                rows.names[name] += 1
            else:
                rows.names[_name("turn", user, content["content"])] += 1
        rows._check_order()
        joined = {(str(edge["from_node_id"]), str(edge["to_node_id"])) for edge in edges}
        rows._check_edges(memories, joined)
        return rows

    def _count_reports(self, user: str, content: dict[str, Any]) -> None:
        scribe, keys = content["entity_id"].partition("#")[0], content["entity_data"]
        self.names.update(("report", user, scribe, int(key)) for key in keys)
        if content["update_count"] != len(keys):
            self.counted_twice.add(("reports", user, scribe, content["update_count"] - len(keys)))

    def _check_order(self) -> None:
        """Turns come in the order of their places in the thread."""
        last: dict[str, int] = defaultdict(int)
        for name in self.names:
            if name[0] == "turn":
                if name[3] < last[name[2]]:
                    self.out_of_order.append(name)
                last[name[2]] = max(last[name[2]], name[3])

    def _check_edges(self, memories: dict[str, Name], joined: set[tuple[str, str]]) -> None:
        """Every memory but a scribe's first is related to the one before it."""
        there = {
            memories[start]
            for start, end in joined
            if memories[start][2] == memories[end][2] and memories[start][3] == memories[end][3] + 1
        }
        self.unrelated = {name for name in memories.values() if name[3] > 1} - there


def _name(kind: str, user: str, text: str) -> Name:
    scribe, _, number = text.rpartition(" ")
    return kind, user, scribe, int(number)
