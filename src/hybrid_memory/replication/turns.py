"""Whose turn it is: a user's writes leave in the order in which they were taken, one batch at a time."""

import asyncio
import time
from collections.abc import Collection


class Overtaken(Exception):
    """What was made ready may not leave as it is: those before it were not written as they were sent."""


class Turn:
    """The place of one call, behind those that were taken before it for the same users."""

    def __init__(self, behind: Collection["Turn"] = ()) -> None:
        self._behind = behind
        self._came_at = time.perf_counter()
        self.over = asyncio.Event()
        """Set once it is done."""
        self.confirmed = False
        """Whether Postgres has confirmed all of it as it was sent."""

    @property
    def is_ahead(self) -> bool:
        """Whether it was taken while others were on their way."""
        return bool(self._behind)

    async def come(self) -> None:
        """Wait until those before are done.

        Raises:
            Overtaken: not all of them were confirmed.
        """
        for before in self._behind:
            await before.over.wait()
            if not before.confirmed:
                raise Overtaken
        self._came_at = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self._came_at

    def pass_on(self, *, confirmed: bool) -> None:
        """It is done; the first to say so counts."""
        if not self.over.is_set():
            self.confirmed = confirmed
            self.over.set()
