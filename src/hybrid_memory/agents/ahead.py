"""What one node of a graph leaves for a later one, in the same process."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Work = Callable[[], Coroutine[Any, Any, object]]
Thing = TypeVar("Thing")
# Of runs that ended in between nobody asks for what was left.
_MOST_LEFT = 1000


class Handed(Generic[Thing]):
    """Things left for later, by what they are about. In another process nothing was left."""

    def __init__(self) -> None:
        self._left: OrderedDict[Hashable, tuple[Thing, float]] = OrderedDict()

    def leave(self, about: Hashable, thing: Thing) -> None:
        """Leave it for whoever asks first."""
        self._left[about] = thing, time.monotonic()
        self._left.move_to_end(about)
        if len(self._left) > _MOST_LEFT:
            self._left.popitem(last=False)

    def taken(self, about: Hashable, *, within: float = math.inf) -> Thing | None:
        """What was left, if anything was and no longer ago than so many seconds; it is gone then."""
        thing, left_at = self._left.pop(about, (None, -math.inf))
        return thing if time.monotonic() - left_at <= within else None


class Ahead:
    """Work that one node begins and a later one needs done. In another loop nothing was begun."""

    def __init__(self) -> None:
        self._begun: Handed[asyncio.Task[object]] = Handed()

    def begin(self, about: Hashable, work: Work) -> None:
        """Begin, and let the caller go on."""
        task = asyncio.create_task(work())
        task.add_done_callback(_heard)
        self._begun.leave(about, task)

    async def done(self, about: Hashable, work: Work) -> None:
        """Wait until it is done, or do it where nobody has begun it or that failed before; its error is raised here."""
        task = self._begun.taken(about)
        if task is None or _failed(task) or task.get_loop() is not asyncio.get_running_loop():
            await work()
        else:
            await task


def _failed(task: "asyncio.Task[object]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _heard(task: "asyncio.Task[object]") -> None:
    """Nobody may ask any more, which is no reason to report an error that nobody was told of."""
    if not task.cancelled():
        task.exception()
