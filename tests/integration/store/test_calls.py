"""The store from everywhere: before the start, without `await`, other loops, alone, in a graph; what it refuses."""

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.config import get_store
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, GetOp, InvalidNamespaceError, PutOp, SearchOp

from hybrid_memory import HybridMemoryManager, HybridStore
from hybrid_memory.errors import InvalidInput, StorageUnavailable, WrongThread
from hybrid_memory.postgres.target import Targets
from hybrid_memory.testing.embedder import DIMENSIONS, WordCounts
from tests.support.managers import settings_for

NICK = ("memories", "nick")


class State(TypedDict):
    said: list[str]


@dataclass
class Thing:
    name: str


class TestFromEverywhere:
    async def test_its_first_call_starts_the_manager(self, targets: Targets, tmp_path: Path) -> None:
        manager = HybridMemoryManager(settings_for(targets, data_dir=tmp_path))
        store = manager.store
        assert isinstance(store, BaseStore)
        await store.aput(NICK, "key", {"a": 1})
        assert manager.health().postgres == "up"
        await manager.aclose()
        with pytest.raises(StorageUnavailable, match="closed"):
            await store.aget(NICK, "key")
        await manager.start()
        assert await store.aget(NICK, "key") is not None
        await manager.aclose()

    def test_plain_code_and_several_loops(self, targets_outside: Targets, tmp_path: Path) -> None:
        with HybridMemoryManager(settings_for(targets_outside, data_dir=tmp_path)) as manager:
            store = manager.store
            store.put(NICK, "key", {"a": 1})
            assert store.put_if_version(NICK, "key", {"a": 2}, None) is None
            for _ in range(2):
                found = asyncio.run(store.asearch(NICK))
                assert [item.value for item in found] == [{"a": 1}]
            assert store.list_namespaces() == [NICK]

    async def test_a_call_without_await_on_the_loop_is_refused(self, manager: HybridMemoryManager) -> None:
        await manager.start()
        for call in (lambda: manager.store.get(NICK, "key"), lambda: manager.store.search(NICK)):
            with pytest.raises(WrongThread) as refused:
                call()
            assert isinstance(refused.value, asyncio.InvalidStateError)
        assert await asyncio.to_thread(manager.store.get, NICK, "key") is None

    async def test_alone(self, targets: Targets, tmp_path: Path) -> None:
        settings = settings_for(targets, data_dir=tmp_path)
        async with HybridStore(settings, index={"fields": ["title"]}, ttl={"default_ttl": 5.0}) as store:
            await store.aput(NICK, "key", {"title": "green tea", "body": "rain"})
            found = await store.asearch(NICK, query="rain")
            assert [(item.key, item.score) for item in found] == [("key", 0.0)]
            found = await store.asearch(NICK, query="tea")
            assert found[0].score

    async def test_a_manager_takes_the_configuration_of_langgraph(self, targets: Targets, tmp_path: Path) -> None:
        index = {"embed": WordCounts(), "dims": DIMENSIONS, "fields": ["title"]}
        async with HybridMemoryManager(settings_for(targets, data_dir=tmp_path), embedder=index) as manager:
            await manager.store.aput(NICK, "tea", {"title": "green tea", "body": "rain"})
            await manager.store.aput(NICK, "piano", {"title": "piano", "body": "green tea"})
            found = await manager.store.asearch(NICK, query="green tea")
            assert [item.key for item in found] == ["tea", "piano"]
            assert (await manager.recall("nick", "tea"))[0].node.key == "tea"

    def test_alone_and_without_a_loop(self, targets_outside: Targets, tmp_path: Path) -> None:
        with HybridStore(settings_for(targets_outside, data_dir=tmp_path)) as store:
            store.put(NICK, "key", {"a": 1})
            item = store.get(NICK, "key")
            assert item is not None


