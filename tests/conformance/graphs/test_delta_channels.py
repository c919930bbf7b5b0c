"""`DeltaChannel`: a value that is rebuilt from the writes of its ancestors."""

from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START
from langgraph.types import Command, Overwrite, Send, interrupt

from tests.conformance.graphs.desk import Desk, Graph, graph_of, on_every_saver


def joined(state: list[str], writes: Sequence[list[str]]) -> list[str]:
    return [*state, *(word for write in writes for word in write)]


class State(TypedDict):
    words: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]
    rare: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=1000)]
    turn: int


def speaking(desk: Desk) -> Graph:
    def speak(state: State) -> dict[str, Any]:
        return {"words": [f"answer {len(state['words'])}"], "rare": [f"rare {len(state['rare'])}"]}

    return graph_of(State).add_node("speak", speak).add_edge(START, "speak").compile(checkpointer=desk.saver)


@on_every_saver()
async def test_a_long_chat_over_several_snapshots(desk: Desk) -> None:
    graph = speaking(desk)
    for turn in range(10):
        await desk.invoke(graph, {"words": [f"question {turn}"], "turn": turn})
    values = (await desk.state(graph)).values
    assert values["words"] == [word for turn in range(10) for word in (f"question {turn}", f"answer {2 * turn + 1}")]
    assert values["rare"] == [f"rare {turn}" for turn in range(10)]
    lengths = [len(one.values["words"]) for one in await desk.history(graph) if one.next == ()]
    assert lengths == list(range(20, 0, -2))


@on_every_saver()
async def test_forks_and_updates(desk: Desk) -> None:
    graph = speaking(desk)
    for turn in range(4):
        await desk.invoke(graph, {"words": [f"question {turn}"], "turn": turn})
    origin = [one for one in await desk.history(graph) if one.next == ()][2]
    fork = await desk.update(graph, {"words": ["by hand"]}, origin.config, as_node="speak")
    assert (await desk.state(graph, fork)).values["words"][-2:] == ["answer 3", "by hand"]
    for turn in range(4):
        await desk.invoke(graph, {"words": [f"other {turn}"], "turn": turn})
    words = (await desk.state(graph)).values["words"]
    assert words[4:6] == ["by hand", "other 0"]
    assert len(words) == 13
    await desk.history(graph)


@on_every_saver()
async def test_a_value_set_anew(desk: Desk) -> None:
    def reset(_: State) -> dict[str, Any]:
        return {"words": Overwrite(["start again"])}

    builder = graph_of(State).add_node("reset", reset).add_node("go_on", lambda _: {"words": ["on"]})
    graph = builder.add_edge(START, "reset").add_edge("reset", "go_on").compile(checkpointer=desk.saver)
    for _ in range(3):
        await desk.invoke(graph, {"words": ["lost"]})
        assert (await desk.state(graph)).values["words"] == ["start again", "on"]
    await desk.history(graph)


@on_every_saver()
async def test_in_every_durability(desk: Desk) -> None:
    graph = speaking(desk)
    for durability in ("sync", "async", "exit"):
        for turn in range(5):
            await desk.invoke(graph, {"words": [f"question {turn}"]}, durability, durability=durability)
        assert len((await desk.state(graph, durability)).values["words"]) == 10


@on_every_saver()
async def test_with_questions_and_a_fan_out(desk: Desk) -> None:
    def work(number: int) -> dict[str, Any]:
        return {"words": [f"{number} {interrupt(number) if number == 1 else 'done'}"]}

    builder = graph_of(State).add_node("work", work).add_node("end", lambda _: {"words": ["end"]})
    builder.add_conditional_edges(START, lambda _: [Send("work", number) for number in range(3)], ["work"])
    graph = builder.add_edge("work", "end").compile(checkpointer=desk.saver)
    for turn in range(3):
        await desk.invoke(graph, {"words": [f"turn {turn}"]})
        await desk.state(graph)
        await desk.invoke(graph, Command(resume="asked"))
    one_turn = ["0 done", "1 asked", "2 done", "end"]
    words = (await desk.state(graph)).values["words"]
    assert words == [word for turn in range(3) for word in (f"turn {turn}", *one_turn)]


@on_every_saver()
async def test_in_a_child_graph(desk: Desk) -> None:
    inner = graph_of(State).add_node("speak", lambda state: {"words": [f"child {len(state['words'])}"]})
    inner.add_node("ask", lambda _: {"words": [interrupt("?")]})
    compiled = inner.add_edge(START, "speak").add_edge("speak", "ask").compile()
    builder = graph_of(State).add_node("child", compiled).add_edge(START, "child")
    graph = builder.compile(checkpointer=desk.saver)
    await desk.invoke(graph, {"words": ["hello"]})
    paused = await desk.state(graph, subgraphs=True)
    assert [one.value for one in paused.interrupts] == ["?"]
    answer = await desk.invoke(graph, Command(resume="answered"))
    assert answer["words"][-2:] == ["child 1", "answered"]
