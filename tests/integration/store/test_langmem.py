"""LangMem's tools for managing and searching memories, as they are, inside a graph."""

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from hybrid_memory import HybridMemoryManager

with warnings.catch_warnings():
    # It comes with imports that are deprecated elsewhere.
    warnings.simplefilter("ignore")
    from langmem import create_manage_memory_tool, create_search_memory_tool

CONFIG: RunnableConfig = {"configurable": {"langgraph_user_id": "nick", "thread_id": "t"}}


@pytest.fixture
def graph(manager: HybridMemoryManager) -> Any:
    """A graph that calls whatever tools its last message asks for."""
    namespace = ("memories", "{langgraph_user_id}")
    tools = [create_manage_memory_tool(namespace), create_search_memory_tool(namespace)]
    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode(tools, handle_tool_errors=False))
    builder.add_edge(START, "tools")
    return builder.compile(store=manager.store)


def asking(tool: str, **arguments: Any) -> dict[str, Any]:
    call = {"name": tool, "args": arguments, "id": "1", "type": "tool_call"}
    return {"messages": [AIMessage("", tool_calls=[call])]}


def said(state: dict[str, Any]) -> str:
    last = state["messages"][-1]
    assert isinstance(last, ToolMessage)
    return str(last.content)


async def with_await(graph: Any, question: dict[str, Any]) -> str:
    return said(await graph.ainvoke(question, CONFIG))


async def without_await(graph: Any, question: dict[str, Any]) -> str:
    return said(await asyncio.to_thread(graph.invoke, question, CONFIG))


@pytest.mark.parametrize("call", [with_await, without_await])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_create_search_update_and_delete(
    manager: HybridMemoryManager, graph: Any, call: Callable[..., Any]
) -> None:
    await manager.start()
    assert "created" in (await call(graph, asking("manage_memory", content="prefers green tea", action="create")))
    await call(graph, asking("manage_memory", content="plays the piano", action="create"))
    memory = await manager.ensure_user_memories("nick")
    assert len(memory.get_all_nodes()) == 2
    (tea,) = memory.retrieve_relevant("tea")
    assert tea.content == {"content": "prefers green tea"}

    found = await call(graph, asking("search_memory", query="which tea?", limit=1))
    assert "prefers green tea" in found
    assert "piano" not in found

    updated = asking("manage_memory", id=tea.key, content="prefers black tea", action="update")
    assert "updated" in (await call(graph, updated))
    assert "black tea" in (await call(graph, asking("search_memory", query="tea", limit=1)))
    await call(graph, asking("manage_memory", id=tea.key, action="delete"))
    assert [node.content for node in memory.get_all_nodes()] == [{"content": "plays the piano"}]
