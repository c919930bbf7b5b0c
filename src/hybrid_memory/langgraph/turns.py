"""Work of about a millisecond in an event loop: one piece in a turn, so that others have theirs in between.

A thread would take longer for it than the loop itself: both want the interpreter, and get it in turn.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Line(threading.local):
    """Who stands in line in the loop of this thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.first = asyncio.Lock()


class Turns:
    """Whoever wants a turn, in any event loop, for itself."""

    def __init__(self) -> None:
        self._here = _Line()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A turn of the running loop in which nobody else has one."""
        here = self._here
        if here.loop is not asyncio.get_running_loop():
            here.loop, here.first = asyncio.get_running_loop(), asyncio.Lock()
        async with here.first:
            yield
            await asyncio.sleep(0)
