"""A long outage left a long queue, and whoever sends it is killed again and again: it arrives exactly."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.observability import Event, Events
from hybrid_memory.postgres.target import Targets
from hybrid_memory.sqlite.outbox import Outbox
from tests.support.children import Child
from tests.support.managers import as_json, settings_for
from tests.support.proxy import FaultProxy
from tests.support.scribes import Notes, count_of, noted
from tests.support.servers import administration
from tests.support.waiting import until

USERS = 20
ENTITIES = 20
REPORTS = 0.1


async def send_until_killed(_: Events, settings: Mapping[str, Any], log: str, bug: str | None) -> None:
    notes = Notes(log)
    if bug == "marks one too many as done":
        mark_one_too_many()

    def note(event: Event) -> None:
        if event.name == "outbox_replayed":
            notes.note(sent=event.fields["operations"])

    async with HybridMemoryManager(Settings(**settings), events=Events(note)) as manager:
        await until(lambda: manager.health().outbox_depth == 0, "everything is sent", seconds=600)
        notes.note(empty=True)
        await asyncio.Event().wait()


def mark_one_too_many() -> None:
    """A bug: what has not been sent is taken for done with what has."""
    honest: Callable[..., Any] = Outbox.done

    async def done(outbox: Outbox, user_id: str, up_to: Mapping[str, int]) -> Any:
        return await honest(outbox, user_id, {run: number + 1 for run, number in up_to.items()})

    setattr(Outbox, "done", done)  # noqa: B010 - mypy does not take a function for a method


@dataclass
class Queue:
    """What was queued, and where."""

    settings: Settings
    directory: Path
    operations: int
    facts: int
    reports: int

    def sent(self, log: Path) -> int:
        return sum(said.get("sent", 0) for said in noted(log))

    def has_sent(self, log: Path, wanted: int) -> bool:
        return self.sent(log) >= wanted or count_of(log, "empty") > 0

    async def kill_senders(self, kills: int, rng: random.Random, bug: str | None = None) -> int:
        """Kill one process after the other in the middle of sending; how many operations they said they had sent."""
        total = 0
        settings = as_json(self.settings)
        for kill in range(kills):
            log = self.directory / f"p{kill}.log"
            wanted = rng.randrange(1, 2 * self.operations // (kills + 2))
            with Child(send_until_killed, {"settings": settings, "log": str(log), "bug": bug}) as child:
                await until(lambda: self.has_sent(log, wanted), f"{wanted} are sent", seconds=60)  # noqa: B023
                await asyncio.to_thread(child.kill)
            total += self.sent(log)
        return total

    async def finished(self) -> bool:
        """Whether everything is sent, and nothing refused."""
        async with HybridMemoryManager(self.settings) as manager:
            return await manager.flush(300) and not await manager.quarantined()

    async def is_exact(self, targets: Targets) -> bool:
        async with administration(targets) as connection:
            facts = await connection.fetch(
                "select user_id, count(*) as rows, count(distinct content ->> 'text') as texts from memory.nodes"
                " where user_id like 'user %' and context_type <> 'domain_entity' group by user_id"
            )
            reports = await connection.fetch(
                "select user_id, sum((content ->> 'update_count')::int) as reports from memory.nodes"
                " where user_id like 'user %' and context_type = 'domain_entity' group by user_id"
            )
        users = [f"user {number}" for number in range(USERS)]
        return (
            {row["user_id"]: (row["rows"], row["texts"]) for row in facts}
            == dict.fromkeys(users, (self.facts, self.facts))
        ) and (
            Counter({row["user_id"]: row["reports"] for row in reports}) == Counter(dict.fromkeys(users, self.reports))
        )


async def queue(proxy: FaultProxy, targets: Targets, directory: Path, operations: int) -> Queue:
    """So many operations of some users wait: memories, and between them reports of entities, which may count once."""
    reached = proxy.targets(targets)
    settings = settings_for(
        reached,
        postgres_port=reached.runtime.ports[0],
        data_dir=directory / "data",
        max_staleness_seconds=60,
        stats_interval_seconds=0,
    )
    reports = int(operations / USERS * REPORTS)
    facts = operations // USERS - reports

    async def fill(user: str) -> None:
        for start in range(reports):
            many = [
                {"content": f"fact {n}", "deduplicate": False}
                for n in range(start * facts // reports, (start + 1) * facts // reports)
            ]
            await manager.store_many(user, many)
            await manager.store_entity(
                user,
                entity_id=str(start % ENTITIES),
                entity_system="s",
                entity_type="counter",
                entity_name="counter",
            )

    async with HybridMemoryManager(settings) as manager:
        proxy.reset()
        await manager.store_persistent_memory("whoever notices", "it is away")
        await asyncio.gather(*(fill(f"user {number}") for number in range(USERS)))
        assert (manager.health().outbox_depth or 0) >= operations
    proxy.heal()
    return Queue(settings, directory, operations, facts, reports)


@pytest.mark.parametrize(
    ("operations", "kills"),
    [(1_000, 2), pytest.param(100_000, 20, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])],
)
async def test_a_long_queue_arrives_exactly(  # noqa: PLR0913, PLR0917 - fixtures
    proxy: FaultProxy, targets: Targets, tmp_path: Path, rng: random.Random, operations: int, kills: int
) -> None:
    queued = await queue(proxy, targets, tmp_path, operations)
    sent = await queued.kill_senders(kills, rng)
    assert await queued.finished()
    print(f"{operations} operations of {USERS} users, {kills} senders killed, who had sent {sent}: exact")
    assert await queued.is_exact(targets)


async def test_marking_too_many_as_done_is_caught(
    proxy: FaultProxy, targets: Targets, tmp_path: Path, rng: random.Random
) -> None:
    queued = await queue(proxy, targets, tmp_path, 3_000)
    await queued.kill_senders(1, rng, bug="marks one too many as done")
    assert await queued.finished()
    assert not await queued.is_exact(targets)
