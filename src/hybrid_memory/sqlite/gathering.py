"""Jobs of one event loop on their way to the writer: those that come together go together.

Callers that were woken together ask for their next write in the same few turns of their loop. Handed over one by one,
the first of them would get a commit of its own, and the others would wait for it.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from hybrid_memory.sqlite.tickets import LoopTicket

_MOST_TURNS = 16

HandOver = Callable[[Sequence[LoopTicket[Any]]], None]


class _Gathered(threading.local):
    """What waits in the loop of this thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.tickets: dict[LoopTicket[Any], None] = {}
        self.quiet = True


class Gathering:
    """Takes jobs until a turn of their loop brings no new one, then hands them over, in that loop's thread."""

    def __init__(self, hand_over: HandOver) -> None:
        self._hand_over = hand_over
        self._here = _Gathered()

    def put(self, ticket: LoopTicket[Any]) -> None:
        """Take a job of the running loop."""
        here = self._here
        if here.loop is not ticket.loop:  # whoever waited in an earlier loop is gone with it
            here.loop, here.tickets = ticket.loop, {}
        if not here.tickets:
            ticket.loop.call_soon(self._look, here.tickets, 0, _MOST_TURNS)
        here.tickets[ticket] = None

    @property
    def quiet(self) -> bool:
        """Whether a job of the running loop would be alone, as the last one was."""
        return self._here.quiet and not self._here.tickets

    async def one_turn(self) -> None:
        """Let the others of the loop have their turn; whoever comes with a job in it is company."""
        self._here.quiet = False
        await asyncio.sleep(0)
        self._here.quiet = not self._here.tickets

    def withdraw(self, ticket: LoopTicket[Any]) -> bool:
        """Take a job out that nobody waits for any more; False when it was handed over. In its loop's thread."""
        if ticket not in self._here.tickets:
            return False
        del self._here.tickets[ticket]
        return True

    def _look(self, tickets: dict[LoopTicket[Any], None], seen: int, turns: int) -> None:
        if turns and len(tickets) > seen:
            asyncio.get_running_loop().call_soon(self._look, tickets, len(tickets), turns - 1)
        elif tickets:
            together = list(tickets)
            tickets.clear()
            self._here.quiet = len(together) == 1
            self._hand_over(together)
