"""Tasks that run at once: `Send`, retries, and what is kept when one of them fails."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import START
from langgraph.types import Command, Overwrite, RetryPolicy, Send

from tests.conformance.graphs.desk import Desk, graph_of, on_every_saver

WIDTH = 20


class State(TypedDict):
    found: Annotated[list[int], operator.add]
    total: int


def fan_out(_: State) -> list[Send]:
    return [Send("square", number) for number in range(WIDTH)]


@on_every_saver()
async def test_map_and_reduce_twice_on_one_thread(desk: Desk) -> None:
    builder = graph_of(State).add_node("square", lambda number: {"found": [number**2]})
    builder.add_node("sum", lambda state: {"total": sum(state["found"])})
    builder.add_conditional_edges(START, fan_out, ["square"]).add_edge("square", "sum")
    graph = builder.compile(checkpointer=desk.saver)
    squares = [number**2 for number in range(WIDTH)]
    assert await desk.invoke(graph, {"found": []}) == {"found": squares, "total": sum(squares)}
    assert await desk.invoke(graph, {"found": [1]}) == {"found": [*squares, 1, *squares], "total": 2 * sum(squares) + 1}
    await desk.history(graph)


@on_every_saver()
async def test_what_siblings_wrote_is_kept_when_one_fails(desk: Desk) -> None:
    runs: list[int] = []
    broken = [True]

    def square(number: int) -> dict[str, Any]:
        runs.append(number)
        if number == WIDTH - 1 and broken[0]:
            raise ValueError("not today")
        return {"found": [number]}

    builder = graph_of(State).add_node("square", square).add_conditional_edges(START, fan_out, ["square"])
    graph = builder.compile(checkpointer=desk.saver)
    # One after the other: which of several are done when one fails is a matter of luck.
    config: Any = {"configurable": {"thread_id": "t"}, "max_concurrency": 1}
    assert await desk.fails(graph, {"found": []}, config) == "not today"
    paused = await desk.state(graph)
    assert [str(task.error) for task in paused.tasks if task.error] == ["ValueError('not today')"]
    broken[0] = False
    assert await desk.invoke(graph, None, config) == {"found": list(range(WIDTH))}
    assert sorted(runs) == sorted([*range(WIDTH), WIDTH - 1])


@on_every_saver()
async def test_a_node_is_tried_again(desk: Desk) -> None:
    attempts = 0

    def shaky(_: State) -> dict[str, Any]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectionError("away")
        return {"found": [attempts]}

    policy = RetryPolicy(initial_interval=0.001, max_attempts=3, jitter=False)
    graph = (
        graph_of(State)
        .add_node("shaky", shaky, retry_policy=policy)
        .add_edge(START, "shaky")
        .compile(checkpointer=desk.saver)
    )
    assert await desk.invoke(graph, {"found": []}) == {"found": [3]}


@on_every_saver()
async def test_a_failure_leaves_the_thread_where_it_was(desk: Desk) -> None:
    def fail(_: State) -> dict[str, Any]:
        raise RuntimeError("broken")

    builder = graph_of(State).add_node("good", lambda _: {"found": [1]}).add_node("bad", fail)
    graph = builder.add_edge(START, "good").add_edge("good", "bad").compile(checkpointer=desk.saver)
    for _ in range(2):
        assert await desk.fails(graph, {"found": []}) == "broken"
    paused = await desk.state(graph)
    assert (paused.next, paused.values) == (("bad",), {"found": [1, 1]})
    await desk.history(graph)


@on_every_saver()
async def test_a_deferred_node_waits_and_sends_go_on(desk: Desk) -> None:
    def halve(number: int) -> Command[Any]:
        if number == 0:
            return Command(update={"found": [0]})
        return Command(update={"found": [number]}, goto=[Send("halve", number // 2)])

    builder = graph_of(State).add_node("halve", halve, destinations=("halve",))
    builder.add_node("sum", lambda state: {"total": sum(state["found"])}, defer=True)
    builder.add_conditional_edges(START, lambda _: [Send("halve", 9), Send("halve", 4)], ["halve"])
    graph = builder.add_edge("halve", "sum").compile(checkpointer=desk.saver)
    assert await desk.invoke(graph, {"found": []}) == {"found": [9, 4, 4, 2, 2, 1, 1, 0, 0], "total": 23}


@on_every_saver()
async def test_a_reducer_is_overruled(desk: Desk) -> None:
    builder = graph_of(State).add_node("clear", lambda _: {"found": Overwrite([7])})
    graph = builder.add_edge(START, "clear").compile(checkpointer=desk.saver)
    assert await desk.invoke(graph, {"found": [1, 2]}) == {"found": [7]}
    assert await desk.invoke(graph, {"found": [1]}) == {"found": [7]}
