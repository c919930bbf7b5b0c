"""When checkpoints are written: with each step, beside it, or at the end."""

import operator
from typing import Annotated, Any, Literal, TypedDict, get_args

from langgraph.graph import START
from langgraph.types import Command, interrupt

from tests.conformance.graphs.desk import Desk, Graph, graph_of, on_every_saver

Durability = Literal["sync", "async", "exit"]
EACH_STEP = 7


class State(TypedDict):
    words: Annotated[list[int], operator.add]


def counting(desk: Desk, *, fail_at: int | None = None, ask_at: int | None = None) -> Graph:
    """Five nodes in a row."""

    def step(number: int) -> Any:
        def count(_: State) -> dict[str, Any]:
            if number == fail_at:
                raise RuntimeError("broken")
            return {"words": [interrupt("?") if number == ask_at else number]}

        return count

    builder = graph_of(State)
    for number in range(5):
        builder.add_node(str(number), step(number))
        builder.add_edge(str(number - 1) if number else START, str(number))
    return builder.compile(checkpointer=desk.saver)


@on_every_saver()
async def test_a_run_that_ends(desk: Desk) -> None:
    graph = counting(desk)
    for durability in get_args(Durability):
        await desk.invoke(graph, {"words": []}, durability, durability=durability)
        assert (await desk.state(graph, durability)).values == {"words": [0, 1, 2, 3, 4]}
        kept = await desk.history(graph, durability)
        assert len(kept) == (1 if durability == "exit" else EACH_STEP)


@on_every_saver()
async def test_a_second_run_goes_on_from_the_first(desk: Desk) -> None:
    graph = counting(desk)
    for durability in get_args(Durability):
        for other in get_args(Durability):
            thread = f"{durability} then {other}"
            await desk.invoke(graph, {"words": []}, thread, durability=durability)
            await desk.invoke(graph, {"words": []}, thread, durability=other)
            assert (await desk.state(graph, thread)).values == {"words": [0, 1, 2, 3, 4] * 2}


@on_every_saver()
async def test_a_run_that_fails(desk: Desk) -> None:
    failing, whole = counting(desk, fail_at=3), counting(desk)
    for durability in get_args(Durability):
        await desk.fails(failing, {"words": []}, durability, durability=durability)
        paused = await desk.state(failing, durability)
        assert (paused.values, paused.next) == ({"words": [0, 1, 2]}, ("3",))
        await desk.invoke(whole, None, durability, durability=durability)
        assert (await desk.state(whole, durability)).values == {"words": [0, 1, 2, 3, 4]}


@on_every_saver()
async def test_a_run_that_asks(desk: Desk) -> None:
    graph = counting(desk, ask_at=2)
    for durability in get_args(Durability):
        await desk.invoke(graph, {"words": []}, durability, durability=durability)
        assert (await desk.state(graph, durability)).next == ("2",)
        await desk.invoke(graph, Command(resume=42), durability, durability=durability)
        assert (await desk.state(graph, durability)).values == {"words": [0, 1, 42, 3, 4]}
