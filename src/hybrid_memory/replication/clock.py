"""When an operation was written: wall-clock milliseconds, and a counter in their microseconds that never runs back."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = 1000


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
