"""What is removed is gone, what is left is whole: deleting, pruning, retention, DeltaChannels and interrupts."""

import random
import time
from collections.abc import Sequence
from datetime import timedelta
from operator import add
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, PendingWrite
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from hybrid_memory import HybridCheckpointer, Retention
from hybrid_memory.errors import InvalidInput
from hybrid_memory.langgraph import threads
from hybrid_memory.sqlite import files
from hybrid_memory.sqlite.connection import Statements
from tests.support.checkpoints import Thread, config_of, ids, rows
from tests.support.recording import Recorded

NOTHING = {"checkpoint_lines": 0, "checkpoints": 0, "checkpoint_values": 0, "checkpoint_writes": 0}


def history_as_langgraph_tells_it(checkpointer: HybridCheckpointer, config: Any, channels: Sequence[str]) -> Any:
    """The walk over checkpoints that the contract describes."""
    return BaseCheckpointSaver.get_delta_channel_history(checkpointer, config=config, channels=channels)


def grown(checkpointer: HybridCheckpointer, rng: random.Random, thread_id: str) -> Thread:
    """A thread with branches, whose channels have a value now and then, and writes nearly everywhere."""
    thread, heads = Thread(checkpointer, thread_id), list[str]()
    for number in range(60):
        if heads and rng.random() < 0.1:
            thread.newest = rng.choice(heads)
        values: dict[str, Any] = {}
        if rng.random() < 0.2:
            values["a"] = [f"seed {number}"]
        if rng.random() < 0.1:
            values["b"] = number
        thread.values = {}
        told = {"counters_since_delta_snapshot": {name: [1, 1] for name in ("a", "b") if name not in values}}
        thread.put(values, told)
        assert thread.newest
        heads.append(thread.newest)
        for task in range(rng.randrange(3)):
            path = rng.choice(["", "~a", "~b"])
            thread.write([(rng.choice("abc"), f"{number}/{task}/{place}") for place in range(2)], f"task{task}", path)
    return thread


async def test_histories_are_what_the_contract_says(checkpointer: HybridCheckpointer, rng: random.Random) -> None:
    thread = grown(checkpointer, rng, "t")
    for one in thread.all():
        told = checkpointer.get_delta_channel_history(config=one.config, channels=["a", "b"])
        assert told == history_as_langgraph_tells_it(checkpointer, one.config, ["a", "b"])
        assert told == await checkpointer.aget_delta_channel_history(config=one.config, channels=["a", "b"])
    assert checkpointer.get_delta_channel_history(config=config_of("t"), channels=[]) == {}
    assert checkpointer.get_delta_channel_history(config=config_of("nobody"), channels=["a"]) == {"a": {"writes": []}}


