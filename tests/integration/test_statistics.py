"""Statistics: exact for one user, refreshed over all users by one of many, and in nobody's way."""

import asyncio
import random
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from hybrid_memory import HybridMemoryManager, UserStats
from hybrid_memory.postgres.target import Targets
from tests.support.managers import run_job, settings_for
from tests.support.recording import Recorded
from tests.support.servers import administration, connection_to
from tests.support.waiting import Deadline

USERS = ("nick", "eve", "o'hara")
TYPES = ("conversation_fact", "tool_output", "domain_entity", "of_my_own")


@dataclass
class Row:
    """A memory as the test knows it."""

    user: str
    kind: str
    importance: float
    accesses: int
    created_at: datetime
    updated_at: datetime
    expired: bool
    stub: bool
    node_id: str = field(default_factory=lambda: str(uuid4()))

    @property
    def shown(self) -> bool:
        return not self.expired and not self.stub


def random_rows(rng: random.Random) -> list[Row]:
    now = datetime.now(UTC)

    def moment() -> datetime:
        return now - timedelta(microseconds=rng.randrange(10**12))

    return [
        Row(
            user=rng.choice(USERS),
            kind=kind,
            importance=rng.random(),
            accesses=rng.randrange(100),
            created_at=moment(),
            updated_at=moment(),
            expired=rng.random() < 0.2,
            stub=kind == "domain_entity" and rng.random() < 0.3,
        )
        for kind in rng.choices(TYPES, k=300)
    ]


def random_edges(rng: random.Random, rows: list[Row]) -> list[tuple[Row, Row, str]]:
    found = set()
    for _ in range(600):
        one, two = rng.choice(rows), rng.choice(rows)
        if one.user == two.user:
            found.add((one.node_id, two.node_id, rng.choice(["led_to", "owns"])))
    by_id = {row.node_id: row for row in rows}
    return [(by_id[one], by_id[two], kind) for one, two, kind in found]


async def insert(targets: Targets, rows: list[Row], edges: list[tuple[Row, Row, str]]) -> None:
    async with administration(targets) as connection:
        await connection.executemany(
            "insert into memory.nodes (user_id, node_id, context_type, content, importance, access_count, created_at,"
            " updated_at, expires_at, metadata) values ($1, $2, $3, jsonb_build_object('entity_id', $2::uuid,"
            " 'entity_system', 'crm', 'entity_type', left($2::uuid::text, 1)), $4, $5, $6, $7,"
            " case when $8 then now() - interval '1 minute' end, jsonb_build_object('stub', $9::boolean))",
            [
                (
                    row.user,
                    row.node_id,
                    row.kind,
                    row.importance,
                    row.accesses,
                    row.created_at,
                    row.updated_at,
                    row.expired,
                    row.stub,
                )
                for row in rows
            ],
        )
        await connection.executemany(
            "insert into memory.relationships (user_id, from_node_id, to_node_id, relationship_type)"
            " values ($1, $2, $3, $4)",
            [(one.user, one.node_id, two.node_id, kind) for one, two, kind in edges],
        )


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def figures(rows: list[Row]) -> dict[str, Any]:
    """What every view says of a group."""
    return {
        "node_count": len(rows),
        "average_importance": pytest.approx(statistics.fmean(row.importance for row in rows)),
        "total_accesses": sum(row.accesses for row in rows),
        "earliest_node": min(row.created_at for row in rows),
        "latest_node": max(row.created_at for row in rows),
    }


def user_figures(user: str, rows: list[Row], edges: list[tuple[Row, Row, str]]) -> dict[str, Any]:
    own = [row for row in rows if row.user == user and row.shown]
    return figures(own) | {
        "user_id": user,
        "relationship_count": sum(one.user == user and not one.expired and not two.expired for one, two, _ in edges),
        "entity_count": sum(row.kind == "domain_entity" for row in own),
        "context_types": sorted({row.kind for row in own}),
    }


