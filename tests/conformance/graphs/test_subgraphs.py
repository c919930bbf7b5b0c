"""Graphs inside graphs: each has a namespace of its own in the thread."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import START
from langgraph.types import Command, Send, interrupt

from tests.conformance.graphs.desk import Desk, Graph, graph_of, on_every_saver


class State(TypedDict):
    words: Annotated[list[str], operator.add]


def child(*, saver: bool | None = None, question: str = "well?") -> Graph:
    """Says something, asks, and says what was answered."""
    builder = graph_of(State).add_node("say", lambda state: {"words": [f"said {len(state['words'])}"]})
    builder.add_node("ask", lambda _: {"words": [f"heard {interrupt(question)}"]})
    return builder.add_edge(START, "say").add_edge("say", "ask").compile(checkpointer=saver)


def calling(desk: Desk, inner: Graph, name: str = "child") -> Graph:
    builder = graph_of(State).add_node(name, inner)
    builder.add_node("done", lambda state: {"words": [f"done after {len(state['words'])}"]})
    return builder.add_edge(START, name).add_edge(name, "done").compile(checkpointer=desk.saver)


@on_every_saver()
async def test_a_child_asks_and_its_state_is_seen(desk: Desk) -> None:
    graph = calling(desk, child())
    await desk.invoke(graph, {"words": ["hello"]})
    paused = await desk.state(graph, subgraphs=True)
    inner = paused.tasks[0].state
    assert not isinstance(inner, dict)
    assert inner is not None
    assert (inner.values, inner.next) == ({"words": ["hello", "said 1"]}, ("ask",))
    answer = await desk.invoke(graph, Command(resume="yes"))
    assert answer["words"] == ["hello", "hello", "said 1", "heard yes", "done after 4"]
    await desk.history(graph)


@on_every_saver()
async def test_the_state_of_a_child_is_changed_while_it_waits(desk: Desk) -> None:
    graph = calling(desk, child())
    await desk.invoke(graph, {"words": ["hello"]})
    inner = (await desk.state(graph, subgraphs=True)).tasks[0].state
    assert not isinstance(inner, dict)
    assert inner is not None
    await desk.update(graph, {"words": ["slipped in"]}, inner.config)
    await desk.state(graph, subgraphs=True)
    assert (await desk.invoke(graph, Command(resume="yes")))["words"][-4:] == [
        "said 1", "slipped in", "heard yes", "done after 5",
    ]  # fmt: skip


@on_every_saver()
async def test_a_child_with_a_memory_of_its_own(desk: Desk) -> None:
    """Compiled with `checkpointer=True` it goes on where it was in the turn before."""
    graph = calling(desk, child(saver=True))
    for turn in range(3):
        await desk.invoke(graph, {"words": [f"turn {turn}"]})
        await desk.invoke(graph, Command(resume=turn))
    words = (await desk.state(graph)).values["words"]
    assert len(words) > 20
    await desk.history(graph)


@on_every_saver()
async def test_three_generations_with_a_question_in_the_last(desk: Desk) -> None:
    middle = graph_of(State).add_node("inner", child()).add_edge(START, "inner").compile()
    graph = calling(desk, middle, "middle")
    await desk.invoke(graph, {"words": []})
    paused = await desk.state(graph, subgraphs=True)
    assert [one.value for one in paused.interrupts] == ["well?"]
    assert (await desk.invoke(graph, Command(resume="ok")))["words"] == ["said 0", "heard ok", "done after 2"]


@on_every_saver()
async def test_children_of_a_fan_out_ask_at_once(desk: Desk) -> None:
    inner = child()

    async def in_both_ways(name: str) -> dict[str, Any]:
        return {"words": [f"{name}: {word}" for word in (await inner.ainvoke({"words": [name]}))["words"]]}

    def plainly(name: str) -> dict[str, Any]:
        return {"words": [f"{name}: {word}" for word in inner.invoke({"words": [name]})["words"]]}

    builder = graph_of(State).add_node("work", plainly if desk.calls == "sync" else in_both_ways)
    builder.add_conditional_edges(START, lambda _: [Send("work", name) for name in "abcd"], ["work"])
    graph = builder.compile(checkpointer=desk.saver)
    waiting = (await desk.invoke(graph, {"words": []}))["__interrupt__"]
    assert len(waiting) == 4
    answers = {one.id: "same" for one in waiting}
    assert (await desk.invoke(graph, Command(resume=answers)))["words"] == [
        f"{name}: {word}" for name in "abcd" for word in (name, "said 1", "heard same")
    ]


@on_every_saver()
async def test_a_child_sends_its_parent_on(desk: Desk) -> None:
    def leave(_: State) -> Command[Any]:
        return Command(goto="elsewhere", update={"words": ["from below"]}, graph=Command.PARENT)

    inner = graph_of(State).add_node("leave", leave).add_edge(START, "leave").compile()
    builder = graph_of(State).add_node("child", inner, destinations=("elsewhere",))
    builder.add_node("elsewhere", lambda _: {"words": ["elsewhere"]})
    graph = builder.add_edge(START, "child").compile(checkpointer=desk.saver)
    assert (await desk.invoke(graph, {"words": []}))["words"] == ["from below", "elsewhere"]


@on_every_saver()
async def test_time_travel_into_a_child(desk: Desk) -> None:
    graph = calling(desk, child())
    await desk.invoke(graph, {"words": ["hello"]})
    paused = await desk.state(graph)
    await desk.invoke(graph, Command(resume="first"))
    fork = await desk.update(graph, {"words": ["again"]}, paused.config, as_node="__start__")
    await desk.invoke(graph, None, fork)
    answer = await desk.invoke(graph, Command(resume="second"))
    assert "heard second" in answer["words"]
    assert "heard first" not in answer["words"]
    await desk.history(graph)