def test_a_long_history_is_read_in_pages(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    for number in range(450):
        thread.put({})
        thread.write([("a", number)])
    told = checkpointer.get_delta_channel_history(config=config_of("t"), channels=["a"])
    assert told == {"a": {"writes": [("task", "a", number) for number in range(449)]}}


def test_pruning_leaves_what_a_delta_channel_is_rebuilt_from(
    checkpointer: HybridCheckpointer, rng: random.Random
) -> None:
    thread = grown(checkpointer, rng, "t")
    thread.values = {}  # LangGraph asks for the history of channels that have no value at hand
    thread.put({}, {"counters_since_delta_snapshot": {"a": [1, 1], "b": [1, 1]}})
    newest = thread.all()[0]
    before = checkpointer.get_delta_channel_history(config=newest.config, channels=["a", "b"])
    for _ in range(2):  # what was retired is retired again
        checkpointer.prune(["t"])
        assert ids(thread.all()) == [newest.checkpoint["id"]]
        assert thread.all()[0].parent_config is None
        assert checkpointer.get_delta_channel_history(config=newest.config, channels=["a", "b"]) == before
        assert checkpointer.get_tuple(config_of("t", newest.parent_config["configurable"]["checkpoint_id"])) is None  # type: ignore[index]
    chain = {write[2].split("/")[0] for history in before.values() for write in history["writes"]}
    assert rows(checkpointer)["checkpoints"] >= len(chain)
    # A snapshot of all of them makes the ancestors superfluous.
    thread.newest = newest.checkpoint["id"]
    thread.put({"a": ["all"], "b": 1})
    checkpointer.prune(["t"])
    assert rows(checkpointer) == {
        "checkpoint_lines": 1, "checkpoints": 1, "checkpoint_values": 1, "checkpoint_writes": 0,
    }  # fmt: skip


def test_deleting_a_run_leaves_what_later_ones_are_rebuilt_from(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    for number, run in enumerate(["r1", "r1", "r2", "r2"]):
        told = {"run_id": run, "counters_since_delta_snapshot": {"a": [1, 1]}}
        thread.put({} if number else {"a": ["seed"]}, told)
        thread.values = {}
        thread.write([("a", number), ("other", number)])
    before = checkpointer.get_delta_channel_history(config=config_of("t"), channels=["a"])
    assert before == {"a": {"writes": [("task", "a", number) for number in range(3)], "seed": ["seed"]}}
    checkpointer.delete_for_runs(["r1", "unknown"])
    assert [one.metadata["run_id"] for one in thread.all()] == ["r2", "r2"]
    assert checkpointer.get_delta_channel_history(config=config_of("t"), channels=["a"]) == before
    checkpointer.delete_for_runs(["r2"])
    assert thread.all() == []
    assert rows(checkpointer) == NOTHING


def test_a_thread_whose_only_run_is_deleted_leaves_no_row(checkpointer: HybridCheckpointer) -> None:
    Thread(checkpointer, "t").put({"document": "d" * 1000}, {"run_id": "only"})
    Thread(checkpointer, "other").put({"document": "d" * 1000})
    checkpointer.delete_for_runs(["only"])
    assert rows(checkpointer) == dict.fromkeys(NOTHING, 1) | {"checkpoint_writes": 0}
    checkpointer.copy_thread("other", "t")
    assert ids(checkpointer.list(config_of("t"))) == ids(checkpointer.list(config_of("other")))
    Thread(checkpointer, "t").put({"document": "d" * 1000})


def test_a_deleted_thread_leaves_no_row_and_space_is_given_back(checkpointer: HybridCheckpointer) -> None:
    path = checkpointer._state.database().path
    for number in range(20):
        thread = Thread(checkpointer, f"t{number}", "" if number % 2 else "child")
        for step in range(5):
            thread.put({"document": f"{number} {step}" + "d" * 50_000, "messages": [{"text": "m" * 100}] * step})
            thread.write([("document", "d" * 20_000)])
    checkpointer.set_retention("t1", Retention(keep_last=1))
    checkpointer.close()
    before = files.size(path)
    checkpointer.prune([f"t{number}" for number in range(10)], strategy="delete")
    for number in range(10, 20):
        checkpointer.delete_thread(f"t{number}")
    assert rows(checkpointer) == NOTHING
    assert checkpointer.threads() == []
    checkpointer.close()
    assert files.size(path) < before / 10


def test_pruning_collects_values_that_nobody_has(checkpointer: HybridCheckpointer) -> None:
    thread, messages = Thread(checkpointer), list[str]()
    for number in range(50):
        messages.append(f"message {number}")
        thread.put({"document": f"{number}" + "d" * 1000, "messages": list(messages)})
    thread.put({"messages": messages[-3:]})
    checkpointer.prune(["t"])
    assert rows(checkpointer)["checkpoints"] == 1
    assert rows(checkpointer)["checkpoint_values"] <= 5
    assert thread.state() == {"document": "49" + "d" * 1000, "messages": messages[-3:]}


def put_of(checkpointer: HybridCheckpointer, number: int, parent: int | None, new: list[str], **values: Any) -> Any:
    """The checkpoint of a number; each value has the version that it is given with."""
    checkpoint: Any = {
        "v": 4,
        "id": f"{number:032d}",
        "ts": "",
        "channel_values": {name: value for name, (value, _) in values.items()},
        "channel_versions": {name: version for name, (_, version) in values.items()},
        "versions_seen": {},
        "updated_channels": None,
    }
    begun: Any = {"thread_id": "t", "checkpoint_ns": ""} | ({"checkpoint_id": f"{parent:032d}"} if parent else {})
    versions = {name: checkpoint["channel_versions"][name] for name in new}
    return checkpointer.put({"configurable": begun}, checkpoint, {"source": "loop", "step": number}, versions)


def test_a_list_that_others_are_put_together_from_is_brought_again_when_it_is_named_again(
    checkpointer: HybridCheckpointer,
) -> None:
    """Another run began with the checkpoint that named it, and goes on after that was pruned."""
    first, second = "a" * 1500, "b" * 1500
    put_of(checkpointer, 1, None, ["m"], m=([first], "1"))
    put_of(checkpointer, 2, 1, ["m"], m=([first, second], "2"))
    put_of(checkpointer, 3, 2, ["m"], m=([second], "3"))
    checkpointer.prune(["t"])
    put_of(checkpointer, 4, 2, ["n"], m=([first, second], "2"), n=(1, "4"))
    newest = checkpointer.get_tuple(config_of("t"))
    assert newest is not None
    assert newest.checkpoint["channel_values"] == {"m": [first, second], "n": 1}
    checkpointer.prune(["t"])
    assert len(list(checkpointer.list(config_of("t")))) == 1


def test_of_a_file_that_was_exchanged_nothing_is_remembered(checkpointer: HybridCheckpointer, tmp_path: Path) -> None:
    """Such as for an older copy, while a run goes on that need not bring what it brought before."""
    large = "x" * 5000
    put_of(checkpointer, 1, None, ["n"], n=(1, "1"))
    checkpointer.close()
    [state] = tmp_path.rglob("state.db")
    copy = state.read_bytes()
    put_of(checkpointer, 2, 1, ["large"], n=(1, "1"), large=(large, "2"))
    checkpointer.close()
    state.write_bytes(copy)
    put_of(checkpointer, 3, 2, ["n"], n=(3, "3"), large=(large, "2"))
    newest = checkpointer.get_tuple(config_of("t"))
    assert newest is not None
    assert newest.checkpoint["channel_values"] == {"n": 3, "large": large}


def test_an_unknown_strategy_is_refused(checkpointer: HybridCheckpointer) -> None:
    with pytest.raises(InvalidInput, match="strategy"):
        checkpointer.prune(["t"], strategy="keep_nothing")
    for bad in (Retention(keep_last=0), Retention(max_age=-1), Retention(max_idle=float("nan"))):
        with pytest.raises(InvalidInput):
            checkpointer.sweep(bad)


# Graphs


def added(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(note for write in writes for note in write)]


class Question(TypedDict):
    answer: str


class State(Question):
    log: Annotated[list[str], add]
    notes: Annotated[list[str], DeltaChannel(added, list)]


def asking() -> Any:
    """A graph that notes, calls a subgraph that asks, and notes the answer."""

    def ask(state: Question) -> dict[str, str]:
        return {"answer": interrupt(f"well, after {state['answer']}?")}

    def note(_: State) -> dict[str, list[str]]:
        return {"notes": ["asked"]}

    def conclude(state: State) -> dict[str, list[str]]:
        return {"log": [state["answer"]], "notes": [state["answer"]]}

    inner: Any = StateGraph(Question)
    inner.add_node("ask", ask)
    inner.add_edge(START, "ask")
    builder: Any = StateGraph(State)
    builder.add_node("note", note)
    builder.add_node("inner", inner.compile())
    builder.add_node("conclude", conclude)
    builder.add_edge(START, "note")
    builder.add_edge("note", "inner")
    builder.add_edge("inner", "conclude")
    builder.add_edge("conclude", END)
    return builder


def kept(checkpointer: HybridCheckpointer, thread_id: str) -> dict[str, int]:
    """How many checkpoints each namespace has."""
    counted: dict[str, int] = {}
    for one in checkpointer.list({"configurable": {"thread_id": thread_id}}):
        namespace = one.config["configurable"]["checkpoint_ns"].split(":")[0]
        counted[namespace] = counted.get(namespace, 0) + 1
    return counted


@pytest.mark.parametrize("how", ["prune", "keep_last", "max_age"])
def test_a_pending_interrupt_and_a_delta_channel_survive(checkpointer: HybridCheckpointer, how: str) -> None:
    graph = asking().compile(checkpointer=checkpointer)
    config = {"configurable": {"thread_id": "t"}}

    def reduce() -> None:
        if how == "prune":
            checkpointer.prune(["t"])
        else:
            checkpointer.sweep(Retention(keep_last=1) if how == "keep_last" else Retention(max_age=timedelta(0)))

    for turn in range(4):
        graph.invoke({"log": [f"turn {turn}"], "notes": [f"turn {turn}"], "answer": "nothing"}, config)
        before = graph.get_state(config)
        assert before.interrupts
        reduce()
        after = graph.get_state(config)
        assert (after.values, after.next, after.interrupts) == (before.values, before.next, before.interrupts)
        counted = kept(checkpointer, "t")
        assert counted[""] == 1
        assert counted["inner"] == (turn + 1 if how == "prune" else 1)
        graph.invoke(Command(resume=f"answer {turn}"), config)
        assert graph.get_state(config).next == ()
    values = graph.get_state(config).values
    assert values["log"] == [one for turn in range(4) for one in (f"turn {turn}", f"answer {turn}")]
    assert values["notes"] == [one for turn in range(4) for one in (f"turn {turn}", "asked", f"answer {turn}")]


class Notes(TypedDict):
    notes: Annotated[list[str], DeltaChannel(added, list)]


def days_later(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Sweeps take it to be so many days later, and an hour for each."""
    later = time.time_ns() + days * 25 * 3600 * 10**9
    monkeypatch.setattr(threads, "time", SimpleNamespace(time_ns=lambda: later))


def test_what_a_run_began_with_may_be_swept_before_it_puts_the_next(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []

    def note(_: Notes) -> dict[str, list[str]]:
        if early is not None:
            graph.update_state(newest.config, {"notes": ["by somebody else"]}, as_node="note")
            swept.append(checkpointer.sweep(Retention(keep_last=1)).checkpoints)
        return {"notes": ["noted"]}

    builder: Any = StateGraph(Notes)
    builder.add_node("note", note)
    builder.add_edge(START, "note")
    builder.add_edge("note", END)
    graph = builder.compile(checkpointer=checkpointer)
    config: Any = {"configurable": {"thread_id": "t"}}
    early = None
    for turn in range(3):
        graph.invoke({"notes": [f"turn {turn}"]}, config)
    said, newest = ["turn 0", "noted", "turn 1"], graph.get_state(config)
    early = next(one for one in graph.get_state_history(config) if one.values["notes"] == said)
    assert graph.invoke(None, early.config, durability="sync")["notes"] == [*said, "noted"]
    assert swept == [10]
    assert graph.get_state(config).values["notes"] == [*said, "noted"]
    for day in (1, 2):
        days_later(monkeypatch, day)
        checkpointer.sweep(Retention(keep_last=1))
    assert rows(checkpointer)["checkpoints"] == 2  # the newest, and the one it is rebuilt from
    assert kept(checkpointer, "t") == {"": 1}
    assert graph.get_state(config).values["notes"] == [*said, "noted"]


def test_calls_that_are_over_are_given_back_after_a_day_though_nothing_happens_any_more(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Thread(checkpointer)
    called_in = root.put({"count": 0})["configurable"]["checkpoint_id"]
    call = Thread(checkpointer, namespace="inner:task")
    for number in range(3):
        told = {"parents": {"": called_in}, "counters_since_delta_snapshot": {"notes": [1, 1]}}
        call.put({"count": number}, told)
        call.write([("notes", [f"note {number}"])])
    for number in range(1, 4):
        root.put({"count": number})
    checkpointer.sweep(Retention(keep_last=3))
    assert (len(root.all()), call.all()) == (3, [])
    days_later(monkeypatch, 1)
    checkpointer.sweep(Retention(keep_last=3))
    assert rows(checkpointer) == {
        "checkpoint_lines": 1,
        "checkpoints": 3,
        "checkpoint_values": 0,
        "checkpoint_writes": 0,
    }


@pytest.mark.parametrize(("noted_in", "kept_rows"), [(None, 1), (9, 3), (11, 1)])
def test_of_a_delta_channel_only_what_it_was_written_since_is_kept(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch, noted_in: int | None, kept_rows: int
) -> None:
    thread = Thread(checkpointer)
    for number in range(12):
        thread.put({"count": number}, {"counters_since_delta_snapshot": {"notes": [0, number + 1]}})
        thread.write([("notes" if number == noted_in else "count", [number])])
    before = checkpointer.get_delta_channel_history(config=config_of("t"), channels=["notes"])
    assert [write[2] for write in before["notes"]["writes"]] == ([[noted_in]] if noted_in == 9 else [])
    for day in range(2):
        days_later(monkeypatch, day)
        checkpointer.sweep(Retention(keep_last=1))
    assert rows(checkpointer)["checkpoints"] == kept_rows
    assert checkpointer.get_delta_channel_history(config=config_of("t"), channels=["notes"]) == before
    assert thread.state() == {"count": 11}


def test_what_was_swept_is_not_written_again_by_every_sweep(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changes(sql: Statements) -> int:
        return sql.connection.total_changes()

    thread = Thread(checkpointer)
    for number in range(12):
        thread.put({"count": number}, {"counters_since_delta_snapshot": {"notes": [1, number + 1]}})
        thread.write([("notes", [number])])
    for day in range(2):
        days_later(monkeypatch, day)
        checkpointer.sweep(Retention(keep_last=1))
    assert rows(checkpointer)["checkpoints"] == 12
    before = checkpointer._state.database().write_blocking(changes)
    checkpointer.sweep(Retention(keep_last=1))
    assert checkpointer._state.database().write_blocking(changes) == before


def test_retention_of_all_and_of_one(checkpointer: HybridCheckpointer, events: Recorded) -> None:
    for name in ("a", "b", "c"):
        thread = Thread(checkpointer, name)
        for number in range(10):
            thread.put({"document": f"{number}" + "d" * 1000})
    checkpointer.set_retention("b", Retention(keep_last=7))
    checkpointer.set_retention("c", Retention())
    assert checkpointer.sweep().checkpoints == 3
    assert checkpointer.sweep(Retention(keep_last=2)).checkpoints == 8
    assert [len(list(checkpointer.list(config_of(name)))) for name in "abc"] == [2, 7, 10]
    assert rows(checkpointer)["checkpoint_values"] == 19
    checkpointer.set_retention("b", None)
    assert checkpointer.sweep(Retention(keep_last=2)).checkpoints == 5
    assert checkpointer.sweep(Retention(keep_last=2)).checkpoints == 0
    assert [one["checkpoints"] for one in events.named("checkpoints_swept")] == [3, 8, 5]


async def test_idle_threads_go_unless_they_wait_for_an_answer(checkpointer: HybridCheckpointer) -> None:
    Thread(checkpointer, "idle").put({"document": "d" * 1000})
    graph = asking().compile(checkpointer=checkpointer)
    await graph.ainvoke({"log": [], "notes": [], "answer": "nothing"}, {"configurable": {"thread_id": "asks"}})
    assert (await checkpointer.asweep(Retention(max_idle=3600))).threads == 0
    await checkpointer.aset_retention("asks", Retention(max_idle=0))
    assert (await checkpointer.asweep(Retention(max_idle=timedelta(0)))).threads == 1
    assert [one.thread_id for one in await checkpointer.athreads()] == ["asks"]


def test_a_call_that_was_never_answered_keeps_no_thread_that_went_on(checkpointer: HybridCheckpointer) -> None:
    """Who is asked something and says something else has not answered, and nobody will."""
    graph = asking().compile(checkpointer=checkpointer)
    config: Any = {"configurable": {"thread_id": "t"}}
    for turn in range(3):
        graph.invoke({"log": [f"turn {turn}"], "notes": [], "answer": "nothing"}, config)
    graph.update_state(config, {"log": ["never mind"]}, as_node="conclude")
    assert (graph.get_state(config).next, graph.get_state(config).interrupts) == ((), ())
    checkpointer.sweep(Retention(keep_last=1))
    assert kept(checkpointer, "t") == {"": 1}
    assert checkpointer.sweep(Retention(max_idle=timedelta(0))).threads == 1
    assert rows(checkpointer) == NOTHING


def test_old_checkpoints_go_and_the_newest_stays(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    for number in range(3):
        thread.put({"count": number})
    time.sleep(1.1)
    thread.put({"count": 3})
    thread.put({"count": 4})
    assert checkpointer.sweep(Retention(max_age=1)).checkpoints == 3
    assert thread.state() == {"count": 4}


def test_threads_are_shown_with_activity_step_and_size(checkpointer: HybridCheckpointer) -> None:
    small, large = Thread(checkpointer, "small"), Thread(checkpointer, "large")
    for _ in range(3):
        large.put({"document": "d" * 10_000})
    Thread(checkpointer, "large", "child:1").put({"a": 1}, {"step": 99})
    small.put({"a": 1})
    first, second = checkpointer.threads()
    assert (first.thread_id, first.step, first.checkpoints) == ("small", 0, 1)
    assert (second.thread_id, second.step, second.checkpoints) == ("large", 2, 4)
    assert 30_000 < second.bytes < 40_000
    assert first.bytes < 2000
    assert first.last_activity >= second.last_activity


def test_pending_writes_have_the_type_langgraph_gives_them(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"a": 1})
    thread.write([("a", 1)])
    expected: list[PendingWrite] = [("task", "a", 1)]
    assert thread.all()[0].pending_writes == expected
