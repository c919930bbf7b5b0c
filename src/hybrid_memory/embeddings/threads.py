"""Threads for code that may never come back: those that everybody shares would soon be gone."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")


class OwnThreads:
    """A few threads of one embedder; who is not answered there holds up nothing else in the process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Run blocking work in one of them, when one is free."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="hybrid-memory embedder")
        call = partial(contextvars.copy_context().run, work, *arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """End them once nobody waits for one, without waiting for that; the next call begins with new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            # Whoever waits for one has a deadline, and would take a cancelled call for its own cancellation.
            pool.shutdown(wait=False)
