"""When an operation was written: wall-clock milliseconds, and a counter in their microseconds that never runs back.

Of two writes the one with the later stamp counts, whichever machine it was made on. So a stamp also rises above every
stamp that this process has read: whoever changes what he has seen wins over it, though his machine's clock is behind.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = 1000
_MICROSECOND = timedelta(microseconds=1)


class HybridClock:
    """Stamps that rise strictly within an instance, also while the machine's clock stands still or is set back."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._last = 0
        self._lock = threading.Lock()

    def stamp(self) -> datetime:
        """The next stamp."""
        with self._lock:
            now = int(self._wall() * 1000) * _MILLISECOND
            self._last = max(now, self._last + 1)
            return _EPOCH + timedelta(microseconds=self._last)

    @property
    def latest(self) -> datetime:
        """The latest stamp that was made or observed here."""
        with self._lock:
            return _EPOCH + timedelta(microseconds=self._last)

    def observe(self, *seen: datetime | None) -> None:
        """Take note of stamps that others have made. Postgres keeps them from running far ahead of its own clock."""
        latest = max((moment for moment in seen if moment is not None), default=_EPOCH)
        with self._lock:
            self._last = max(self._last, (latest - _EPOCH) // _MICROSECOND)
