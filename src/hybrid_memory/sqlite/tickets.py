"""Jobs for the writer, and how their callers, in threads and in event loops, wait for the outcome."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from hybrid_memory.sqlite.connection import Statements

T = TypeVar("T")

_WOKEN_AT_ONCE = 16


class Ticket(Generic[T]):
    """A job, and its outcome once the writer has one.

    One that need not be `durable` survives the end of the process, not a loss of power.
    """

    __slots__ = ("_error", "_result", "durable", "job")

    def __init__(self, job: Callable[[Statements], T], *, durable: bool = True) -> None:
        self.job = job
        self.durable = durable
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

    def __init__(self, job: Callable[[Statements], T], *, durable: bool = True) -> None:
        super().__init__(job, durable=durable)
        self._settled = threading.Lock()
        self._settled.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for the outcome; whether it came in time."""
        return self._settled.acquire(timeout=seconds)

    def end_wait(self) -> None:
        """Let the caller go on."""
        self._settled.release()


class LoopTicket(Ticket[T]):
    """A ticket whose caller waits in an event loop, for `settled`, so many seconds after it was handed over.

    A `light` one takes no time that would be felt.
    """

    __slots__ = ("light", "loop", "seconds", "settled")

    def __init__(
        self, job: Callable[[Statements], T], seconds: float, *, durable: bool = True, light: bool = False
    ) -> None:
        super().__init__(job, durable=durable)
        self.seconds = seconds
        self.light = light
        self.loop = asyncio.get_running_loop()
        self.settled: asyncio.Future[bool] = self.loop.create_future()

    def end_wait(self, *, in_time: bool = False) -> None:
        """In the loop's thread: let the caller go on. `settled` says whether with an outcome."""
        if not self.settled.done():
            self.settled.set_result(in_time)


def tell(tickets: Iterable[Ticket[Any]]) -> None:
    """Tell the callers that their outcomes are there: one call per event loop, however many wait in it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[bool]]] = {}
    for ticket in tickets:
        if isinstance(ticket, LoopTicket):
            by_loop.setdefault(ticket.loop, []).append(ticket.settled)
        elif isinstance(ticket, ThreadTicket):
            ticket.end_wait()
    for loop, futures in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed, nobody waits there any more
            loop.call_soon_threadsafe(_finish, loop, futures)


def _finish(loop: asyncio.AbstractEventLoop, futures: Sequence[asyncio.Future[bool]]) -> None:
    """A few at a time: what they wake does its work at once, and others in the loop want a turn in between."""
    for future in futures[:_WOKEN_AT_ONCE]:
        if not future.done():
            future.set_result(True)
    if len(futures) > _WOKEN_AT_ONCE:
        loop.call_soon(_finish, loop, futures[_WOKEN_AT_ONCE:])
