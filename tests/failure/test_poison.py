"""Writes that Postgres refuses for good, between others: they are set aside, and the others arrive without delay."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import StorageRejected
from hybrid_memory.memory.identity import entity_node_id
from hybrid_memory.observability import Event, Events
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.replay import Replay
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy
from tests.support.servers import administration
from tests.support.waiting import SHARED, until

DELAY = 1.0
NOBODY = "0198c0de-0000-7000-8000-000000000000"
SYSTEM = "s"
# No unit of it repeats, so that Postgres cannot make it fit into an index by compressing it.
LONG = "".join(chr(number) for number in random.Random(1).sample(range(0x4E00, 0x9FFF), 3000))


async def entity(manager: HybridMemoryManager, user: str, name: str) -> str:
    return await manager.store_entity(
        user, entity_id=name, entity_system=SYSTEM, entity_type="account", entity_name=name
    )


async def over_an_entity(manager: HybridMemoryManager, user: str) -> None:
    """A memory under the id of an entity that this process has not heard of."""
    await manager.store_persistent_memory(user, "poison", node_id=entity_node_id(user, SYSTEM, "known"))


async def to_a_missing_memory(manager: HybridMemoryManager, user: str) -> None:
    await manager.relate(user, NOBODY, NOBODY, "relates_to")


async def entity_over_a_memory(manager: HybridMemoryManager, user: str) -> None:
    """An entity whose id is taken by a memory that this process has not heard of."""
    await entity(manager, user, "taken")


async def against_a_constraint(manager: HybridMemoryManager, user: str) -> None:
    """Somebody has added a constraint by hand."""
    await manager.store_persistent_memory(user, "forbidden")


async def against_a_trigger(manager: HybridMemoryManager, user: str) -> None:
    """Somebody has added a trigger by hand."""
    await manager.store_persistent_memory(user, "raises")


async def too_long_for_an_index(manager: HybridMemoryManager, user: str) -> None:
    """Somebody has added an index by hand."""
    await manager.store_persistent_memory(user, LONG)


POISONS: dict[str, Callable[[HybridMemoryManager, str], Awaitable[None]]] = {
    "22023": over_an_entity,
    "23503": to_a_missing_memory,
    "23505": entity_over_a_memory,
    "23514": against_a_constraint,
    "P0001": against_a_trigger,
    "54000": too_long_for_an_index,
}
BY_HAND = """
alter table memory.nodes add constraint forbidden check (content ->> 'text' <> 'forbidden');
create index by_text on memory.nodes ((content ->> 'text'));
create function public.raises() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create trigger raises before insert on memory.nodes for each row
  when (new.content ->> 'text' = 'raises') execute function public.raises();
