"""Work that one node of a graph begins and a later one needs done."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

Work = Callable[[], Coroutine[Any, Any, object]]
# Of runs that ended in between nobody asks for what was begun.
_MOST_KEPT = 1000


class Ahead:
    """What was begun in this process, by what it is about. In another process, or another loop, nothing was."""

    def __init__(self) -> None:
        self._begun: OrderedDict[Hashable, asyncio.Task[object]] = OrderedDict()

    def begin(self, about: Hashable, work: Work) -> None:
        """Begin, and let the caller go on."""
        task = self._begun[about] = asyncio.create_task(work())
        task.add_done_callback(_heard)
        if len(self._begun) > _MOST_KEPT:
            self._begun.popitem(last=False)

    async def done(self, about: Hashable, work: Work) -> None:
        """Wait until it is done, or do it where nobody has begun it or that failed before; its error is raised here."""
        task = self._begun.pop(about, None)
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
