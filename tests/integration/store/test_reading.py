"""What a read of the store costs and how fresh it is, and compare and set."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.store.base import GetOp

from hybrid_memory import HybridMemoryManager
from tests.support.recording import Recorded

NICK = ("memories", "nick")
DOCS = ("docs", "a")


def asked(events: Recorded) -> list[str]:
    """The statements that read items or memories."""
    names = [one["query"] for one in events.named("postgres_statement")]
    return [name for name in names if name.startswith(("nodes.", "items.", "relationships."))]


async def version_of(manager: HybridMemoryManager, namespace: tuple[str, ...], key: str) -> int:
    item: Any = await manager.store.aget(namespace, key)
    return int(item.version)


class TestCost:
    async def test_a_get_of_an_owner_who_is_not_here_is_one_point_read(
        self, manager: HybridMemoryManager, instance: Callable[..., HybridMemoryManager]
    ) -> None:
        for place in range(5):
            await manager.store.aput(DOCS, f"key {place}", {"place": place})
        reader = instance(events=(seen := Recorded()), max_staleness_seconds=60)
        assert await reader.store.aget(DOCS, "key 1") is not None
        assert asked(seen) == ["nodes.get"]
        await reader.store.abatch([GetOp(DOCS, f"key {place}") for place in range(6)])
        assert asked(seen) == ["nodes.get", "nodes.several"]
        assert reader._parts is not None
        assert not reader._parts.sessions.holds("store:docs")

    async def test_an_owner_who_is_here_is_not_asked_for(
        self, manager: HybridMemoryManager, instance: Callable[..., HybridMemoryManager]
    ) -> None:
        await manager.store.aput(DOCS, "key", {"a": 1})
        reader = instance(events=(seen := Recorded()), max_staleness_seconds=60)
        await reader.store.asearch(DOCS)
        loaded = asked(seen)
        for _ in range(3):
            assert await reader.store.aget(DOCS, "key") is not None
            assert len(await reader.store.asearch(DOCS, query="1")) == 1
            assert await reader.store.alist_namespaces(prefix=DOCS) == [DOCS]
        assert asked(seen) == loaded


class TestFreshness:
    async def test_own_writes_are_there_at_once(self, instance: Callable[..., HybridMemoryManager]) -> None:
        manager = instance(max_staleness_seconds=60)
        await manager.store.asearch(DOCS)
        for place in range(20):
            await manager.store.aput(DOCS, "key", {"place": place})
            (item,) = await manager.store.asearch(DOCS)
            assert item.value == {"place": place}
        await manager.store.adelete(DOCS, "key")
        assert await manager.store.asearch(DOCS) == []

    async def test_strong_reads_see_what_others_have_committed(
        self, instance: Callable[..., HybridMemoryManager]
    ) -> None:
        writer = instance(max_staleness_seconds=60)
        strong = instance(max_staleness_seconds=60, store_freshness="strong")
        bounded = instance(max_staleness_seconds=0.2)
        await strong.store.asearch(DOCS)
        for place in range(20):
            await writer.store.aput(DOCS, "key", {"place": place})
            item = await strong.store.aget(DOCS, "key")
            (found,) = await strong.store.asearch(DOCS)
            assert item is not None
            assert (item.value, found.value) == ({"place": place}, {"place": place})
        async with asyncio.timeout(5):
            while [item.value for item in await bounded.store.asearch(DOCS)] != [{"place": 19}]:
                await asyncio.sleep(0.01)

    async def test_strong_reads_that_come_together_all_see_it(
        self, instance: Callable[..., HybridMemoryManager]
    ) -> None:
        writer, strong = instance(), instance(max_staleness_seconds=60, store_freshness="strong")
        await strong.store.asearch(DOCS)

        async def seen(place: int) -> bool:
            await writer.store.aput((*DOCS, str(place)), "key", {"place": place})
            return len(await strong.store.asearch((*DOCS, str(place)))) == 1

        assert all(await asyncio.gather(*(seen(place) for place in range(30))))


class TestVersions:
    async def test_the_version_one_has_seen_has_to_be_the_one_that_is_there(self, manager: HybridMemoryManager) -> None:
        store = manager.store
        first = await store.aput_if_version(NICK, "key", {"a": 1}, None)
        assert first == await version_of(manager, NICK, "key")
        assert await store.aput_if_version(NICK, "key", {"a": 2}, None) is None
        second = await store.aput_if_version(NICK, "key", {"a": 2}, first)
        assert second is not None
        assert await store.aput_if_version(NICK, "key", {"a": 3}, first) is None
        item = await store.aget(NICK, "key")
        assert item is not None
        assert item.value == {"a": 2}
        await store.adelete(NICK, "key")
        assert await store.aput_if_version(NICK, "key", {"a": 4}, second) is None
        assert await store.aput_if_version(NICK, "key", {"a": 4}, None) is not None

    async def test_searches_tell_the_version_too(self, manager: HybridMemoryManager) -> None:
        await manager.store.aput(NICK, "key", {"a": 1})
        found: list[Any] = await manager.store.asearch(NICK)
        assert found[0].version == await version_of(manager, NICK, "key")

    async def test_nobody_counts_over_another(self, instance: Callable[..., HybridMemoryManager]) -> None:
        """Two processes, sixteen tasks, each adding to one number."""
        managers = [instance(), instance()]
        await managers[0].store.aput(NICK, "count", {"n": 0})

        async def add(manager: HybridMemoryManager) -> None:
            done = None
            while done is None:
                item: Any = await manager.store.aget(NICK, "count")
                done = await manager.store.aput_if_version(NICK, "count", {"n": item.value["n"] + 1}, item.version)

        await asyncio.gather(*(add(managers[place % 2]) for place in range(16)))
        item = await managers[1].store.aget(NICK, "count")
        assert item is not None
        assert item.value == {"n": 16}

    async def test_one_that_is_refused_harms_no_neighbour(self, manager: HybridMemoryManager) -> None:
        await manager.store.aput(NICK, "there", {"a": 1})
        calls: list[Any] = [manager.store.aput(NICK, f"key {place}", {"place": place}) for place in range(10)]
        calls.insert(5, manager.store.aput_if_version(NICK, "there", {"a": 2}, None))
        answers = await asyncio.gather(*calls)
        assert answers == [None] * 11
        assert len(await manager.store.asearch(NICK, limit=20)) == 11

    @pytest.mark.parametrize("ttl", [None, 0.02])
    async def test_an_expired_item_is_not_there(self, manager: HybridMemoryManager, ttl: float | None) -> None:
        await manager.store.aput(NICK, "key", {"a": 1}, ttl=ttl)
        if ttl is not None:
            async with asyncio.timeout(10):
                while await manager.store.aget(NICK, "key", refresh_ttl=False):
                    await asyncio.sleep(0.05)
        stored = await manager.store.aput_if_version(NICK, "key", {"a": 2}, None)
        assert (stored is None) == (ttl is None)
