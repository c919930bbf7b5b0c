"""Writes that waited while Postgres was away, and what happened there meanwhile."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.errors import UnknownMemory
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.servers import administration
from tests.support.waiting import until


@pytest.fixture
def through(proxy: FaultProxy, targets: Targets, tmp_path: Path) -> Settings:
    reached = proxy.targets(targets)
    return settings_for(reached, postgres_port=reached.runtime.ports[0], data_dir=tmp_path, max_staleness_seconds=60)


@asynccontextmanager
async def without_postgres(proxy: FaultProxy, manager: HybridMemoryManager) -> AsyncIterator[None]:
    """Postgres is away in the block, and has everything after it."""
    proxy.reset()
    await manager.store_persistent_memory("whoever notices", "it is away")
    await until(lambda: manager.health().breaker == "open", "the breaker opens")
    yield
    proxy.heal()
    assert await manager.flush(20)


async def texts_of(targets: Targets, user: str) -> set[str]:
    async with administration(targets) as connection:
        rows = await connection.fetch("select content ->> 'text' as text from memory.nodes where user_id = $1", user)
    return {row["text"] for row in rows}


async def test_a_relationship_to_a_memory_that_was_swept_meanwhile_is_dropped(
    through: Settings, proxy: FaultProxy, targets: Targets, events: Recorded
) -> None:
    async with HybridMemoryManager(through, events=events) as manager, HybridMemoryManager(settings_for(targets)) as o:
        stays, goes = await manager.store_many("nick", [{"content": "stays"}, {"content": "goes", "tags": ["old"]}])
        await manager.ensure_user_memories("nick")
        async with without_postgres(proxy, manager):
            await manager.relate("nick", stays, goes, "relates_to")
            await manager.store_persistent_memory("nick", "after it", relates_to=[stays])
            async with administration(targets) as connection:
                await connection.execute(
                    "update memory.nodes set updated_at = now() - interval '90 days' where content ->> 'text' = 'goes'"
                )
            assert (await o.cleanup(timedelta(days=30), user_id="nick")).memories == 1
        assert await manager.quarantined() == []
        assert not events.named("outbox_operation_quarantined")
        memory = await manager.ensure_user_memories("nick")
        assert {node.text for node in memory.get_all_nodes()} == {"stays", "after it"}
        assert [edge.to_node_id for edge in memory.get_all_edges()] == [stays]
        with pytest.raises(UnknownMemory):
            await manager.relate("nick", stays, goes, "relates_to")
    assert await texts_of(targets, "nick") == {"stays", "after it"}


async def test_a_relationship_to_a_memory_that_never_was_is_not_dropped(
    through: Settings, proxy: FaultProxy, targets: Targets
) -> None:
    async with HybridMemoryManager(through) as manager:
        async with without_postgres(proxy, manager):
            await manager.relate("new", "one", "other", "relates_to")
        (refused,) = await manager.quarantined()
    assert "23503" in str(refused.reason)
    assert await texts_of(targets, "new") == set()


async def erase(targets: Targets, user: str, at: datetime) -> None:
    """What is left of an erased user is a hash and the incarnation."""
    async with administration(targets) as connection, connection.transaction():
        incarnation = await connection.fetchval("select incarnation from memory.user_metadata where user_id = $1", user)
        for table in ("nodes", "tombstones", "applied_watermarks", "user_metadata"):
            await connection.execute(f"delete from memory.{table} where user_id = $1", user)
        await connection.execute(
            "insert into memory.erasures values ($1, coalesce($2, gen_random_uuid()), $3)",
            hashlib.sha256(user.encode()).hexdigest(),
            incarnation,
            at,
        )


async def is_known(targets: Targets, user: str) -> bool:
    async with administration(targets) as connection:
        return bool(await connection.fetchval("select count(*) from memory.user_metadata where user_id = $1", user))


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("clock", [timedelta(0), timedelta(days=-1)], ids=["", "its clock runs ahead"])
async def test_what_was_written_before_an_erasure_does_not_come_back(
    through: Settings, proxy: FaultProxy, targets: Targets, clock: timedelta
) -> None:
    """Who knows which life of the user it was needs no clock to tell."""
    async with HybridMemoryManager(through) as manager:
        first = await manager.store_persistent_memory("nick", "first")
        await manager.ensure_user_memories("nick")
        async with without_postgres(proxy, manager):
            await manager.store_persistent_memory("nick", "second", relates_to=[first])
            await manager.store_entity(
                "nick", entity_id="1", entity_system="s", entity_type="account", entity_name="GenePoint"
            )
            await manager.forget("nick", first)
            await erase(targets, "nick", datetime.now(UTC) + clock)
        assert await manager.quarantined() == []
        assert not await is_known(targets, "nick"), "not even the name of an erased user comes back"
        await manager.store_persistent_memory("nick", "a new life")
    assert await texts_of(targets, "nick") == {"a new life"}


async def test_the_time_decides_where_nobody_knows_which_life_it_was(
    through: Settings, proxy: FaultProxy, targets: Targets
) -> None:
    async with HybridMemoryManager(through) as manager, without_postgres(proxy, manager):
        await manager.store_persistent_memory("ann", "before")
        await erase(targets, "ann", datetime.now(UTC))
        await manager.store_persistent_memory("ann", "after")
        await manager.store_persistent_memory("bob", "after")
        await erase(targets, "bob", LONG_AGO)
    assert (await texts_of(targets, "ann"), await texts_of(targets, "bob")) == ({"after"}, {"after"})


async def test_an_older_erasure_takes_nothing_of_the_present_life(
    through: Settings, proxy: FaultProxy, targets: Targets
) -> None:
    """Also where the clock of this process is a day behind."""
    async with HybridMemoryManager(through) as manager:
        await erase(targets, "nick", datetime.now(UTC) + timedelta(days=1))
        await manager.store_persistent_memory("nick", "a new life")
        await manager.ensure_user_memories("nick")
        async with without_postgres(proxy, manager):
            await manager.store_persistent_memory("nick", "goes on")
    assert await texts_of(targets, "nick") == {"a new life", "goes on"}


async def test_a_reset_by_hand_is_no_erasure(through: Settings, proxy: FaultProxy, targets: Targets) -> None:
    async with HybridMemoryManager(through) as manager:
        await erase(targets, "nick", LONG_AGO)
        await manager.store_persistent_memory("nick", "first")
        await manager.ensure_user_memories("nick")
        async with without_postgres(proxy, manager):
            await manager.store_persistent_memory("nick", "second")
            async with administration(targets) as connection:
                await connection.execute("select memory.touch_user('nick')")
    assert await texts_of(targets, "nick") == {"first", "second"}
