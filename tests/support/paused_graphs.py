"""Graphs that stop in the middle, each with everything a checkpoint file may hold; the rest of the run comes later."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

THREADS = ("chat", "children", "siblings", "delta")
ran: list[str] = []


@dataclass
class Order:
    """A type that no serializer knows by itself."""

    number: int
    notes: list[str] = field(default_factory=list)


class Words(TypedDict):
    words: Annotated[list[Any], operator.add]


def joined(state: list[str], writes: Sequence[list[str]]) -> list[str]:
    return [*state, *(word for write in writes for word in write)]


class Delta(TypedDict):
    words: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]


def begin(saver: BaseCheckpointSaver[str]) -> None:
    """Run every thread until it asks."""
    for turn in range(3):
        graph_of("chat", saver).invoke({"messages": [HumanMessage(f"turn {turn}", id=f"h{turn}")]}, config("chat"))
        if turn < 2:
            graph_of("chat", saver).invoke(Command(resume=f"answer {turn}"), config("chat"))
    graph_of("children", saver).invoke({"words": [Order(1)]}, config("children"))
    graph_of("siblings", saver).invoke({"words": []}, config("siblings"))
    for turn in range(4):
        graph_of("delta", saver).invoke({"words": [f"turn {turn}"]}, config("delta"))
        if turn < 3:
            graph_of("delta", saver).invoke(Command(resume=f"answer {turn}"), config("delta"))


def finish(saver: BaseCheckpointSaver[str]) -> dict[str, Any]:
    """Answer every question; what the threads ended with, and which nodes ran for it."""
    ran.clear()
    ended = {}
    for thread in THREADS:
        graph = graph_of(thread, saver)
        waiting = graph.get_state(config(thread), subgraphs=True).interrupts
        answers = {one.id: f"answer to {one.value}" for one in waiting}
        ended[thread] = graph.invoke(Command(resume=answers), config(thread))
    return {"ended": ended, "ran": sorted(ran)}


def config(thread: str) -> Any:
    """Where a thread is, with metadata of its own."""
    return {"configurable": {"thread_id": thread}, "metadata": {"purpose": f"test of {thread}", "level": 3}}


def graph_of(thread: str, saver: BaseCheckpointSaver[str]) -> Any:
    builder: Any
    if thread == "chat":
        builder = StateGraph(MessagesState)
        builder.add_node("ask", _answering).add_edge(START, "ask")
    elif thread == "children":
        inner: Any = StateGraph(Words).add_node("say", _noting("say", {"words": [Order(2, ["said"])]}))
        inner.add_node("ask", lambda _: {"words": [interrupt("and?")]}).add_edge(START, "say").add_edge("say", "ask")
        outer: Any = StateGraph(Words).add_node("inner", inner.compile()).add_edge(START, "inner")
        builder = StateGraph(Words).add_node("outer", outer.compile()).add_node("end", lambda _: {"words": ["end"]})
        builder.add_edge(START, "outer").add_edge("outer", "end")
    elif thread == "siblings":
        builder = StateGraph(Words).add_node("ask", lambda name: {"words": [interrupt(name)]})
        builder.add_node("work", _noting("work", {"words": ["worked"]})).add_edge(START, "work")
        builder.add_conditional_edges(START, lambda _: [Send("ask", name) for name in "abc"], ["ask"])
    else:
        builder = StateGraph(Delta)
        builder.add_node("ask", lambda state: {"words": [f"{len(state['words'])} {interrupt('?')}"]})
        builder.add_edge(START, "ask")
    return builder.compile(checkpointer=saver)


def _answering(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(interrupt("what?"), id=f"a{len(state['messages'])}")]}


def _noting(name: str, update: dict[str, Any]) -> Any:
    def node(_: Any) -> dict[str, Any]:
        ran.append(name)
        return update

    return node