async def test_they_equal_a_recomputation(each_targets: Targets, rng: random.Random) -> None:
    """With an owner who is no superuser, and a runtime role."""
    rows = random_rows(rng)
    edges = random_edges(rng, rows)
    await insert(each_targets, rows, edges)
    async with HybridMemoryManager(settings_for(each_targets)) as manager:
        before = await manager.user_stats("nick")
        assert before.views_age is None
        assert await manager.refresh_stats() is True
        for user in USERS:
            stats = await manager.user_stats(user)
            expected = user_figures(user, rows, edges)
            own = [row for row in rows if row.user == user and row.shown]
            assert {name: value for name, value in asdict(stats).items() if name in expected} == expected | {
                "context_types": tuple(expected["context_types"])
            }
            assert stats.by_context_type == {kind: len(few) for kind, few in grouped(own, lambda row: row.kind).items()}
            assert stats.views_age is not None
            assert 0 <= stats.views_age < 60
            memory = await manager.ensure_user_memories(user)
            assert (len(memory.get_all_nodes()), len(memory.get_all_edges()), memory.version) == (
                stats.node_count, stats.relationship_count, stats.version + 1,
            ), "what is counted is what is shown; rows by hand make a new version"  # fmt: skip
    async with administration(each_targets) as connection:
        views = {
            name: [dict(row) for row in await connection.fetch(f"select * from memory.{name} order by 1, 2, 3")]
            for name in ("user_stats", "context_type_stats", "entity_stats")
        }
    shown = [row for row in rows if row.shown]
    assert by(views["user_stats"], "user_id") == {(user,): user_figures(user, rows, edges) for user in USERS}
    assert by(views["context_type_stats"], "user_id", "context_type") == {
        key: {"user_id": key[0], "context_type": key[1]} | figures(few)
        for key, few in grouped(shown, lambda row: (row.user, row.kind)).items()
    }
    entities = [row for row in shown if row.kind == "domain_entity"]
    assert by(views["entity_stats"], "user_id", "entity_system", "entity_type") == {
        key: {
            "user_id": key[0],
            "entity_system": key[1],
            "entity_type": key[2],
            "entity_count": len(few),
            "total_accesses": sum(row.accesses for row in few),
            "latest_update": max(row.updated_at for row in few),
        }
        for key, few in grouped(entities, lambda row: (row.user, "crm", row.node_id[0])).items()
    }


def by(rows: list[dict[str, Any]], *columns: str) -> Mapping[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[column] for column in columns): row for row in rows}


async def test_they_follow_every_write(manager: HybridMemoryManager) -> None:
    assert await manager.user_stats("nobody") == UserStats(
        user_id="nobody",
        node_count=0,
        relationship_count=0,
        entity_count=0,
        context_types=(),
        average_importance=None,
        total_accesses=0,
        earliest_node=None,
        latest_node=None,
        by_context_type={},
        version=0,
    )
    fact = await manager.store_persistent_memory("nick", "one", importance=0.25)
    await manager.store_persistent_memory("nick", "two", "tool_output", importance=0.75, relates_to=[fact])
    await manager.store_entity("nick", entity_id="1", entity_system="s", entity_type="t", entity_name="n")
    await manager.store_persistent_memory("eve", "hers")
    stats = await manager.user_stats("nick")
    assert (stats.node_count, stats.relationship_count, stats.entity_count, stats.version) == (3, 1, 1, 3)
    assert stats.by_context_type == {"conversation_fact": 1, "domain_entity": 1, "tool_output": 1}
    assert stats.average_importance == 0.5
    assert (stats.queued_operations, stats.pending_embeddings) == (None, None)
    await manager.forget("nick", fact)
    stats = await manager.user_stats("nick")
    assert (stats.node_count, stats.relationship_count, stats.version) == (2, 0, 4)
    assert (await manager.user_stats("eve")).node_count == 1


