"""A human answers a question that another process asked: one that was killed meanwhile."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from hybrid_memory.observability import Events
from tests.conformance.graphs.savers import OTHERS, Calls, opened_saver
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


@pytest.mark.parametrize("calls", ["sync", "async"])
@pytest.mark.parametrize("saver", OTHERS)
def test_the_answer_comes_in_another_process(saver: str, calls: Calls, tmp_path: Path) -> None:
    arguments = {"saver": saver, "calls": calls, "directory": str(tmp_path)}
    with Child(ask, arguments, stop_at="asked") as asking:
        asking.reached()
        asking.kill()
    with Child(answer, arguments) as answering:
        assert answering.result() == repr(in_memory())
