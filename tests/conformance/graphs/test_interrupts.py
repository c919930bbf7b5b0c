"""Graphs that stop to ask, and go on with the answers."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START
from langgraph.types import Command, Send, interrupt

from tests.conformance.graphs.desk import Desk, Graph, graph_of, on_every_saver


class State(TypedDict):
    asked: Annotated[list[str], operator.add]


def asking_twice(desk: Desk) -> Graph:
    def ask(_: State) -> dict[str, Any]:
        name = interrupt({"question": "name"})
        age = interrupt({"question": f"age of {name}"})
        return {"asked": [f"{name} is {age}"]}

    builder = graph_of(State).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END)
    return builder.compile(checkpointer=desk.saver)


@on_every_saver()
async def test_a_node_asks_twice(desk: Desk) -> None:
    graph = asking_twice(desk)
    first = await desk.invoke(graph, {"asked": ["hello"]})
    assert [one.value for one in first["__interrupt__"]] == [{"question": "name"}]
    assert (await desk.state(graph)).next == ("ask",)
    second = await desk.invoke(graph, Command(resume="Nick"))
    assert [one.value for one in second["__interrupt__"]] == [{"question": "age of Nick"}]
    assert await desk.invoke(graph, Command(resume=40)) == {"asked": ["hello", "Nick is 40"]}
    assert (await desk.state(graph)).next == ()
    await desk.history(graph)


@on_every_saver()
async def test_questions_asked_at_once_are_answered_at_once_or_one_by_one(desk: Desk) -> None:
    def fan_out(_: State) -> list[Send]:
        return [Send("ask", name) for name in ("a", "b", "c")]

    def ask(name: str) -> dict[str, Any]:
        return {"asked": [f"{name}={interrupt(name)}"]}

    builder = graph_of(State).add_node("ask", ask).add_conditional_edges(START, fan_out, ["ask"])
    graph = builder.compile(checkpointer=desk.saver)

    waiting = {one.value: one.id for one in (await desk.invoke(graph, {"asked": []}))["__interrupt__"]}
    assert waiting.keys() == {"a", "b", "c"}
    answers = {identity: name.upper() for name, identity in waiting.items()}
    assert await desk.invoke(graph, Command(resume=answers)) == {"asked": ["a=A", "b=B", "c=C"]}

    waiting = {one.value: one.id for one in (await desk.invoke(graph, {"asked": []}, "slow"))["__interrupt__"]}
    for name in ("b", "a"):
        still = await desk.invoke(graph, Command(resume={waiting[name]: name.upper()}), "slow")
        assert name not in [one.value for one in still["__interrupt__"]]
    assert [one.value for one in (await desk.state(graph, "slow")).interrupts] == ["c"]
    assert await desk.invoke(graph, Command(resume="C"), "slow") == {"asked": ["a=A", "b=B", "c=C"]}


@on_every_saver()
async def test_a_sibling_that_is_done_is_not_run_again(desk: Desk) -> None:
    runs: list[str] = []

    def work(_: State) -> dict[str, Any]:
        runs.append("work")
        return {"asked": ["worked"]}

    def ask(_: State) -> dict[str, Any]:
        return {"asked": [interrupt("well?")]}

    builder = graph_of(State).add_node("work", work).add_node("ask", ask)
    builder.add_edge(START, "work").add_edge(START, "ask")
    graph = builder.compile(checkpointer=desk.saver)
    await desk.invoke(graph, {"asked": []})
    assert await desk.invoke(graph, Command(resume="yes")) == {"asked": ["yes", "worked"]}
    assert runs == ["work"]


@on_every_saver()
async def test_breakpoints_before_and_after_nodes(desk: Desk) -> None:
    builder = graph_of(State)
    for name in "abc":
        builder.add_node(name, lambda _, name=name: {"asked": [name]})
    builder.add_edge(START, "a").add_edge("a", "b").add_edge("b", "c")
    graph = builder.compile(checkpointer=desk.saver, interrupt_before=["b"], interrupt_after=["b"])
    assert (await desk.invoke(graph, {"asked": []}))["asked"] == ["a"]
    assert (await desk.state(graph)).next == ("b",)
    assert (await desk.invoke(graph, None))["asked"] == ["a", "b"]
    assert (await desk.state(graph)).next == ("c",)
    assert (await desk.invoke(graph, None))["asked"] == ["a", "b", "c"]
    await desk.history(graph)


@on_every_saver()
async def test_an_answer_comes_with_an_update_and_a_way(desk: Desk) -> None:
    def ask(_: State) -> Command[Any]:
        return Command(goto=interrupt("where to?"), update={"asked": ["went"]})

    builder = graph_of(State).add_node("ask", ask, destinations=("left", "right"))
    builder.add_node("left", lambda _: {"asked": ["left"]}).add_node("right", lambda _: {"asked": ["right"]})
    graph = builder.add_edge(START, "ask").compile(checkpointer=desk.saver)
    await desk.invoke(graph, {"asked": []})
    answer = await desk.invoke(graph, Command(resume="right", update={"asked": ["by hand"]}))
    assert answer == {"asked": ["by hand", "went", "right"]}


@on_every_saver()
async def test_a_question_can_be_asked_again_with_another_state(desk: Desk) -> None:
    graph = asking_twice(desk)
    await desk.invoke(graph, {"asked": []})
    await desk.invoke(graph, Command(resume="Nick"))
    changed = await desk.update(graph, {"asked": ["noted"]})
    await desk.state(graph, changed)
    assert (await desk.invoke(graph, None))["__interrupt__"][0].value == {"question": "name"}
    await desk.invoke(graph, Command(resume="Ann"))
    assert await desk.invoke(graph, Command(resume=7)) == {"asked": ["noted", "Ann is 7"]}
