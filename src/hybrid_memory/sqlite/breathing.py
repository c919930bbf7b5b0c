"""Long work in a thread, with pauses in which the event loop gets the interpreter.

Python takes the interpreter away from a busy thread only every 5 ms, and an event loop that waits that long for each of
its turns is held up by work that is not even its own.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_SECONDS_BETWEEN_PAUSES = 0.002
# Long enough for another thread to wake up and take over.
_PAUSE_SECONDS = 0.00005


def breathing(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a short pause now and then, except in the main thread, where the pause would help nobody."""
    if threading.current_thread() is threading.main_thread():
        yield from items
        return
    paused = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - paused > _SECONDS_BETWEEN_PAUSES:
            time.sleep(_PAUSE_SECONDS)
            paused = time.perf_counter()