class TestInGraphs:
    @staticmethod
    def graph(manager: HybridMemoryManager) -> Any:
        """A node that is given the store, and one that looks for it."""

        async def remembers(state: State, runtime: Runtime[None]) -> State:
            assert runtime.store is not None
            await runtime.store.aput(NICK, "said", {"said": state["said"]})
            return {"said": [*state["said"], "stored"]}

        async def recalls(state: State, *, store: BaseStore) -> State:
            item = await store.aget(NICK, "said")
            assert get_store() is store
            assert item is not None
            return {"said": [*state["said"], *item.value["said"]]}

        builder = StateGraph(State)
        builder.add_node(remembers)
        builder.add_node(recalls)
        builder.add_edge(START, "remembers")
        builder.add_edge("remembers", "recalls")
        return builder.compile(checkpointer=manager.checkpointer, store=manager.store)

    async def test_compiled_before_the_start(self, manager: HybridMemoryManager) -> None:
        graph = self.graph(manager)
        config = {"configurable": {"thread_id": "t"}}
        assert await graph.ainvoke({"said": ["hello"]}, config) == {"said": ["hello", "stored", "hello"]}
        assert len(await manager.list_memories("nick")) == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("value", "path"),
        [
            ({"a": "x\x00y"}, "value.a"),
            ({"a\x00": 1}, "key of value"),
            ({"a": ["\ud800"]}, r"value.a\[0\]"),
            ({"a": float("nan")}, "value.a"),
            ({"a": datetime.now(UTC)}, "value.a"),
            ({"a": uuid.uuid4()}, "value.a"),
            ({"a": Thing("x")}, "value.a"),
            ({"a": {1, 2}}, "value.a"),
            ({"a": b"x"}, "value.a"),
            ({1: "a"}, "value"),
            ({"a": "x" * 1_100_000}, "value"),
            (["no", "mapping"], "value"),
            ("no mapping", "value"),
        ],
    )
    async def test_what_would_not_come_back_as_it_is(self, manager: HybridMemoryManager, value: Any, path: str) -> None:
        """A datetime is a text in JSON; whoever wants one writes one."""
        with pytest.raises(InvalidInput, match=path):
            await manager.store.aput(NICK, "key", value)
        assert await manager.store.asearch(NICK) == []

    async def test_keys_pages_paths_and_times(self, manager: HybridMemoryManager) -> None:
        store = manager.store
        for refused in (
            store.aput(NICK, "k\x00", {"a": 1}),
            store.aput(NICK, "k" * 1001, {"a": 1}),
            store.aput(NICK, "key", {"a": 1}, index=["a\x00"]),
            store.aput(NICK, "key", {"a": 1}, index="a"),  # type: ignore[arg-type] # on purpose
            store.aput(NICK, "key", {"a": 1}, ttl=0),
            store.aput(NICK, "key", {"a": 1}, ttl=-1),
            store.aput(NICK, "key", {"a": 1}, ttl=float("nan")),
            store.aput(NICK, "key", {"a": 1}, ttl=1e300),
            store.asearch(NICK, limit=-1),
            store.asearch(NICK, offset=-1),
            store.asearch(NICK, filter={"a": {"$in": [1]}}),
            store.alist_namespaces(limit=-1),
            store.abatch([object()]),  # type: ignore[list-item] # on purpose
            store.aput_if_version(NICK, "key", None, None),  # type: ignore[arg-type] # on purpose
        ):
            with pytest.raises(InvalidInput):
                await refused
        for namespace in ((), ("langgraph",), ("memories", "a\ud800")):
            with pytest.raises(InvalidNamespaceError):
                await store.aput_if_version(namespace, "key", {"a": 1}, None)

    async def test_one_of_a_batch_is_refused_alone(self, manager: HybridMemoryManager) -> None:
        await manager.store.aput(NICK, "there", {"a": 1})
        for bad in (
            PutOp(NICK, "bad", {"a": "\x00"}),
            PutOp((*NICK, "a.b"), "bad", {}),
            SearchOp(NICK, {"a": {"$x": 1}}),
        ):
            with pytest.raises(ValueError, match=r"NUL|periods|no operator"):
                await manager.store.abatch(
                    [PutOp(NICK, "first", {"a": 1}), GetOp(NICK, "there"), bad, PutOp(NICK, "last", {"a": 1})]
                )
            assert {item.key for item in await manager.store.asearch(NICK)} == {"there", "first", "last"}
            await manager.store.abatch([PutOp(NICK, "first", None), PutOp(NICK, "last", None)])
