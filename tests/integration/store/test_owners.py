"""Whose items are, and that they are memories like all others."""

from collections.abc import Callable

import pytest
from langgraph.store.base import InvalidNamespaceError, PutOp

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import InvalidInput
from hybrid_memory.postgres.target import Targets
from tests.support.servers import administration

TEA = {"text": "prefers green tea"}


async def owners(targets: Targets) -> set[str]:
    async with administration(targets) as connection:
        rows = await connection.fetch("select distinct user_id from memory.nodes where namespace is not null")
    return {row["user_id"] for row in rows}


class TestMemories:
    async def test_an_item_of_a_user_is_recalled_counted_and_listed(self, manager: HybridMemoryManager) -> None:
        await manager.store.aput(("memories", "nick"), "tea", TEA)
        await manager.store.aput(("users", "nick", "facts"), "piano", {"text": "plays the piano"})
        memory = await manager.ensure_user_memories("nick")
        (found,) = memory.retrieve_relevant("who drinks tea?")
        assert (found.content, found.context_type, found.key) == (TEA, "store_item", "tea")
        assert (await manager.user_stats("nick")).by_context_type == {"store_item": 2}
        assert len(await manager.list_memories("nick", context_types=["store_item"])) == 2

    async def test_forgetting_it_takes_it_out_of_the_store(self, manager: HybridMemoryManager) -> None:
        await manager.store.aput(("memories", "nick"), "tea", TEA)
        (node,) = await manager.list_memories("nick")
        assert await manager.forget("nick", node.node_id)
        assert await manager.store.aget(("memories", "nick"), "tea") is None

    async def test_changing_it_as_a_memory_leaves_it_where_it_is(self, manager: HybridMemoryManager) -> None:
        await manager.store.aput(("memories", "nick"), "tea", TEA, ttl=60)
        (node,) = await manager.list_memories("nick")
        changed = await manager.update_memory(
            "nick", node.node_id, content={"text": "prefers black tea"}, tags=["drinks"], metadata={"by": "hand"}
        )
        assert changed.tags == ("drinks",)
        assert changed.metadata["by"] == "hand"
        assert changed.expires_at == node.expires_at
        item = await manager.store.aget(("memories", "nick"), "tea")
        assert item is not None
        assert item.value == {"text": "prefers black tea"}
        with pytest.raises(InvalidInput, match="content"):
            await manager.update_memory("nick", node.node_id, content="no mapping")

    async def test_being_got_counts_as_an_access(self, manager: HybridMemoryManager) -> None:
        await manager.store.aput(("memories", "nick"), "tea", TEA)
        await manager.store.aget(("memories", "nick"), "tea")
        await manager.store.asearch(("memories", "nick"), query="tea")
        await manager.store.asearch(("memories", "nick"))
        assert (await manager.user_stats("nick")).total_accesses == 2

    async def test_what_is_not_to_be_searched_is_not_recalled(self, manager: HybridMemoryManager) -> None:
        value = {"title": "green tea", "body": "a story of rain"}
        await manager.store.aput(("memories", "nick"), "hidden", value, index=False)
        await manager.store.aput(("memories", "nick"), "title", value, index=["title"])
        memory = await manager.ensure_user_memories("nick")
        assert [node.key for node in memory.retrieve_relevant("tea")] == ["title"]
        assert memory.retrieve_relevant("rain") == []
        for node in memory.get_all_nodes():
            await manager.update_memory("nick", node.node_id, content={"title": "green tea", "body": "a tale of rain"})
        assert memory.retrieve_relevant("rain") == []
        found = await manager.store.asearch(("memories", "nick"), query="tea")
        assert [(item.key, item.score is None) for item in found] == [("title", False), ("hidden", True)]


