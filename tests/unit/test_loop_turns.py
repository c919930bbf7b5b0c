"""Work in an event loop: one piece in a turn, and nobody waits for ever."""

import asyncio

import pytest

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.langgraph import turns as turns_module
from hybrid_memory.langgraph.turns import Turns


async def test_one_has_a_turn_while_others_of_the_loop_go_on() -> None:
    turns, seen = Turns(), []

    async def work(name: str) -> None:
        async with turns.one():
            seen.append(name)

    async def other() -> None:
        for _ in range(3):
            seen.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(work("first"), work("second"), other())
    between = seen[seen.index("first") + 1 : seen.index("second")]
    assert between.count("other") >= 1, seen


async def test_who_waits_too_long_for_a_turn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "_LONGEST_WAIT_SECONDS", 0.05)
    turns, held = Turns(), asyncio.Event()

    async def hold() -> None:
        async with turns.one():
            await held.wait()

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    with pytest.raises(StorageUnavailable, match="too busy"):
        async with turns.one():
            pass
    held.set()
    await holding
    async with turns.one():
        pass
