"""Waiting for a condition instead of for a time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Self

_POLL_SECONDS = 0.02
# What a campaign measures holds on a machine that does nothing else; a default run shares it with other tests.
SHARED = 4


async def until(condition: Callable[[], object | Awaitable[object]], what: str, *, seconds: float = 10) -> None:
    """Return as soon as `condition()` holds; fail with `what` when it never does."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(_POLL_SECONDS)


def until_blocking(condition: Callable[[], object], what: str, *, seconds: float = 10) -> None:
    """The same for a test without an event loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(_POLL_SECONDS)


class Deadline:
    """`with Deadline(2):` fails when the block took longer than that and one second more."""

    SLACK = 1.0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.took = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.took = time.monotonic() - self._start
        assert self.took <= self.seconds + self.SLACK, f"took {self.took:.2f} s, its deadline was {self.seconds:g} s"