class TestNamespaces:
    async def test_the_second_label_names_the_user_and_others_are_of_the_store(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        puts = [
            PutOp(("memories", "nick"), "a", TEA),
            PutOp(("users", "eve", "deep"), "a", TEA),
            PutOp(("docs", "nick"), "a", TEA),
            PutOp(("memories",), "a", TEA),
            PutOp((), "a", TEA),
        ]
        await manager.store.abatch(puts)
        assert await owners(targets) == {"nick", "eve", "store:docs", "store:memories", "store:"}
        assert [node.key for node in await manager.list_memories("nick")] == ["a"]

    @pytest.mark.parametrize("user_id", ["nick@example.org", "100%", "%2E", "a%41.b", "ünï/cödé", "a b"])
    async def test_every_user_id_has_a_namespace(self, manager: HybridMemoryManager, user_id: str) -> None:
        namespace = manager.store_namespace(user_id, "facts")
        assert len(namespace) == 3
        await manager.store.aput(namespace, "tea", TEA)
        assert [node.namespace for node in await manager.list_memories(user_id)] == [namespace]
        (item,) = await manager.store.asearch(namespace[:2])
        assert item.namespace == namespace

    async def test_nobody_becomes_an_owner_of_the_store(self, manager: HybridMemoryManager) -> None:
        for namespace in (("memories", "store:docs"), ("users", "%00"), ("memories", "x" * 300)):
            with pytest.raises(InvalidNamespaceError):
                await manager.store.aput(namespace, "key", TEA)
            with pytest.raises(InvalidNamespaceError):
                await manager.store.asearch(namespace)
        with pytest.raises(InvalidInput):
            await manager.ensure_user_memories("store:docs")

    async def test_addresses_do_not_run_into_each_other(self, manager: HybridMemoryManager) -> None:
        addresses = [(("a", "b"), "c"), (("a",), "b"), (("a", "b", "c"), ""), (("ab",), "c"), (("a", "bc"), "")]
        for place, (namespace, key) in enumerate(addresses):
            await manager.store.aput(namespace, key, {"place": place})
        for place, (namespace, key) in enumerate(addresses):
            item = await manager.store.aget(namespace, key)
            assert item is not None
            assert item.value == {"place": place}


class TestAcrossOwners:
    @pytest.fixture
    async def filled(self, manager: HybridMemoryManager) -> HybridMemoryManager:
        for place in range(12):
            await manager.store.aput(("memories", f"user {place:02}"), "fact", {"text": f"tea {place}", "n": place})
        await manager.store.aput(("users", "user 03"), "profile", {"text": "coffee", "n": 100})
        await manager.store.aput(("docs", "a"), "page", {"text": "tea and coffee", "n": 200})
        await manager.store.aput(("memories",), "shared", {"text": "for all", "n": 300})
        return manager

    async def test_all_are_asked(self, filled: HybridMemoryManager) -> None:
        everything = await filled.store.asearch((), limit=100)
        assert [item.value["n"] for item in everything] == [300, 200, 100, *reversed(range(12))]
        memories = await filled.store.asearch(("memories",), limit=100)
        assert [item.value["n"] for item in memories] == [300, *reversed(range(12))]
        assert [item.value["n"] for item in await filled.store.asearch(("users",))] == [100]

    async def test_page_by_page_with_a_filter(self, filled: HybridMemoryManager) -> None:
        wanted = {"n": {"$lt": 200, "$gte": 3}}
        pages = [await filled.store.asearch((), filter=wanted, limit=4, offset=offset) for offset in (0, 4, 8, 12)]
        assert [[item.value["n"] for item in page] for page in pages] == [[100, 11, 10, 9], [8, 7, 6, 5], [4, 3], []]

    async def test_a_question(self, filled: HybridMemoryManager) -> None:
        found = await filled.store.asearch((), query="coffee", limit=100)
        assert {item.value["n"] for item in found[:2]} == {100, 200}
        assert len(found) == 15

    async def test_namespaces(self, filled: HybridMemoryManager) -> None:
        everything = await filled.store.alist_namespaces()
        assert len(everything) == 15
        assert everything == sorted(everything)
        assert await filled.store.alist_namespaces(prefix=("memories",), limit=2) == [
            ("memories",),
            ("memories", "user 00"),
        ]
        assert await filled.store.alist_namespaces(max_depth=1) == [("docs",), ("memories",), ("users",)]
        assert await filled.store.alist_namespaces(suffix=("user 03",)) == [
            ("memories", "user 03"),
            ("users", "user 03"),
        ]

    async def test_nobody_is_loaded_who_is_only_met(
        self,
        filled: HybridMemoryManager,  # noqa: ARG002 - what another instance has stored
        other: HybridMemoryManager,
    ) -> None:
        assert len(await other.store.asearch((), limit=100)) == 15
        await other.store.alist_namespaces()
        assert other._parts is not None
        assert not any(other._parts.sessions.holds(f"user {place:02}") for place in range(12))

    async def test_it_can_be_switched_off(self, instance: Callable[..., HybridMemoryManager]) -> None:
        alone = instance(store_across_owners=False)
        await alone.store.aput(("memories", "nick"), "tea", TEA)
        assert len(await alone.store.asearch(("memories", "nick"))) == 1
        for call in (alone.store.asearch(()), alone.store.asearch(("memories",)), alone.store.alist_namespaces()):
            with pytest.raises(InvalidInput, match="STORE_ACROSS_OWNERS"):
                await call
