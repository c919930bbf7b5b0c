"""A process is killed in the middle of graph runs: the next one goes on from the last step that was acknowledged.

`durability="sync"` promises that a step begins when the checkpoint of the one before it is durable. So whoever goes on
begins with the step that was in flight or the one after it, never with an earlier one, and no other is run twice.
"""

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from hybrid_memory import HybridCheckpointer
from hybrid_memory.observability import Events
from tests.support.children import Child
from tests.support.waiting import until_blocking

STEPS = 24
WIDTH = 3
# Every so manieth step is several tasks at once.
FAN_OUT_EVERY = 4
LIVES = (0, 1, 2, 5, 10, 20, 40, 60)


def joined(one: list[str], other: list[str]) -> list[str]:
    return [*one, *other]


class State(TypedDict):
    done: Annotated[list[str], joined]
    step: int


class Notes:
    """Lines that are the system's as soon as they are written; they outlive the process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def graph_of(saver: Any, thread: str, notes: Notes | None = None) -> Any:
    """Counts to `STEPS`; an effect is a line in the notes."""

    def effect(what: str) -> list[str]:
        if notes is not None:
            notes.write("effect", thread, what)
        return [what]

    def one(state: State) -> dict[str, Any]:
        return {"done": effect(f"{state['step']}"), "step": state["step"] + 1}

    def part(given: tuple[int, int]) -> dict[str, Any]:
        return {"done": effect(f"{given[0]} {given[1]}")}

    def after(state: State) -> dict[str, Any]:
        return {"step": state["step"] + 1}

    def way(state: State) -> Any:
        if state["step"] >= STEPS:
            return END
        if state["step"] % FAN_OUT_EVERY == 0:
            return [Send("part", (state["step"], number)) for number in range(WIDTH)]
        return "one"

    builder: Any = StateGraph(State)
    builder.add_node("one", one).add_node("part", part).add_node("after", after)
    builder.add_conditional_edges(START, way, ["one", "part", END])
    builder.add_conditional_edges("one", way, ["one", "part", END])
    builder.add_conditional_edges("after", way, ["one", "part", END])
    return builder.add_edge("part", "after").compile(checkpointer=saver)


def config_of(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}, "recursion_limit": 200}


def run_until_killed(_: Events, directory: str, log: str, calls: str, bug: str | None) -> None:
    """Finish what was begun, then thread after thread."""
    notes = Notes(log)
    with HybridCheckpointer(directory) as saver:
        if bug == "acknowledges early":
            acknowledge_early(saver)
        notes.write("ready")
        for number in count():
            run_thread(saver, f"thread-{number}", notes, calls)


def run_thread(saver: HybridCheckpointer, thread: str, notes: Notes, calls: str) -> None:
    graph, config = graph_of(saver, thread, notes), config_of(thread)
    state = graph.get_state(config)
    if state.created_at and not state.tasks:  # a task whose writes are stored is not `next`, but not over either
        return
    given = None if state.created_at else {"done": [], "step": 0}
    notes.write("begins", thread)
    if calls == "sync":
        graph.invoke(given, config, durability="sync")
    else:
        asyncio.run(graph.ainvoke(given, config, durability="sync"))
    notes.write("finished", thread)


def acknowledge_early(saver: HybridCheckpointer) -> None:
    """A bug: a checkpoint is stored a while after the graph was told so."""
    late: list[tuple[float, Any]] = []
    honest = saver.put

    def store() -> None:
        while True:
            if late and late[0][0] < time.monotonic():
                honest(*late.pop(0)[1])
            time.sleep(0.001)

    def put(config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        late.append((time.monotonic() + 0.05, (config, checkpoint, metadata, new_versions)))
        where = {**config["configurable"], "checkpoint_id": checkpoint["id"]}
        return {"configurable": where}

    setattr(saver, "put", put)  # noqa: B010 - mypy does not take a function for a method
    threading.Thread(target=store, daemon=True).start()


def lives(rng: random.Random) -> Iterator[int]:
    """How many lines one process after the other may write: each of the numbers comes in its turn."""
    while True:
        yield from rng.sample(LIVES, len(LIVES))


def killed_once(place: Path, rng: random.Random, wanted: int, bug: str | None = None) -> None:
    """Start a process and kill it a while after that: some while they open the file."""
    log = place / "log"
    before = len(lines_of(log))
    calls = "sync" if bug else rng.choice(["sync", "async"])
    arguments = {"directory": str(place / "data"), "log": str(log), "calls": calls, "bug": bug}
    with Child(run_until_killed, arguments) as child:
        until_blocking(lambda: len(lines_of(log)) >= before + wanted, f"{wanted} lines", seconds=60)
        time.sleep(rng.random() * 0.005)
        child.kill()
    Notes(str(log)).write("killed")


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def check(lines: list[str]) -> tuple[int, int]:
    """Every run goes on where the last one was; how many effects there were, and how many were repeated."""
    last: dict[str, int] = {}
    effects = repeated = 0
    for run in runs_of(lines):
        seen: set[tuple[str, ...]] = set()
        for thread, *what in run:
            step, first_of_run = int(what[0]), thread not in {one[0] for one in seen}
            assert (thread, *what) not in seen, f"{thread} did {what} twice in one run"
            so_far = last.get(thread, -1)
            if first_of_run:
                assert step in {so_far, so_far + 1}, f"{thread} was at step {so_far} and went on with {step}"
                repeated += step == so_far
            else:
                assert step in {so_far, so_far + 1}, f"{thread} jumped from {so_far} to {step}"
                assert step > so_far or step % FAN_OUT_EVERY == 0, f"{thread} did {step} again"
            last[thread] = step
            seen.add((thread, *what))
            effects += 1
    return effects, repeated


def runs_of(lines: list[str]) -> Iterator[list[list[str]]]:
    """The effects of each process: `[thread, step]` or `[thread, step, part]`."""
    run: list[list[str]] = []
    for line in lines:
        if line == "killed":
            yield run
            run = []
        elif line.startswith("effect "):
            run.append(line.split()[1:])
    yield run


def expected() -> dict[str, Any]:
    state: dict[str, Any] = graph_of(InMemorySaver(), "t").invoke({"done": [], "step": 0}, config_of("t"))
    return state


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])])
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, rng: random.Random, kills: int) -> None:
    for wanted in islice(lives(rng), kills):
        killed_once(tmp_path, rng, wanted)
    lines = lines_of(tmp_path / "log")
    effects, repeated = check(lines)
    whole = expected()
    threads = [line.split()[1] for line in lines if line.startswith("begins ")]
    notes = Notes(str(tmp_path / "log"))
    with HybridCheckpointer(tmp_path / "data") as saver:
        for thread in dict.fromkeys(threads):
            run_thread(saver, thread, notes, "sync")
            graph = graph_of(saver, thread)
            assert graph.get_state(config_of(thread)).values == whole
            steps = [one.metadata["step"] for one in graph.get_state_history(config_of(thread))]
            assert steps == list(range(len(steps) - 2, -2, -1)), f"{thread} has a gap or a branch"
    check(lines_of(tmp_path / "log"))
    print(f"{kills} kills, {effects} effects, {repeated} steps in flight begun again, none lost, none else twice")
    assert effects > kills


def test_a_checkpoint_that_is_stored_too_late_is_caught(tmp_path: Path, rng: random.Random) -> None:
    with pytest.raises(AssertionError, match=r"was at step \d+ and went on with"):
        for wanted in islice(lives(rng), 10):
            killed_once(tmp_path, rng, wanted, bug="acknowledges early")
            check(lines_of(tmp_path / "log"))
