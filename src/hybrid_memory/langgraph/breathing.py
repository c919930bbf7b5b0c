"""Long work in a thread, with pauses in which the event loop gets the interpreter.

Python takes the interpreter away from a busy thread only every 5 ms, and an event loop that waits that long for each of
its turns is held up by work that is not even its own.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_ITEMS_BETWEEN_PAUSES = 64
# Long enough for another thread to wake up and take over.
_PAUSE_SECONDS = 0.00005


def breathing(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a short pause now and then, except in the main thread, where the pause would help nobody."""
    pauses = threading.current_thread() is not threading.main_thread()
    for number, item in enumerate(items, 1):
        yield item
        if pauses and number % _ITEMS_BETWEEN_PAUSES == 0:
            time.sleep(_PAUSE_SECONDS)
