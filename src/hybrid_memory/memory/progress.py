"""Telling whoever waits for a long load how far it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hybrid_memory.observability import Events

Progress = Callable[[int, int | None], None]
"""Called with how many rows are here, and of how many; None when nobody knows."""

_ROWS_BETWEEN_EVENTS = 10_000


class Arrivals:
    """The rows of one user as they come in, and who wants to know of them."""

    def __init__(self, user_id: str, events: Events) -> None:
        self._user_id = user_id
        self._events = events
        self._listeners: list[Progress] = []
        self._reported = 0

    @contextmanager
    def heard_by(self, listener: Progress | None) -> Iterator[None]:
        """Tell it until the block ends. One that raises is not called again, and the load goes on."""
        if listener is None:
            yield
            return
        self._listeners.append(listener)
        try:
            yield
        finally:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def tell(self, rows: int, counted: int) -> None:
        """So many rows are here, of as many as the counters say; rows put in by hand are not counted."""
        expected = counted if rows <= counted else None
        steps = rows // _ROWS_BETWEEN_EVENTS
        if steps > self._reported:
            self._events.info("loading_progress", user_id=self._user_id, rows=rows, expected=expected)
        self._reported = steps
        for listener in tuple(self._listeners):
            try:
                listener(rows, expected)
            except Exception as error:  # noqa: BLE001 - it is the caller's, and others wait for the same load
                self._listeners.remove(listener)
                self._events.warning("progress_callback_failed", user_id=self._user_id, error=type(error).__name__)
