"""What is begun ahead is done once, by whoever needs it done."""

import asyncio
import gc
from collections.abc import Iterator

import pytest

from hybrid_memory.agents.ahead import Ahead, Handed


class Counted:
    """Work that counts how often it was begun and finished, and may fail or never end."""

    def __init__(self, *, fails: bool = False, ends: bool = True) -> None:
        self.begun = self.finished = 0
        self._fails = fails
        self._ends = ends

    async def __call__(self) -> None:
        self.begun += 1
        await (asyncio.sleep(0) if self._ends else asyncio.Event().wait())
        if self._fails:
            raise ConnectionError("away")
        self.finished += 1


async def test_what_is_begun_goes_on_by_itself_and_is_not_done_again() -> None:
    ahead, work = Ahead(), Counted()
    ahead.begin("step 1", work)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (work.begun, work.finished) == (1, 1)
    await ahead.done("step 1", work)
    assert work.begun == 1
    await ahead.done("step 1", work)
    assert work.finished == 2, "it was asked for once more"


async def test_what_failed_before_anybody_needed_it_is_done_anew() -> None:
    ahead, failing, working = Ahead(), Counted(fails=True), Counted()
    ahead.begin("step 1", failing)
    for _ in range(3):
        await asyncio.sleep(0)
    await ahead.done("step 1", working)
    assert (failing.begun, working.finished) == (1, 1)


async def test_whoever_needs_it_done_waits_for_it_or_does_it() -> None:
    ahead, begun, other = Ahead(), Counted(), Counted()
    ahead.begin("step 1", begun)
    await ahead.done("step 1", begun)
    await ahead.done("step 2", other)
    assert begun.finished == other.finished == 1


async def test_an_error_is_told_to_whoever_needs_it_done_and_to_nobody_else() -> None:
    ahead, work = Ahead(), Counted(fails=True)
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    ahead.begin("asked for", work)
    with pytest.raises(ConnectionError):
        await ahead.done("asked for", work)
    ahead.begin("forgotten", work)
    for _ in range(3):
        await asyncio.sleep(0)
    del ahead
    gc.collect()
    assert work.begun == 2
    assert not reported


@pytest.fixture
def two_loops() -> Iterator[tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]]:
    loops = asyncio.new_event_loop(), asyncio.new_event_loop()
    yield loops
    for loop in loops:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_what_another_loop_has_begun_is_done_in_this_one(
    two_loops: tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop],
) -> None:
    ahead, endless, work = Ahead(), Counted(ends=False), Counted()
    first, second = two_loops

    async def begin() -> "set[asyncio.Task[None]]":
        ahead.begin("step 1", endless)
        ahead.begin("step 2", endless)
        return asyncio.all_tasks() - {asyncio.current_task()}

    tasks = first.run_until_complete(begin())
    second.run_until_complete(ahead.done("step 1", work))
    for task in tasks:
        task.cancel()
    first.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    first.run_until_complete(ahead.done("step 2", work))
    assert work.finished == 2


async def test_what_nobody_asks_for_is_forgotten() -> None:
    ahead, work = Ahead(), Counted()
    for number in range(1001):
        ahead.begin(number, work)
    await ahead.done(0, work)
    assert work.begun == 1001 + 1
    await ahead.done(1000, work)
    assert work.begun == 1001 + 1


def test_what_is_left_is_given_once_and_to_whoever_asks_about_it() -> None:
    handed: Handed[str] = Handed()
    handed.leave("step 1", "")
    assert handed.taken("step 2") is None
    assert handed.taken("step 1") == ""
    assert handed.taken("step 1") is None


def test_what_was_left_too_long_ago_is_not_given() -> None:
    handed: Handed[str] = Handed()
    handed.leave("step 1", "known")
    assert handed.taken("step 1", within=-1) is None
    assert handed.taken("step 1") is None, "it is gone all the same"
