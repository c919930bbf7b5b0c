"""The one owner of a manager's background work: named jobs that repeat, never disturb it, and end when it closes.

A job runs in a task of its own, one run at a time, every so often or as soon as somebody asks. What it raises is
reported and the job goes on. `ask` is also how a test sees a job done without waiting for its time.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from hybrid_memory.observability import Events

Work = Callable[[], Awaitable[object]]
_CLOSE_SECONDS = 1.0
_LONGEST_FIRST_WAIT = 60.0


@dataclass(slots=True)
class _Job:
    """One job, and who waits for its next run."""

    name: str
    work: Work
    every: float
    deadline: float
    waiting: "list[asyncio.Future[bool]]" = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    running: bool = False


class Background:
    """Jobs on the event loop that registers them."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._jobs: dict[str, _Job] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    def repeat(self, name: str, work: Work, *, every: float, deadline: float) -> None:
        """Run `work` about every so many seconds from now on, and whenever it is asked for.

        Waits vary a little, so that processes started together do not work together. The first one is shorter, so that
        processes which do not live long take their share. `every=0` leaves the job to those who ask.
        """
        if name in self._jobs:
            raise ValueError(f"there is a job {name!r} already")
        job = self._jobs[name] = _Job(name, work, every, deadline)
        self._tasks.append(asyncio.create_task(self._keep_running(job), name=f"hybrid-memory {name}"))

    def ask(self, name: str) -> "asyncio.Future[bool]":
        """Have a job run as soon as it can; awaiting the answer tells whether that run did its work.

        A run that is under way does not count: what the caller did before asking is seen by the run it gets. Askers
        that come together share one.
        """
        job = self._jobs[name]
        answer = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_result(False)
            return answer
        job.waiting.append(answer)
        job.asked.set()
        return answer

    @property
    def idle(self) -> bool:
        """Whether no job runs or is asked for."""
        return not any(job.running or job.waiting for job in self._jobs.values())

    async def close(self) -> None:
        """Let what runs finish within a moment, and end every job."""
        self._closed = True
        for job in self._jobs.values():
            # Wakes the job, which sees that it is the end.
            job.asked.set()
        _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS) if self._tasks else ((), ())
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._jobs.values():
            _answer(job.waiting, done=False)

    async def _keep_running(self, job: _Job) -> None:
        wait = min(job.every, _LONGEST_FIRST_WAIT) * random.uniform(0.5, 1)  # noqa: S311 - spreads load, hides nothing
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait or None):
                    await job.asked.wait()
            if self._closed:
                return
            job.asked.clear()
            waiting, job.waiting = job.waiting, []
            try:
                done = await self._run(job)
            except asyncio.CancelledError:
                _answer(waiting, done=False)
                raise
            _answer(waiting, done=done)
            wait = job.every * random.uniform(1, 1.2)  # noqa: S311

    async def _run(self, job: _Job) -> bool:
        job.running = True
        try:
            async with asyncio.timeout(job.deadline):
                await job.work()
            return True
        except Exception as error:  # noqa: BLE001 - whatever it was, the next run may fare better
            self._events.warning("background_job_failed", job=job.name, error=str(error) or type(error).__name__)
            return False
        finally:
            job.running = False


def _answer(waiting: "list[asyncio.Future[bool]]", *, done: bool) -> None:
    for answer in waiting:
        if not answer.done():
            answer.set_result(done)
    waiting.clear()
