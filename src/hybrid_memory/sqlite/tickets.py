"""Jobs for the writer, and how their callers, in threads and in event loops, wait for the outcome."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from hybrid_memory.sqlite.connection import Statements

T = TypeVar("T")


class Ticket(Generic[T]):
    """A job, and its outcome once the writer has one."""

    __slots__ = ("_error", "_result", "job")

    def __init__(self, job: Callable[[Statements], T]) -> None:
        self.job = job
        self._result: T | None = None
        self._error: BaseException | None = None

    def settle(self, result: T | None, error: BaseException | None) -> None:
        """Note the outcome, which is final; `tell` ends the wait for it."""
        self._result = result
        self._error = error

    def outcome(self) -> T:
        """The job's result; its error is raised."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


class ThreadTicket(Ticket[T]):
    """A ticket whose caller waits in a thread."""

    __slots__ = ("_settled",)

    def __init__(self, job: Callable[[Statements], T]) -> None:
        super().__init__(job)
        self._settled = threading.Lock()
        self._settled.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for the outcome; whether it came in time."""
        return self._settled.acquire(timeout=seconds)

    def end_wait(self) -> None:
        """Let the caller go on."""
        self._settled.release()


class LoopTicket(Ticket[T]):
    """A ticket whose caller waits in an event loop, for `settled`."""

    __slots__ = ("loop", "settled")

    def __init__(self, job: Callable[[Statements], T]) -> None:
        super().__init__(job)
        self.loop = asyncio.get_running_loop()
        self.settled: asyncio.Future[None] = self.loop.create_future()


def tell(tickets: Iterable[Ticket[Any]]) -> None:
    """Tell the callers that their outcomes are there: one call per event loop, however many wait in it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for ticket in tickets:
        if isinstance(ticket, LoopTicket):
            by_loop.setdefault(ticket.loop, []).append(ticket.settled)
        elif isinstance(ticket, ThreadTicket):
            ticket.end_wait()
    for loop, futures in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed, nobody waits there any more
            loop.call_soon_threadsafe(_finish, futures)


def _finish(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
