"""Expiry of items: put off by readers, seldom written, noticed by all, swept."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from hybrid_memory import HybridMemoryManager
from hybrid_memory.memory.housekeeping import SWEEP
from hybrid_memory.postgres.target import Targets
from tests.support.managers import run_job
from tests.support.recording import Recorded
from tests.support.servers import administration
from tests.support.waiting import until

NICK = ("memories", "nick")
SHORT = 0.02


async def got(manager: HybridMemoryManager) -> Any:
    return await manager.store.aget(NICK, "key")


def refreshes(events: Recorded) -> int:
    return [one["query"] for one in events.named("postgres_statement")].count("items.refresh")


async def age(targets: Targets, seconds: float) -> None:
    """As if so much time had passed for what expires."""
    async with administration(targets) as connection:
        await connection.execute(
            "update memory.nodes set expires_at = expires_at - $1 * interval '1 second'", float(seconds)
        )
        await connection.execute("select memory.touch_user('nick')")


async def expiry(targets: Targets) -> float:
    async with administration(targets) as connection:
        return float(
            await connection.fetchval("select extract(epoch from expires_at - clock_timestamp()) from memory.nodes")
        )


class TestReading:
    async def test_it_is_written_once_per_tenth_of_the_time(
        self, manager: HybridMemoryManager, targets: Targets, events: Recorded
    ) -> None:
        await manager.store.aput(NICK, "key", {"a": 1}, ttl=60)
        for _ in range(20):
            await manager.store.aget(NICK, "key")
            await manager.store.asearch(NICK)
        assert refreshes(events) == 0
        await age(targets, 10 * 60)
        for _ in range(20):
            await manager.store.aget(NICK, "key")
            await manager.store.asearch(NICK)
        assert refreshes(events) == 1
        assert 3590 < await expiry(targets) <= 3600

    async def test_it_leaves_value_moment_and_version_as_they_are(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        await manager.store.aput(NICK, "key", {"a": 1}, ttl=60)
        before = await got(manager)
        for _ in range(2):
            await age(targets, 30 * 60)
            await other.store.aget(NICK, "key")
        after = await got(manager)
        assert after == before
        assert after.version == before.version
        assert await manager.store.aput_if_version(NICK, "key", {"a": 2}, before.version) is not None

    async def test_a_change_by_the_manager_has_a_version_of_its_own(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        await manager.store.aput(NICK, "key", {"a": 1}, ttl=60)
        await age(targets, 30 * 60)
        read = await got(manager)
        (node,) = await manager.list_memories("nick")
        await manager.update_memory("nick", node.node_id, content={"a": 2})
        assert (await got(manager)).version > read.version
        assert await manager.store.aput_if_version(NICK, "key", {"a": 3}, read.version) is None

    async def test_others_who_hold_the_item_learn_of_it(
        self, manager: HybridMemoryManager, instance: Callable[..., HybridMemoryManager], targets: Targets
    ) -> None:
        reader = instance(max_staleness_seconds=1)
        await manager.store.aput(NICK, "key", {"a": 1}, ttl=60)
        await reader.store.asearch(NICK)
        await age(targets, 59.9 * 60)
        await manager.store.aget(NICK, "key")
        await until(partial(_is_far, reader), "the later expiry is known")

    async def test_nothing_is_put_off_that_was_stored_for_good_or_by_another_call(
        self, manager: HybridMemoryManager, events: Recorded
    ) -> None:
        await manager.store.aput(NICK, "key", {"a": 1})
        await manager.store_persistent_memory("nick", "a memory", expires_in=3600)
        await manager.store.aget(NICK, "key")
        await manager.store.asearch(NICK)
        assert refreshes(events) == 0


async def _is_far(manager: HybridMemoryManager) -> bool:
    memory = await manager.ensure_user_memories("nick")
    return any(
        node.expires_at and node.expires_at > datetime.now(UTC) + timedelta(minutes=50)
        for node in memory.get_all_nodes()
    )


class TestSweeping:
    async def test_what_has_expired_leaves_the_table(self, manager: HybridMemoryManager, targets: Targets) -> None:
        await manager.store.aput(NICK, "short", {"a": 1}, ttl=SHORT)
        await manager.store.aput(NICK, "kept", {"a": 1}, ttl=60)

        async def expired() -> bool:
            return await manager.store.aget(NICK, "short", refresh_ttl=False) is None

        await until(expired, "it expires")
        assert await run_job(manager, SWEEP)
        async with administration(targets) as connection:
            rows = await connection.fetch("select key from memory.nodes where user_id = 'nick'")
        assert [row["key"] for row in rows] == ["kept"]
        await manager.store.aput(NICK, "short", {"a": 2})
        item = await manager.store.aget(NICK, "short")
        assert item is not None
        assert item.value == {"a": 2}

    async def test_a_reader_who_comes_too_late_brings_nothing_back(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        await manager.store.aput(NICK, "key", {"a": 1}, ttl=60)
        (node,) = await manager.list_memories("nick")
        await age(targets, 61 * 60)
        await manager._on_home(lambda parts: parts.items.put_off_expiry("nick", [node]))
        await manager._on_home(lambda parts: parts.items._rows.refresh("nick", [node.node_id]))
        assert await manager.store.aget(NICK, "key") is None


class TestDefaults:
    async def test_the_settings_may_let_everything_expire(
        self, instance: Callable[..., HybridMemoryManager], targets: Targets
    ) -> None:
        manager = instance(store_ttl_minutes=30)
        await manager.store.aput(NICK, "default", {"a": 1})
        assert 1790 < await expiry(targets) <= 1800
        await manager.store.aput(NICK, "default", {"a": 1}, ttl=None)
        async with administration(targets) as connection:
            assert await connection.fetchval("select expires_at from memory.nodes") is None

    async def test_concurrent_readers_write_once(self, manager: HybridMemoryManager, targets: Targets) -> None:
        await manager.store.aput(NICK, "key", {"a": 1}, ttl=60)
        await age(targets, 30 * 60)
        await asyncio.gather(*(manager.store.aget(NICK, "key") for _ in range(10)))
        async with administration(targets) as connection:
            version = await connection.fetchval("select version from memory.user_metadata where user_id = 'nick'")
        # The put, the hand of the test, and one refresh.
        assert version == 3
