"""Going back to an earlier checkpoint: looking, running on from there, and changing what was."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import START
from langgraph.types import Command, StateUpdate, interrupt

from tests.conformance.graphs.desk import Desk, Graph, graph_of, on_every_saver


class State(TypedDict):
    words: Annotated[list[str], operator.add]
    last: str


def three_words(desk: Desk, runs: list[str] | None = None) -> Graph:
    def saying(name: str) -> Any:
        def say(state: State) -> dict[str, Any]:
            if runs is not None:
                runs.append(name)
            return {"words": [f"{name} after {state['last']}"], "last": name}

        return say

    builder = graph_of(State)
    for name in "abc":
        builder.add_node(name, saying(name))
    builder.add_edge(START, "a").add_edge("a", "b").add_edge("b", "c")
    return builder.compile(checkpointer=desk.saver)


START_VALUES = {"words": [], "last": "nothing"}


@on_every_saver()
async def test_the_history_is_newest_first_and_can_be_cut(desk: Desk) -> None:
    graph = three_words(desk)
    for _ in range(2):
        await desk.invoke(graph, START_VALUES)
    snapshots = await desk.history(graph)
    assert [one.next for one in snapshots] == [(), ("c",), ("b",), ("a",), ("__start__",)] * 2
    assert [one.metadata["step"] for one in snapshots if one.metadata] == list(range(8, -2, -1))
    assert await desk.history(graph, limit=3) == snapshots[:3]
    assert await desk.history(graph, before=snapshots[4].config) == snapshots[5:]
    assert await desk.history(graph, filter={"source": "input"}) == [snapshots[4], snapshots[9]]
    assert await desk.history(graph, filter={"source": "loop", "step": 2}) == [snapshots[6]]
    for one in snapshots:
        assert (await desk.state(graph, one.config)).values == one.values


@on_every_saver()
async def test_running_on_from_a_checkpoint_runs_only_what_came_later(desk: Desk) -> None:
    runs: list[str] = []
    graph = three_words(desk, runs)
    whole = await desk.invoke(graph, START_VALUES)
    before_c = (await desk.history(graph))[1]
    runs.clear()
    assert await desk.invoke(graph, None, before_c.config) == whole
    assert runs == ["c"]
    assert [one.metadata["source"] for one in await desk.history(graph) if one.metadata][:2] == ["loop", "fork"]


@on_every_saver()
async def test_a_fork_leaves_the_first_branch_as_it_was(desk: Desk) -> None:
    graph = three_words(desk)
    first = await desk.invoke(graph, START_VALUES)
    before = await desk.history(graph)
    forked = await desk.update(graph, {"words": ["by hand"], "last": "hand"}, before[2].config)
    assert await desk.invoke(graph, None, forked) == {
        "words": ["a after nothing", "by hand", "b after hand", "c after b"],
        "last": "c",
    }
    after = await desk.history(graph)
    assert after[-len(before) :] == before
    assert (await desk.state(graph, before[0].config)).values == first
    sources = [one.metadata["source"] for one in after if one.metadata]
    assert sources[:3] == ["loop", "loop", "update"]


@on_every_saver()
async def test_forks_of_one_checkpoint_share_no_values(desk: Desk) -> None:
    graph = three_words(desk)
    await desk.invoke(graph, START_VALUES)
    origin = (await desk.history(graph))[2]
    branches = [await desk.update(graph, {"words": [name], "last": name}, origin.config) for name in "xyz"]
    for branch, name in zip(branches, "xyz", strict=True):
        answer = await desk.invoke(graph, None, branch)
        assert answer["words"] == ["a after nothing", name, f"b after {name}", "c after b"]
    for branch, name in zip(branches, "xyz", strict=True):
        assert (await desk.state(graph, branch)).values == {"words": ["a after nothing", name], "last": name}


@on_every_saver()
async def test_an_update_stands_for_a_node(desk: Desk) -> None:
    graph = three_words(desk)
    await desk.update(graph, {"words": ["as b"], "last": "b"}, as_node="b")
    assert (await desk.state(graph)).next == ("c",)
    assert (await desk.invoke(graph, None))["words"] == ["as b", "c after b"]
    await desk.bulk_update(
        graph,
        [
            [StateUpdate({"words": ["new"], "last": "new"}, "__start__")],
            [StateUpdate({"words": ["as a"], "last": "a"}, "a")],
        ],
        "bulk",
    )
    assert (await desk.invoke(graph, None, "bulk"))["words"] == ["new", "as a", "b after a", "c after b"]
    await desk.history(graph, "bulk")


@on_every_saver()
async def test_an_answered_question_can_be_answered_differently(desk: Desk) -> None:
    def ask(_: State) -> dict[str, Any]:
        return {"words": [interrupt("what?")], "last": "ask"}

    builder = graph_of(State).add_node("ask", ask).add_node("a", lambda state: {"words": [f"so {state['last']}"]})
    graph = builder.add_edge(START, "ask").add_edge("ask", "a").compile(checkpointer=desk.saver)
    await desk.invoke(graph, START_VALUES)
    asked = await desk.state(graph)
    assert (await desk.invoke(graph, Command(resume="yes")))["words"] == ["yes", "so ask"]
    # The answer belongs to the checkpoint that asked: running it again gives it again, a fork asks anew.
    assert (await desk.invoke(graph, Command(resume="no"), asked.config))["words"] == ["yes", "so ask"]
    fork = await desk.update(graph, {"last": "forked"}, asked.config)
    await desk.invoke(graph, None, fork)
    assert (await desk.invoke(graph, Command(resume="no")))["words"] == ["no", "so ask"]
    await desk.history(graph)


@on_every_saver()
async def test_a_step_of_a_past_branch_is_not_the_newest(desk: Desk) -> None:
    """Running an old branch on makes it the newest; the other one is found by its id."""
    graph = three_words(desk)
    await desk.invoke(graph, START_VALUES)
    newest = await desk.state(graph)
    oldest = (await desk.history(graph))[-2]
    await desk.update(graph, {"words": ["old"], "last": "old"}, oldest.config)
    assert (await desk.state(graph)).values["last"] == "old"
    assert (await desk.state(graph, newest.config)).values == newest.values
