"""What a state may hold comes back as it was."""

import operator
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import UUID

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolCall, ToolMessage
from langgraph.graph import START, MessagesState
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from pydantic import BaseModel

from tests.conformance.graphs.desk import Desk, graph_of, on_every_saver


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Address(BaseModel):
    street: str
    since: date


class Person(BaseModel):
    """A state that is a pydantic model."""

    name: str
    mood: Mood = Mood.BAD
    addresses: Annotated[list[Address], operator.add] = []


@dataclass
class Order:
    number: int
    prices: dict[str, Decimal] = field(default_factory=dict)


@dataclass
class Basket:
    """A state that is a dataclass."""

    orders: Annotated[list[Order], operator.add]
    last: Order | None = None


class Loose(TypedDict, total=False):
    value: Any
    rest: Annotated[list[Any], operator.add]


@on_every_saver(Mood, Address, Person)
async def test_a_pydantic_state(desk: Desk) -> None:
    def move(state: Person) -> dict[str, Any]:
        assert isinstance(state, Person)
        assert all(isinstance(one, Address) for one in state.addresses)
        return {"mood": Mood.GOOD, "addresses": [Address(street=f"street {len(state.addresses)}", since=date.min)]}

    graph = graph_of(Person).add_node("move", move).add_edge(START, "move").compile(checkpointer=desk.saver)
    await desk.invoke(graph, Person(name="Nick"))
    await desk.invoke(graph, {"mood": Mood.BAD})
    values = (await desk.state(graph)).values
    assert values["mood"] is Mood.GOOD
    assert values["addresses"] == [Address(street=f"street {number}", since=date.min) for number in range(2)]


@on_every_saver(Order, Basket)
async def test_a_dataclass_state(desk: Desk) -> None:
    def order(state: Basket) -> dict[str, Any]:
        assert isinstance(state, Basket)
        new = Order(len(state.orders), {"tea": Decimal("1.50")})
        return {"orders": [new], "last": new}

    graph = graph_of(Basket).add_node("order", order).add_edge(START, "order").compile(checkpointer=desk.saver)
    await desk.invoke(graph, Basket(orders=[]))
    await desk.invoke(graph, Basket(orders=[Order(99)]))
    values = (await desk.state(graph)).values
    assert values["orders"] == [Order(0, {"tea": Decimal("1.50")}), Order(99), Order(2, {"tea": Decimal("1.50")})]
    assert isinstance(values["last"], Order)


VALUES: list[Any] = [
    None, True, 0, -(2**63), 2**64 - 1, 1.5, float("inf"), "", "ä\0\N{PILE OF POO}", b"\0\xff", [], {}, [[]], [None],
    {"a": [1, {"b": None}]}, {1: "int key", None: "none key"}, {"a", "b"}, frozenset({1}), deque([1, 2]),
    datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), date(2026, 1, 2), timedelta(days=1, microseconds=1),
    Decimal("1.10"), UUID(int=5), Path("a/b"), Document("text", metadata={"n": 1}), HumanMessage("hi", id="h"),
    [HumanMessage("hi", id="h"), {"role": "user"}, "text", 1], "x" * 20_000, list(range(1_000)),
]  # fmt: skip


@on_every_saver()
async def test_every_kind_of_value(desk: Desk) -> None:
    builder = graph_of(Loose).add_node("keep", lambda state: {"rest": [state["value"]]})
    graph = builder.add_edge(START, "keep").compile(checkpointer=desk.saver)
    for value in VALUES:
        await desk.invoke(graph, {"value": value})
        found = (await desk.state(graph)).values
        assert (type(found["value"]), found["value"]) == (type(value), value)
    found = (await desk.state(graph)).values["rest"]
    assert [type(one) for one in found] == [type(one) for one in VALUES]
    assert found == VALUES


@on_every_saver()
async def test_messages_are_added_changed_and_removed(desk: Desk) -> None:
    call: ToolCall = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
    turns: list[list[Any]] = [
        [HumanMessage("add one", id="1")],
        [AIMessage("", id="2", tool_calls=[call], response_metadata={"tokens": 3})],
        [ToolMessage("2", tool_call_id="c1", id="3", artifact={"raw": [1, 2]})],
        [HumanMessage("add two", id="1")],
        [RemoveMessage(id="3"), AIMessage("it is three", id="4")],
        [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("forget it", id="5")],
    ]
    graph = graph_of(MessagesState).add_node("wait", lambda _: {}).add_edge(START, "wait").compile(desk.saver)
    for turn in turns:
        await desk.invoke(graph, {"messages": turn})
    contents = [
        [(one.id, one.content) for one in snapshot.values["messages"]]
        for snapshot in reversed(await desk.history(graph))
        if snapshot.next == ()
    ]
    assert contents == [
        [("1", "add one")],
        [("1", "add one"), ("2", "")],
        [("1", "add one"), ("2", ""), ("3", "2")],
        [("1", "add two"), ("2", ""), ("3", "2")],
        [("1", "add two"), ("2", ""), ("4", "it is three")],
        [("5", "forget it")],
    ]


@on_every_saver()
async def test_lists_that_change_in_every_way(desk: Desk) -> None:
    """Elements repeated, moved and dropped anywhere, and a list that becomes something else."""
    shapes: list[Any] = [
        ["a"], ["a", "b"], ["a", "b", "b", "b"], ["b", "a"], ["b"], [], ["b", "a", ["x"], {"k": ["v"]}], [["x"]],
        "text", ["t", "e"], {"k": ["v"]}, ("a", "b"), None, ["a"] * 200, ["a"] * 199, list(map(str, range(200))),
        [*map(str, range(100)), "new", *map(str, range(100, 200))], list(map(str, range(199, -1, -1))),
    ]  # fmt: skip
    graph = graph_of(Loose).add_node("wait", lambda _: {}).add_edge(START, "wait").compile(checkpointer=desk.saver)
    for shape in shapes:
        await desk.invoke(graph, {"value": shape})
    kept = [one.values.get("value") for one in reversed(await desk.history(graph)) if one.next == ()]
    assert kept == [list(shape) if isinstance(shape, tuple) else shape for shape in shapes]


@on_every_saver()
async def test_a_thread_knows_the_metadata_of_its_runs(desk: Desk) -> None:
    graph = graph_of(Loose).add_node("wait", lambda _: {}).add_edge(START, "wait").compile(checkpointer=desk.saver)
    config: Any = {
        "configurable": {"thread_id": "t", "user_id": "nick", "depth": 3},
        "metadata": {"source-of-it": "test", "odd \"'key": "odd 'value\""},
        "run_name": "named",
        "tags": ["one"],
    }
    await desk.invoke(graph, {"value": 1}, config)
    await desk.invoke(graph, {"value": 2})
    for condition in ({"user_id": "nick"}, {"depth": 3}, {"source-of-it": "test"}):
        found = await desk.history(graph, filter=condition)
        assert {one.values.get("value") for one in found} == {None, 1}, condition
