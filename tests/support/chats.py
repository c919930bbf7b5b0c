"""Graphs that go round as often as they are told: for benchmarks, bytes and kills."""

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, MessagesState, StateGraph


class Counting(TypedDict):
    left: int


class Chatting(MessagesState):
    left: int


def counting(saver: BaseCheckpointSaver[str]) -> Any:
    """A step counts down: next to nothing to store."""
    return looping(Counting, lambda state: {"left": state["left"] - 1}, saver)


def chatting(saver: BaseCheckpointSaver[str]) -> Any:
    """A step adds a message of 250 bytes."""

    def talk(state: Chatting) -> dict[str, Any]:
        return {"messages": [message(len(state["messages"]))], "left": state["left"] - 1}

    return looping(Chatting, talk, saver)


def looping(state: type, step: Callable[[Any], Mapping[str, Any]], saver: BaseCheckpointSaver[str]) -> Any:
    """A graph of one node that runs until nothing is `left`."""
    builder: Any = StateGraph(state)
    builder.add_node("step", step).add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["left"] > 0 else END, ["step", END])
    return builder.compile(checkpointer=saver)


def message(number: int) -> BaseMessage:
    """One of a conversation, alternately of both sides."""
    kind = AIMessage if number % 2 else HumanMessage
    return kind(f"message {number}: " + "some words of a conversation " * 8, id=f"message-{number}")
