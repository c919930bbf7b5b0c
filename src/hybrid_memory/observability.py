"""Events: what the library reports, to structured logs and to whoever hooks in.

A part of the library gets one `Events` and calls `events.info("migration_applied", number=1)`. Names are stable; fields
hold user ids, counts and durations, never memory text or secrets. docs/reference.md lists them all.

As a library it is quiet: events go to the standard logger `hybrid_memory`, which has no handler of its own, or through
structlog's pipeline where the application has configured one. `configure_logging()` makes them readable.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TextIO

import structlog

LOGGER = "hybrid_memory"
Level = Literal["debug", "info", "warning", "error"]
_LEVELS: Mapping[Level, int] = {
    "debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR
}  # fmt: skip

logging.getLogger(LOGGER).addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `fields` holds `duration_ms` where it took time."""

    name: str
    level: Level
    fields: Mapping[str, Any]


Hook = Callable[[Event], None]


class Events:
    """Where one manager and its parts report; hooks see every event, at every level.

    A hook is called in the thread that reports, so it should be quick; one that raises is dropped from the report and
    never disturbs the work. OpenTelemetry and Prometheus attach here.
    """

    def __init__(self, *hooks: Hook) -> None:
        self._hooks: tuple[Hook, ...] = hooks
        self._logger = logging.getLogger(LOGGER)
        self._standard = structlog.wrap_logger(
            self._logger,
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def add_hook(self, hook: Hook) -> Callable[[], None]:
        """Call `hook` with every event from now on; the answer removes it again."""
        self._hooks = (*self._hooks, hook)

        def remove() -> None:
            self._hooks = tuple(other for other in self._hooks if other is not hook)

        return remove

    def debug(self, name: str, **fields: Any) -> None:
        """Report something only a developer looks for."""
        self._emit(Event(name, "debug", fields))

    def info(self, name: str, **fields: Any) -> None:
        """Report something that happened as it should."""
        self._emit(Event(name, "info", fields))

    def warning(self, name: str, **fields: Any) -> None:
        """Report something that somebody should look at."""
        self._emit(Event(name, "warning", fields))

    def error(self, name: str, **fields: Any) -> None:
        """Report something that failed."""
        self._emit(Event(name, "error", fields))

    @contextmanager
    def timed(self, name: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Report `name` with `duration_ms` when the block is done, unless it raises; the block may add fields."""
        start = time.perf_counter()
        yield fields
        self.info(name, **fields, duration_ms=round((time.perf_counter() - start) * 1000, 3))

    def _emit(self, event: Event) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                self._logger.exception("event_hook_failed")
        if structlog.is_configured():
            logger = structlog.get_logger(LOGGER)
        elif self._logger.isEnabledFor(_LEVELS[event.level]):
            logger = self._standard
        else:
            return
        getattr(logger, event.level)(event.name, **event.fields)


def configure_logging(
    style: Literal["readable", "json"] = "readable", *, level: str = "INFO", stream: TextIO | None = None
) -> None:
    """Show the library's events on `stream` (standard error), one line each. A second call replaces the first."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty())
    )
    handler = logging.StreamHandler(stream)
    handler.set_name(LOGGER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    logger = logging.getLogger(LOGGER)
    for earlier in [one for one in logger.handlers if one.get_name() == LOGGER]:
        logger.removeHandler(earlier)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
