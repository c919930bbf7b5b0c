"""The ways in which LangGraph hands a store to nodes and tools, with the manager's store and checkpointer."""

import importlib
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedStore, ToolNode, ToolRuntime
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.types import Command, interrupt

from hybrid_memory import HybridCheckpointer, HybridMemoryManager, HybridStore, default as default_module
from hybrid_memory.agents import calling
from hybrid_memory.postgres.target import Targets
from tests.support.managers import environment_of, settings_for

NICK = ("memories", "nick")
CONFIG: Any = {"configurable": {"thread_id": "t1", "user_id": "nick"}}


async def by_runtime(state: MessagesState, runtime: Runtime[None]) -> dict[str, Any]:
    assert runtime.store is not None
    return await kept(runtime.store, state)


async def by_argument(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
    return await kept(store, state)


async def by_asking(state: MessagesState) -> dict[str, Any]:
    return await kept(get_store(), state)


async def kept(store: BaseStore, state: MessagesState) -> dict[str, Any]:
    await store.aput(NICK, "said", {"text": state["messages"][-1].text})
    item = await store.aget(NICK, "said")
    assert item is not None
    return {"messages": [AIMessage(f"kept: {item.value['text']}")]}


def by_runtime_blocking(state: MessagesState, runtime: Runtime[None]) -> dict[str, Any]:
    assert runtime.store is not None
    return kept_blocking(runtime.store, state)


def by_argument_blocking(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
    return kept_blocking(store, state)


def by_asking_blocking(state: MessagesState) -> dict[str, Any]:
    return kept_blocking(get_store(), state)


def kept_blocking(store: BaseStore, state: MessagesState) -> dict[str, Any]:
    store.put(NICK, "said", {"text": state["messages"][-1].text})
    item = store.get(NICK, "said")
    assert item is not None
    return {"messages": [AIMessage(f"kept: {item.value['text']}")]}


@tool
def injected(text: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Keep a text."""
    store.put(NICK, "said", {"text": text})
    return f"kept: {text}"


@tool
def through_runtime(text: str, runtime: ToolRuntime[None, Any]) -> str:
    """Keep a text."""
    assert runtime.store is not None
    runtime.store.put(NICK, "said", {"text": text})
    return f"kept: {text}"


def compiled(manager: HybridMemoryManager, node: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(checkpointer=manager.checkpointer, store=manager.store)


@pytest.mark.parametrize("node", [by_runtime, by_argument, by_asking], ids=lambda node: str(node.__name__))
async def test_nodes_that_await_get_the_store(manager: HybridMemoryManager, node: Callable[..., Any]) -> None:
    graph = compiled(manager, node)
    end = await graph.ainvoke({"messages": [HumanMessage("hello")]}, CONFIG)
    assert end["messages"][-1].text == "kept: hello"
    parts = [part async for part in graph.astream({"messages": [HumanMessage("again")]}, CONFIG, stream_mode="updates")]
    assert parts[0]["node"]["messages"][0].text == "kept: again"
    (node_of_user,) = (await manager.ensure_user_memories("nick")).get_all_nodes()
    assert node_of_user.content == {"text": "again"}


@pytest.mark.parametrize(
    "node", [by_runtime_blocking, by_argument_blocking, by_asking_blocking], ids=lambda node: str(node.__name__)
)
def test_nodes_that_do_not_await_get_the_store(targets_outside: Targets, node: Callable[..., Any]) -> None:
    with HybridMemoryManager(settings_for(targets_outside)) as manager:
        graph = compiled(manager, node)
        end = graph.invoke({"messages": [HumanMessage("hello")]}, CONFIG)
        assert end["messages"][-1].text == "kept: hello"
        (part,) = graph.stream({"messages": [HumanMessage("again")]}, CONFIG, stream_mode="updates")
        assert part["node"]["messages"][0].text == "kept: again"


@pytest.mark.parametrize("keeps", [injected, through_runtime], ids=lambda keeps: str(keeps.name))
async def test_tools_get_the_store(manager: HybridMemoryManager, keeps: BaseTool) -> None:
    graph = compiled(manager, ToolNode([keeps]))
    end = await graph.ainvoke({"messages": [calling(keeps.name, {"text": "hello"})]}, CONFIG)
    answer = end["messages"][-1]
    assert isinstance(answer, ToolMessage)
    assert (answer.text, answer.status) == ("kept: hello", "success")
    item = await manager.store.aget(NICK, "said")
    assert item is not None
    assert item.value == {"text": "hello"}


async def test_what_was_remembered_before_an_interrupt_is_there_after_it(
    instance: Callable[..., HybridMemoryManager], tmp_path: Path
) -> None:
    async def asks(state: MessagesState, *, store: BaseStore) -> dict[str, Any]:
        await store.aput(NICK, "asked", {"text": state["messages"][-1].text})
        answer = interrupt("really?")
        item = await store.aget(NICK, "asked")
        assert item is not None
        return {"messages": [AIMessage(f"{item.value['text']}: {answer}")]}

    first = instance(data_dir=tmp_path)
    await compiled(first, asks).ainvoke({"messages": [HumanMessage("delete it")]}, CONFIG)
    await first.aclose()
    second = instance(data_dir=tmp_path)
    end = await compiled(second, asks).ainvoke(Command(resume="yes"), CONFIG)
    assert end["messages"][-1].text == "delete it: yes"
    assert len((await second.ensure_user_memories("nick")).get_all_nodes()) == 1


async def test_the_platform_opens_both_from_a_path_and_closes_them(
    targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(settings_for(targets, data_dir=tmp_path / "data")).items():
        monkeypatch.setenv(name, value)
    configured = json.loads("""{
        "checkpointer": {"path": "hybrid_memory.platform:checkpointer"},
        "store": {"path": "hybrid_memory.platform:store"}
    }""")
    async with AsyncExitStack() as stack:
        opened = {}
        for part, how in configured.items():
            module, _, name = how["path"].partition(":")
            opened[part] = await stack.enter_async_context(getattr(importlib.import_module(module), name)())
        assert isinstance(opened["checkpointer"], HybridCheckpointer)
        assert isinstance(opened["store"], HybridStore)
        builder = StateGraph(MessagesState)
        builder.add_node("node", by_argument)
        builder.add_edge(START, "node")
        graph = builder.compile(checkpointer=opened["checkpointer"], store=opened["store"])
        end = await graph.ainvoke({"messages": [HumanMessage("hello")]}, CONFIG)
        assert end["messages"][-1].text == "kept: hello"
        manager = default_module.get_manager()
        assert manager.store is opened["store"]
        assert manager.health().postgres == "up"
    assert default_module._manager is None, "the last part closes the manager"