"""


@dataclass
class Deliveries:
    """When something of each user was dealt with, and what was set aside."""

    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __call__(self, event: Event) -> None:
        if event.name in ("outbox_replayed", "outbox_operation_quarantined"):
            self.times[event.fields["user_id"]].append(time.monotonic())

    @property
    def longest_pause(self) -> float:
        """The longest time in which a user of whom something waited got nothing delivered, from the first one on."""
        return max(later - one for times in self.times.values() for one, later in pairwise(times))


@dataclass
class Poisoned:
    """What became of the poison and of the others."""

    operations: int
    deliveries: Deliveries
    quarantine: Counter[tuple[str, str]]
    stored: Counter[str]
    seconds: float


async def drained(  # noqa: PLR0913 - fixtures and sizes
    proxy: FaultProxy, targets: Targets, directory: Path, rng: random.Random, *, users: int, operations: int
) -> Poisoned:
    """For each user so many memories wait, one of them poison, the kinds in turn; then Postgres is there again."""
    reached = proxy.targets(targets)
    settings = settings_for(
        reached,
        postgres_port=reached.runtime.ports[0],
        data_dir=directory,
        max_staleness_seconds=60,
        stats_interval_seconds=0,
    )
    deliveries, names = Deliveries(), dict(zip(map("user {}".format, range(users)), [*POISONS] * users, strict=False))
    async with HybridMemoryManager(settings_for(targets, data_dir=directory / "other")) as other:
        for user in names:
            await entity(other, user, "known")
            await other.store_persistent_memory(user, "here first", node_id=entity_node_id(user, SYSTEM, "taken"))
    async with administration(targets) as connection:
        await connection.execute(BY_HAND)
    async with HybridMemoryManager(settings, events=Events(deliveries)) as manager:
        proxy.reset()
        await manager.store_persistent_memory("whoever notices", "it is away")

        async def fill(user: str, sqlstate: str) -> None:
            place = rng.randrange(1, operations - 1)
            facts = [{"content": f"fact {number}", "deduplicate": False} for number in range(operations - 1)]
            await manager.store_many(user, facts[:place])
            await POISONS[sqlstate](manager, user)
            await manager.store_many(user, facts[place:])

        await asyncio.gather(*(fill(user, sqlstate) for user, sqlstate in names.items()))
        depth = manager.health().outbox_depth or 0
        assert depth >= users * operations
        proxy.heal()
        await until(lambda: manager.health().breaker == "closed", "the breaker closes")
        start = time.monotonic()
        assert await manager.flush(60)
        seconds = time.monotonic() - start
        refused = await manager.quarantined(limit=10_000)
    async with administration(targets) as connection:
        rows = await connection.fetch(
            "select user_id, count(distinct content ->> 'text') as facts, count(*) as rows from memory.nodes"
            " where content ->> 'text' like 'fact %' group by user_id"
        )
    assert all(row["facts"] == row["rows"] for row in rows)
    return Poisoned(
        depth,
        deliveries,
        Counter((one.user_id, (one.reason or "")[-6:-1]) for one in refused),
        Counter({row["user_id"]: row["facts"] for row in rows}),
        seconds,
    )


@pytest.mark.parametrize(
    ("users", "operations"),
    [(6, 100), pytest.param(30, 1000, marks=[pytest.mark.campaign, pytest.mark.timeout(600)])],
)
async def test_poison_is_set_aside_and_delays_nobody(  # noqa: PLR0913, PLR0917 - fixtures
    proxy: FaultProxy, targets: Targets, tmp_path: Path, rng: random.Random, users: int, operations: int
) -> None:
    found = await drained(proxy, targets, tmp_path, rng, users=users, operations=operations)
    print(
        f"{found.operations} operations, {found.quarantine.total()} of them poison of {len(POISONS)} classes, sent in "
        f"{found.seconds:.1f} s: all poison in quarantine, all others delivered, longest pause of a user "
        f"{found.deliveries.longest_pause:.2f} s"
    )
    assert found.quarantine == Counter(
        {(f"user {number}", sqlstate): 1 for number, sqlstate in zip(range(users), [*POISONS] * users, strict=False)}
    )
    assert found.stored == Counter({f"user {number}": operations - 1 for number in range(users)})
    assert found.deliveries.longest_pause <= DELAY * (1 if users > len(POISONS) else SHARED)


async def test_setting_its_neighbours_aside_too_is_caught(
    proxy: FaultProxy, targets: Targets, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: Callable[..., Any] = Replay._refused

    async def all_of_it(replay: Replay, operations: Any, error: StorageRejected) -> bool:
        """A bug: a batch in which something is refused is set aside as a whole."""
        return all([await honest(replay, [one], error) for one in operations])

    monkeypatch.setattr(Replay, "_refused", all_of_it)
    found = await drained(proxy, targets, tmp_path, rng, users=6, operations=10)
    assert found.quarantine.total() > 6
    assert found.stored.total() < 6 * 9


async def test_a_memory_that_only_looks_like_an_entity_is_refused_at_once(targets: Targets) -> None:
    async with HybridMemoryManager(settings_for(targets)) as manager:
        with pytest.raises(ValueError, match="context_type"):
            await manager.store_persistent_memory("nick", {"entity_id": "1", "entity_system": "s"}, "domain_entity")