@pytest.fixture
async def four(targets: Targets) -> AsyncIterator[list[HybridMemoryManager]]:
    managers = [HybridMemoryManager(settings_for(targets), events=Recorded()) for _ in range(4)]
    for manager in managers:
        await manager.start()
    yield managers
    for manager in managers:
        await manager.aclose()


def refreshes(managers: list[HybridMemoryManager]) -> int:
    return sum(
        len(manager.events.named("stats_refreshed")) for manager in managers if isinstance(manager.events, Recorded)
    )


async def test_one_of_many_managers_refreshes_and_the_others_skip(
    four: list[HybridMemoryManager], targets: Targets
) -> None:
    assert await asyncio.gather(*(run_job(manager, "statistics") for manager in four)) == [True] * 4
    assert refreshes(four) == 1
    assert await run_job(four[1], "statistics")
    assert refreshes(four) == 1, "not again within the interval"
    async with administration(targets) as connection:
        await connection.execute(
            "update memory.deployment set chores = jsonb_build_object('statistics', extract(epoch from now()) - 271)"
        )
    await asyncio.gather(*(run_job(manager, "statistics") for manager in four))
    assert refreshes(four) == 2, "whoever comes first after it"


async def test_a_refresh_on_demand_says_when_another_is_at_it(
    four: list[HybridMemoryManager], targets: Targets
) -> None:
    async with connection_to(targets.runtime) as other, other.transaction():
        assert await other.fetchval("select memory.refresh_stats()") is True
        assert await four[0].refresh_stats() is False
    assert await four[0].refresh_stats() is True
    assert refreshes(four) == 1


async def test_writers_do_not_wait_for_a_refresh(four: list[HybridMemoryManager], targets: Targets) -> None:
    """All locks of a refresh are held while eight writers write, change, relate and delete."""

    async def write(writer: int) -> None:
        manager, user = four[writer % 4], f"user {writer % 3}"
        one = await manager.store_persistent_memory(user, f"one of {writer}")
        two = await manager.store_persistent_memory(user, f"two of {writer}", relates_to=[one])
        await manager.update_memory(user, two, importance=0.9)
        await manager.forget(user, one)

    async with connection_to(targets.runtime) as refreshing, refreshing.transaction():
        assert await refreshing.fetchval("select memory.refresh_stats()") is True
        with Deadline(4):
            await asyncio.gather(*(write(writer) for writer in range(8)))


async def test_refreshes_while_eight_writers_run(four: list[HybridMemoryManager], targets: Targets) -> None:
    done, slowest = asyncio.Event(), 0.0

    async def write(writer: int) -> int:
        nonlocal slowest
        count = 0
        while not done.is_set():
            start = time.perf_counter()
            await four[writer % 4].store_persistent_memory(f"user {writer}", f"{count}")
            slowest = max(slowest, time.perf_counter() - start)
            count += 1
        return count

    writers = [asyncio.create_task(write(writer)) for writer in range(8)]
    refreshed = [await four[number % 4].refresh_stats() for number in range(10)]
    done.set()
    counts = await asyncio.gather(*writers)
    assert refreshed == [True] * 10
    assert await four[0].refresh_stats()
    async with administration(targets) as connection:
        rows = await connection.fetch("select user_id, node_count from memory.user_stats")
    assert {row["user_id"]: row["node_count"] for row in rows} == {
        f"user {writer}": count for writer, count in enumerate(counts)
    }
    print(f"10 refreshes beside {sum(counts)} writes of 8 writers; the slowest took {slowest * 1000:.0f} ms")


Call = Callable[[HybridMemoryManager], Awaitable[object]]


@pytest.mark.parametrize("call", [lambda manager: manager.refresh_stats(), lambda manager: manager.user_stats("nick")])
async def test_reads_of_the_views_do_not_wait_either(
    manager: HybridMemoryManager, targets: Targets, call: Call
) -> None:
    await manager.refresh_stats()
    async with administration(targets) as reader, reader.transaction():
        await reader.fetch("select * from memory.user_stats")
        with Deadline(4):
            await call(manager)
