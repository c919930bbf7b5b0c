"""A human answers a question that another process asked: one that was killed meanwhile."""

import asyncio
import operator
import threading
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START
from langgraph.types import Send

from hybrid_memory.observability import Events
from tests.conformance.graphs.desk import Desk, graph_of, on_every_saver
from tests.conformance.graphs.savers import OTHERS, Calls, Saver, opened_saver
from tests.support.children import Child
from tests.support.paused_graphs import Order, begin, finish


async def ask(events: Events, saver: str, calls: Calls, directory: str) -> None:
    async with opened_saver(saver, calls, Path(directory), [Order]) as opened:
        await asyncio.to_thread(begin, opened)
        events.info("asked")


async def answer(_: Events, saver: str, calls: Calls, directory: str) -> str:
    async with opened_saver(saver, calls, Path(directory), [Order]) as opened:
        return repr(await asyncio.to_thread(finish, opened))


def in_memory() -> dict[str, Any]:
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=[(Order.__module__, "Order")]))
    begin(saver)
    return finish(saver)


class Recording(InMemorySaver):
    """Remembers what was stored, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[tuple[str, tuple[Any, ...]]] = []
        self._order = threading.Lock()

    def put(self, config: Any, *more: Any) -> Any:
        with self._order:
            self.stored.append(("put", (config, *more)))
            return super().put(config, *more)

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        with self._order:
            self.stored.append(("put_writes", (config, writes, task_id, task_path)))
            super().put_writes(config, writes, task_id, task_path)


@cache
def recorded() -> tuple[list[tuple[str, tuple[Any, ...]]], Any]:
    """What one run stored, and its end. Tasks that run at once store in any order, so all savers are given this one."""
    recording = Recording()
    whole = fanning_out(recording).invoke({"words": [], "left": 2}, config_of("t"))
    return recording.stored, whole


@on_every_saver()
async def test_a_run_goes_on_from_whatever_was_stored(desk: Desk) -> None:
    """A process may end after any of its calls; the next one ends the run all the same."""
    stored, whole = await asyncio.to_thread(recorded)
    assert len(stored) > 12
    for end in range(1, len(stored) + 1):
        thread = f"until {end}"
        for call, (config, *more) in stored[:end]:
            here = {"configurable": {**config["configurable"], "thread_id": thread}}
            await asyncio.to_thread(getattr(desk.saver, call), here, *more)
        assert await desk.invoke(fanning_out(desk.saver), None, thread) == whole


def config_of(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def fanning_out(saver: Saver) -> Any:
    """One node, then three tasks at once, as often as is left."""

    def way(state: Words) -> Any:
        return [Send("part", f"{state['left']}{part}") for part in "abc"] if state["left"] else END

    builder = graph_of(Words).add_node("part", lambda name: {"words": [name]})
    builder.add_node("next", lambda state: {"words": ["next"], "left": state["left"] - 1})
    builder.add_conditional_edges(START, way, ["part", END]).add_edge("part", "next")
    return builder.add_conditional_edges("next", way, ["part", END]).compile(checkpointer=saver)


class Words(TypedDict):
    words: Annotated[list[str], operator.add]
    left: int


@pytest.mark.parametrize(("saver", "calls"), [("sqlite", "sync"), *OTHERS])
def test_the_answer_comes_in_another_process(saver: str, calls: Calls, tmp_path: Path) -> None:
    arguments = {"saver": saver, "calls": calls, "directory": str(tmp_path)}
    with Child(ask, arguments, stop_at="asked") as asking:
        asking.reached()
        asking.kill()
    with Child(answer, arguments) as answering:
        assert answering.result() == repr(in_memory())
