"""One of several processes that work on the same users at the same time, and what is to be found afterwards.

Each writes memories, entities that all share, relationships and deletions, and looks at the memories that it holds: its
own writes are there at once, versions never go back, and what the others write comes in time. What it was promised goes
into a diary, which outlives the process.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_memory import HybridMemoryManager, Settings, UserMemory
from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.observability import Events
from tests.support.waiting import until

if TYPE_CHECKING:
    import asyncpg

USERS = 6
ENTITIES = 10
CALLERS = 8
MOST_OF_A_CALLER = 40
PROBE_EVERY = 0.1
LOOK_EVERY = 0.004
_PROBE = "probe"
_TOLD = {"database_replaced", "postgres_unavailable", "outbox_operation_queued", "listener_lost"}


@dataclass(frozen=True)
class Race:
    """What all processes of a race are told; `seconds` or `operations` end it, whichever comes first."""

    settings: Mapping[str, Any]
    folder: str
    racers: int
    operations: int = 10**9
    seconds: float = 3600
    pause: float = 0
    hears: bool = True


def diary_of(folder: str | Path, name: str) -> Path:
    return Path(folder) / f"{name}.diary"


async def race(events: Events, index: int, run: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Take part; what was seen. `run` tells the lives of a process that was killed apart."""
    told = Race(**plan)
    directory = told.settings["data_dir"].format(index=index, directory=index // 2)
    settings = Settings(**{**told.settings, "data_dir": Path(directory)})
    happened = Counter[str]()
    events.add_hook(lambda event: happened.update([event.name] if event.name in _TOLD else []))
    async with HybridMemoryManager(settings, events=events) as manager:
        return await Racer(manager, told, index, run).run() | {"events": happened}


async def racing(events: Events, index: int, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The same for processes that are started together."""
    return await race(events, index, str(index), plan)


class Racer:
    """One process of a race."""

    def __init__(self, manager: HybridMemoryManager, told: Race, index: int, run: str) -> None:
        self._manager = manager
        self._told = told
        self._run = run
        self._rng = random.Random(f"{told.folder}{run}")
        self._index = index
        self._diary = os.open(diary_of(told.folder, run), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._memories: dict[str, UserMemory] = {}
        self._versions: Counter[str] = Counter()
        self._seen: dict[str, float] = {}
        self._delays: list[float] = []
        self._sightings: list[tuple[int, float, float]] = []
        self._stored: list[tuple[float, float]] = []
        self._done = self._refused = self._looks = 0
        self._ends = 0.0

    async def run(self) -> dict[str, Any]:
        for number in range(USERS):
            self._memories[f"user-{number}"] = await self._manager.ensure_user_memories(f"user-{number}")
        if self._told.hears:
            await until(lambda: self._manager.health().listener == "listening", "it listens", seconds=30)
        await self._meet("ready")
        self._ends = time.monotonic() + self._told.seconds
        others = [asyncio.create_task(work) for work in (self._probe(), self._look_on())]
        began = time.monotonic()
        await asyncio.gather(*(self._write_on(place) for place in range(CALLERS)))
        took = time.monotonic() - began
        for task in others:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert await self._manager.flush(120), f"something still waits: {self._manager.health()}"
        await self._meet("finished")
        await until(lambda: self._manager.health().breaker == "closed", "it reaches Postgres", seconds=30)
        return {
            "operations": self._done,
            "refused": self._refused,
            "looks": self._looks,
            "seconds": took,
            "delays": self._delays,
            "index": self._index,
            "sightings": self._sightings,
            "stored": self._stored,
            "stale": await self._stale(),
        }

    async def _write_on(self, caller: int) -> None:
        mine = self._left_by_an_earlier_life(caller)
        number = 0
        while self._goes_on():
            number += 1
            name = f"{self._run}-{caller}-{number}"
            try:
                await self._one(name, caller, number, mine)
                self._done += 1
            except HybridMemoryError:
                self._refused += 1
                await asyncio.sleep(0.05)
            if self._told.pause:
                await asyncio.sleep(self._told.pause * self._rng.uniform(0.5, 1.5))

    def _left_by_an_earlier_life(self, caller: int) -> list[tuple[str, str]]:
        """What a process that was killed has stored, which nobody else would remove."""
        earlier = self._run.partition(".")[0] + "."
        return [
            (user, str(node.external_id))
            for user, memory in self._memories.items()
            for node in memory.get_all_nodes()
            if (node.external_id or "").startswith(earlier) and (node.external_id or "").split("-")[1] == str(caller)
        ]

    def _goes_on(self) -> bool:
        return self._done + CALLERS <= self._told.operations and time.monotonic() < self._ends

    async def _one(self, name: str, caller: int, number: int, mine: list[tuple[str, str]]) -> None:
        user, kind = f"user-{self._rng.randrange(USERS)}", self._rng.random()
        if len(mine) >= MOST_OF_A_CALLER:
            kind = 1.0
        if kind < 0.6 or len(mine) < 5:
            self._note("intent", node=[user, name])
            await self._manager.store_persistent_memory(user, {"name": name}, node_id=name, deduplicate=False)
            self._note("ack", node=[user, name])
            mine.append((user, name))
            self._look(user)
            assert self._memories[user].peek(name) is not None, f"{name} was acknowledged and is not shown"
        elif kind < 0.85:
            entity, key = f"e{self._rng.randrange(ENTITIES)}", f"{self._run}-{caller}"
            self._note("intent", entity=[user, entity, key, number])
            await self._manager.store_entity(
                user,
                entity_id=entity,
                entity_system="crm",
                entity_type="account",
                entity_name=entity,
                data={key: number},
            )
            self._note("ack", entity=[user, entity, key, number])
        elif kind < 0.95:
            user, start = self._rng.choice(mine)
            end = self._rng.choice([one for owner, one in mine if owner == user])
            self._note("intent", edge=[user, start, end])
            await self._manager.relate(user, start, end, "led_to")
            self._note("ack", edge=[user, start, end])
        else:
            user, gone = mine.pop(self._rng.randrange(len(mine)))
            self._note("intent", gone=[user, gone])
            await self._manager.forget(user, gone)
            self._note("ack", gone=[user, gone])
            assert self._memories[user].peek(gone) is None, f"{gone} was forgotten and is shown"
        self._looks += 1

    def _note(self, word: str, **what: Any) -> None:
        os.write(self._diary, (json.dumps({word: what}) + "\n").encode())

    def _look(self, user: str) -> None:
        version = self._memories[user].version
        assert version >= self._versions[user], "time ran backwards"
        self._versions[user] = version
        self._looks += 1

    async def _probe(self) -> None:
        """A memory that says when it was written."""
        while True:
            with suppress(HybridMemoryError):
                at = time.time()
                await self._manager.store_persistent_memory(
                    "user-0", {"at": at}, node_id=f"{_PROBE}-{self._index}", deduplicate=False
                )
                self._stored.append((at, time.time()))
            await asyncio.sleep(PROBE_EVERY * self._rng.uniform(0.5, 1.5))

    async def _look_on(self) -> None:
        """See how long it takes until the others' are here."""
        memory, others = self._memories["user-0"], set(range(self._told.racers)) - {self._index}
        while True:
            for other in others:
                node = memory.peek(f"{_PROBE}-{other}")
                if node is not None and node.content["at"] != self._seen.get(str(other)):
                    if str(other) in self._seen:
                        at, now = node.content["at"], time.time()
                        self._delays.append(now - at)
                        self._sightings.append((other, at, now))
                    self._seen[str(other)] = node.content["at"]
            for user in self._memories:
                self._look(user)
            await asyncio.sleep(LOOK_EVERY)

    async def _meet(self, where: str) -> None:
        """Wait until all have come here."""
        folder = Path(self._told.folder)
        await asyncio.to_thread((folder / f"{where}-{self._index}").touch)
        await until(
            lambda: sum(1 for _ in folder.glob(f"{where}-*")) >= self._told.racers, f"all are {where}", seconds=600
        )

    async def _stale(self) -> int:
        """How many memories that nobody opens do not come to what Postgres has, within a few seconds."""

        async def behind() -> list[str]:
            return [user for user, memory in self._memories.items() if memory.version < await self._version(user)]

        try:
            await until(lambda: _none(behind()), "all are fresh", seconds=15)
        except AssertionError:
            return len(await behind())
        return 0

    async def _version(self, user: str) -> int:
        return (await self._manager.user_stats(user)).version


async def _none(found: Any) -> bool:
    return not await found


@dataclass
class Promised:
    """What all diaries say."""

    nodes: set[tuple[str, str]] = field(default_factory=set)
    maybe: set[tuple[str, str]] = field(default_factory=set)
    gone: set[tuple[str, str]] = field(default_factory=set)
    maybe_gone: set[tuple[str, str]] = field(default_factory=set)
    edges: set[tuple[str, str, str]] = field(default_factory=set)
    values: dict[tuple[str, str, str], int] = field(default_factory=dict)
    maybe_values: dict[tuple[str, str, str], set[int]] = field(default_factory=dict)
    reports: Counter[tuple[str, str]] = field(default_factory=Counter)
    maybe_reports: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def in_diaries(cls, folder: Path) -> "Promised":
        told = cls()
        for diary in folder.glob("*.diary"):
            for line in diary.read_text().splitlines():
                ((word, what),) = json.loads(line).items()
                told._take(word == "ack", *next(iter(what.items())))
        return told

    def _take(self, sure: bool, kind: str, what: Sequence[Any]) -> None:  # noqa: FBT001 - one of the two words
        if kind == "node":
            (self.nodes if sure else self.maybe).add((what[0], what[1]))
        elif kind == "gone":
            (self.gone if sure else self.maybe_gone).add((what[0], what[1]))
        elif kind == "edge" and sure:
            self.edges.add((what[0], what[1], what[2]))
        elif kind == "entity":
            user, entity, key, number = what
            if sure:
                self.values[user, entity, key] = number
                self.reports[user, entity] += 1
            else:
                self.maybe_values.setdefault((user, entity, key), set()).add(number)
                self.maybe_reports[user, entity] += 1

    async def differences(self, connection: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
        """What is other in Postgres than it was promised."""
        rows = await connection.fetch(
            "select user_id, external_id, content, context_type, entity_id from memory.nodes"
            " where external_id is null or external_id not like 'probe-%'"
        )
        there = Counter((row["user_id"], row["external_id"]) for row in rows if row["context_type"] != "domain_entity")
        wrong = [f"twice: {name}" for name, count in there.items() if count > 1]
        wrong += [f"lost: {name}" for name in self.nodes - self.maybe_gone - there.keys()]
        wrong += [f"unasked: {name}" for name in there.keys() - self.maybe]
        wrong += [f"not gone: {name}" for name in self.gone & there.keys()]
        for row in rows:
            if row["context_type"] == "domain_entity":
                wrong += self._wrong_entity(row["user_id"], row["entity_id"], json.loads(row["content"]))
        edges = {
            tuple(row)
            for row in await connection.fetch(
                "select r.user_id, f.external_id, t.external_id from memory.relationships r"
                " join memory.nodes f on f.user_id = r.user_id and f.node_id = r.from_node_id"
                " join memory.nodes t on t.user_id = r.user_id and t.node_id = r.to_node_id"
            )
        }
        gone = self.maybe_gone
        expected = {(u, a, b) for u, a, b in self.edges if (u, a) not in gone and (u, b) not in gone}
        return wrong + [f"no edge: {edge}" for edge in expected - edges]

    def _wrong_entity(self, user: str, entity: str, content: Mapping[str, Any]) -> list[str]:
        wrong = []
        least, most = self.reports[user, entity], self.maybe_reports[user, entity]
        if not least <= content["update_count"] <= most:
            wrong.append(f"{user} {entity}: {content['update_count']} reports, not {least} to {most}")
        for (owner, name, key), number in self.values.items():
            if (owner, name) == (user, entity):
                found = content["entity_data"].get(key, -1)
                if found < number or found not in self.maybe_values[owner, name, key]:
                    wrong.append(f"{user} {entity} {key}: {found}, not {number}")
        return wrong


def percentile(values: Sequence[float], part: float) -> float:
    """The value that so large a part does not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")
