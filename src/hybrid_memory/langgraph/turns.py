"""Work of about a millisecond in an event loop: one piece in a turn, so that others have theirs in between.

A thread would take longer for it than the loop itself: both want the interpreter, and get it in turn.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hybrid_memory.errors import StorageUnavailable

_LONGEST_WAIT_SECONDS = 10.0


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
        """A turn of the running loop in which nobody else has one.

        Raises:
            StorageUnavailable: too many want one.
        """
        here = self._here
        if here.loop is not asyncio.get_running_loop():
            here.loop, here.first = asyncio.get_running_loop(), asyncio.Lock()
        first = here.first
        try:
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                await first.acquire()
        except TimeoutError:
            raise StorageUnavailable("the event loop was too busy to read in time") from None
        try:
            yield
            await asyncio.sleep(0)
        finally:
            first.release()
