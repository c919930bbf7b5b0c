"""Background jobs: they repeat, run when asked, never at the same time as themselves, and end with their owner."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from hybrid_memory.background import Background
from tests.support.recording import Recorded
from tests.support.waiting import Deadline, until

LONG = 3600.0


@pytest.fixture
async def background(events: Recorded) -> AsyncIterator[Background]:
    owner = Background(events)
    yield owner
    await owner.close()


class Work:
    """A job that counts its runs, and stands still or fails when told to."""

    def __init__(self) -> None:
        self.runs = self.at_once = self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing: BaseException | None = None

    async def __call__(self) -> None:
        self.runs += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.gate.wait()
            if self.failing is not None:
                raise self.failing
        finally:
            self.at_once -= 1


async def test_a_job_repeats(background: Background) -> None:
    work = Work()
    background.repeat("job", work, every=0.01, deadline=1)
    await until(lambda: work.runs >= 3, "three runs")


async def test_what_is_asked_for_runs_at_once_and_the_answer_comes_after_it(background: Background) -> None:
    work = Work()
    background.repeat("job", work, every=LONG, deadline=1)
    background.repeat("other", Work(), every=LONG, deadline=1)
    assert background.idle
    with Deadline(1):
        assert await background.ask("job") is True
    assert (work.runs, background.idle) == (1, True)


async def test_without_an_interval_it_runs_only_when_asked(background: Background) -> None:
    work = Work()
    background.repeat("job", work, every=0, deadline=1)
    for runs in (1, 2):
        assert await background.ask("job")
        assert work.runs == runs


async def test_who_asks_during_a_run_gets_the_next_one_and_shares_it(background: Background) -> None:
    work = Work()
    work.gate.clear()
    background.repeat("job", work, every=LONG, deadline=10)
    first = background.ask("job")
    await until(lambda: work.at_once, "the first run")
    later = [background.ask("job") for _ in range(5)]
    assert not background.idle
    work.gate.set()
    assert await first
    assert await asyncio.gather(*later) == [True] * 5
    assert (work.runs, work.most_at_once) == (2, 1)


@pytest.mark.parametrize("error", [ValueError("no luck"), TimeoutError()])
async def test_a_failure_is_reported_and_the_next_run_comes(
    background: Background, events: Recorded, error: Exception
) -> None:
    work = Work()
    work.failing = error
    background.repeat("job", work, every=LONG, deadline=1)
    assert await background.ask("job") is False
    work.failing = None
    assert await background.ask("job") is True
    assert events.named("background_job_failed") == [{"job": "job", "error": str(error) or "TimeoutError"}]


async def test_a_run_has_a_deadline(background: Background, events: Recorded) -> None:
    work = Work()
    work.gate.clear()
    background.repeat("job", work, every=LONG, deadline=0.05)
    assert await background.ask("job") is False
    assert events.named("background_job_failed") == [{"job": "job", "error": "TimeoutError"}]
    work.gate.set()
    assert await background.ask("job") is True


async def test_closing_lets_a_run_finish(events: Recorded) -> None:
    background, work = Background(events), Work()
    work.gate.clear()
    background.repeat("job", work, every=LONG, deadline=10)
    answer = background.ask("job")
    await until(lambda: work.at_once, "the run")
    closing = asyncio.create_task(background.close())
    await asyncio.sleep(0)
    work.gate.set()
    await closing
    assert await answer is True


async def test_closing_does_not_wait_for_a_run_that_hangs_and_answers_everybody(events: Recorded) -> None:
    background, work = Background(events), Work()
    work.gate.clear()
    background.repeat("job", work, every=LONG, deadline=LONG)
    background.repeat("quiet", Work(), every=LONG, deadline=LONG)
    running = background.ask("job")
    await until(lambda: work.at_once, "the run")
    waiting = background.ask("job")
    with Deadline(1):
        await background.close()
    assert (await running, await waiting, await background.ask("quiet")) == (False, False, False)
    assert (work.at_once, background.idle) == (0, True)


async def test_a_name_is_given_once(background: Background) -> None:
    background.repeat("job", Work(), every=LONG, deadline=1)
    with pytest.raises(ValueError, match="job"):
        background.repeat("job", Work(), every=LONG, deadline=1)


async def test_an_asker_that_gives_up_does_not_disturb_the_job(background: Background) -> None:
    work = Work()
    background.repeat("job", work, every=LONG, deadline=1)
    background.ask("job").cancel()
    assert await background.ask("job") is True
