"""How long callers in event loops wait for the writer: one timer per loop, however many wait in it."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from hybrid_memory.sqlite.tickets import LoopTicket


class _Waits:
    """The waits in one loop, each with its end, and the timer for the first of them."""

    __slots__ = ("_loop", "_timer", "until")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.until: dict[LoopTicket[Any], float] = {}

    def add(self, tickets: Sequence[LoopTicket[Any]]) -> None:
        now = self._loop.time()
        for ticket in tickets:
            self.until[ticket] = now + ticket.seconds
        first = now + min(ticket.seconds for ticket in tickets)
        if self._timer is None or first < self._timer.when():
            self._look_at(first)

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
    """Ends waits that last too long. Its calls are made in the thread of the tickets' loop."""

    def __init__(self) -> None:
        self._here = _Here()

    def watch(self, tickets: Sequence[LoopTicket[Any]]) -> None:
        """End the waits for tickets of one loop after their `seconds`, unless they are forgotten before."""
        here, loop = self._here, tickets[0].loop
        if here.loop is not loop:
            here.loop, here.waits = loop, _Waits(loop)
        here.waits.add(tickets)

    def forget(self, ticket: LoopTicket[Any]) -> None:
        """The wait is over. The timer stays: the next wait needs it, or it finds nothing to do."""
        if self._here.loop is ticket.loop:
            self._here.waits.until.pop(ticket, None)
