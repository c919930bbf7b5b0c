"""How quick commits are: whether an event loop may make one itself, or is held up by the disk."""

import time
from collections.abc import Callable

_QUICK_SECONDS = 0.001
# Of the last eight commits so many have to be quick. The others may have waited for a processor, not for the disk.
_QUICK_ONES = 3
_LAST_EIGHT = 0b11111111
# So long nobody waits for a processor: it was the disk, whatever it was like before.
_LONG_SECONDS = 0.1
# A loop that was held up tries again when it has been free for so many times as long.
_FREE_TIMES = 100
# What is thought of a disk before it was seen at work.
_SLOW_SECONDS = 0.01


class Pace:
    """The last commits to one file. Any thread may tell of one."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        # A bit for each commit, set for a quick one: threads need no lock for a number.
        self._last = 0
        self._again_at = clock() + _SLOW_SECONDS * _FREE_TIMES

    def is_quick(self) -> bool:
        """Whether a commit in an event loop's thread will hardly hold the loop up, or is worth a try."""
        return self._last.bit_count() >= _QUICK_ONES or self._clock() >= self._again_at

    def in_loop(self, seconds: float) -> None:
        """A commit has held an event loop up for so long."""
        is_quick = seconds <= _QUICK_SECONDS
        self._note(is_quick=is_quick)
        if seconds >= _LONG_SECONDS:
            self._last = 0
        if not is_quick:
            self._again_at = self._clock() + seconds * _FREE_TIMES

    def in_thread(self, seconds: float) -> None:
        """A commit has taken a thread so long, which tells of the disk only where it was quick.

        While a loop is busy, a thread waits for the interpreter, some milliseconds for each statement.
        """
        if seconds <= _QUICK_SECONDS:
            self._note(is_quick=True)

    def _note(self, *, is_quick: bool) -> None:
        self._last = (self._last << 1 | is_quick) & _LAST_EIGHT
