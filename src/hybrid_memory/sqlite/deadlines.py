"""How long callers in event loops wait for the writer: one timer per loop, however many wait in it."""

import asyncio
import threading
from typing import Any

from hybrid_memory.sqlite.tickets import LoopTicket


class _Waits:
    """The waits in one loop, each with its end, and the timer for the first of them."""

    __slots__ = ("_loop", "_timer", "until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.until: dict[LoopTicket[Any], float] = {}

    def add(self, ticket: LoopTicket[Any], seconds: float) -> None:
        until = self.until[ticket] = self._loop.time() + seconds
        if self._timer is None or until < self._timer.when():
            self._look_at(until)

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for ticket in [one for one, until in self.until.items() if until <= now]:
            del self.until[ticket]
            ticket.end_wait()
        if self.until:
            self._look_at(min(self.until.values()))


class _Here(threading.local):
    """The loop that last ran in this thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waits: _Waits


class Deadlines:
    """Ends waits that last too long. Its calls are made in the thread of the ticket's loop."""

    def __init__(self) -> None:
        self._here = _Here()

    def watch(self, ticket: LoopTicket[Any], seconds: float) -> None:
        """End the wait for a ticket then, unless it is forgotten before."""
        here = self._here
        if here.loop is not ticket.loop:
            here.loop, here.waits = ticket.loop, _Waits(ticket.loop)
        here.waits.add(ticket, seconds)

    def forget(self, ticket: LoopTicket[Any]) -> None:
        """The wait is over. The timer stays: the next wait needs it, or it finds nothing to do."""
        self._here.waits.until.pop(ticket, None)
