"""Many threads at once, and the functional interface."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.func import entrypoint, task
from langgraph.graph import START
from langgraph.types import Command, interrupt

from tests.conformance.graphs.desk import Desk, graph_of, on_every_saver

THREADS = 12


class State(TypedDict):
    words: Annotated[list[str], operator.add]


@on_every_saver()
async def test_threads_at_once_do_not_meet(desk: Desk) -> None:
    builder = graph_of(State).add_node("ask", lambda _: {"words": [interrupt("?")]})
    builder.add_node("add", lambda state: {"words": [f"{state['words'][0]} again"]})
    graph = builder.add_edge(START, "ask").add_edge("ask", "add").compile(checkpointer=desk.saver)

    async def talk(name: str) -> None:
        for turn in range(2):
            await desk.invoke(graph, {"words": [f"{name} {turn}"]}, name)
            await desk.invoke(graph, Command(resume=f"{name} answers"), name)

    names = [f"thread {number}" for number in range(THREADS)]
    await asyncio.gather(*map(talk, names))
    desk.story.sort()
    for name in names:
        words = (await desk.state(graph, name)).values["words"]
        turns = ([f"{name} {turn}", f"{name} answers", f"{name} 0 again"] for turn in range(2))
        assert words == [word for turn in turns for word in turn]
        assert len(await desk.history(graph, name)) == 8


@on_every_saver()
async def test_deleting_a_thread_leaves_the_others(desk: Desk) -> None:
    builder = graph_of(State).add_node("say", lambda _: {"words": ["said"]})
    graph = builder.add_edge(START, "say").compile(checkpointer=desk.saver)
    for name in ("kept", "deleted"):
        await desk.invoke(graph, {"words": [name]}, name)
    await desk.delete("deleted")
    assert (await desk.state(graph, "deleted")).values == {}
    assert (await desk.state(graph, "kept")).values == {"words": ["kept", "said"]}
    await desk.invoke(graph, {"words": ["new"]}, "deleted")
    assert (await desk.state(graph, "deleted")).values == {"words": ["new", "said"]}


@on_every_saver()
async def test_a_thread_id_may_be_any_text(desk: Desk) -> None:
    builder = graph_of(State).add_node("say", lambda _: {"words": ["said"]})
    graph = builder.add_edge(START, "say").compile(checkpointer=desk.saver)
    for name in ("a:b|c", "%_*?", "'; drop table checkpoints; --", "ä\N{PILE OF POO}", "x" * 2_000, " "):
        await desk.invoke(graph, {"words": [name]}, name)
        assert (await desk.state(graph, name)).values == {"words": [name, "said"]}


@on_every_saver()
async def test_the_functional_interface(desk: Desk) -> None:
    runs: list[int] = []

    @task
    def square(number: int) -> int:
        runs.append(number)
        return number**2

    @task
    async def square_in_a_loop(number: int) -> int:
        runs.append(number)
        return number**2

    @entrypoint(checkpointer=desk.saver)
    def plainly(numbers: list[int], *, previous: Any = None) -> Any:
        squares = [one.result() for one in [square(number) for number in numbers]]
        approved = interrupt({"sum": sum(squares)})
        total = sum(squares) + (previous or 0) + approved
        return entrypoint.final(value={"total": total}, save=total)

    @entrypoint(checkpointer=desk.saver)
    async def in_a_loop(numbers: list[int], *, previous: Any = None) -> Any:
        squares = [await one for one in [square_in_a_loop(number) for number in numbers]]
        approved = interrupt({"sum": sum(squares)})
        total = sum(squares) + (previous or 0) + approved
        return entrypoint.final(value={"total": total}, save=total)

    graph: Any = plainly if desk.calls == "sync" else in_a_loop
    for turn, expected in enumerate((14 + 100, 2 * (14 + 100))):
        asked = await desk.invoke(graph, [1, 2, 3])
        assert asked["__interrupt__"][0].value == {"sum": 14}
        assert await desk.invoke(graph, Command(resume=100)) == {"total": expected}
        # What a task returned before the question is not computed again after it.
        assert sorted(runs) == sorted([1, 2, 3] * (turn + 1))
