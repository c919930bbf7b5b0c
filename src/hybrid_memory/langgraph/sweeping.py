"""Keeping only what is wanted of the checkpoints, again and again while a manager runs."""

import asyncio
import random
from contextlib import suppress

from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.langgraph.threads import ThreadCalls
from hybrid_memory.observability import Events

_LONGEST_FIRST_WAIT = 60.0


class Sweeping:
    """A task that sweeps a checkpointer every so many seconds, on the event loop that begins it."""

    def __init__(self, checkpointer: ThreadCalls, every: float, events: Events) -> None:
        self._checkpointer = checkpointer
        self._every = every
        self._events = events
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Sweep from now on; the first time soon. Beginning twice changes nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._sweep_again_and_again(), name="hybrid-memory sweep")

    async def end(self) -> None:
        """End it, between two writes."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _sweep_again_and_again(self) -> None:
        wait = min(self._every, _LONGEST_FIRST_WAIT)
        while True:
            # Processes that were started together do not sweep together.
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - it need not be secret
            wait = self._every
            try:
                await self._checkpointer.asweep()
            except HybridMemoryError as error:
                self._events.warning("checkpoint_sweep_failed", reason=str(error))
