"""Events: quiet by default, readable on request, hooks that cannot disturb."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from hybrid_memory import configure_logging
from hybrid_memory.observability import LOGGER, Event, Events


@pytest.fixture(autouse=True)
def _restored_logger() -> Iterator[None]:
    logger = logging.getLogger(LOGGER)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    structlog.reset_defaults()


def test_a_library_prints_nothing() -> None:
    program = "from hybrid_memory.observability import Events; Events().error('loud', user_id='nick')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_json_lines() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    events = Events()
    events.debug("hidden")
    events.info("migration_applied", number=1)
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["number"]) == ("migration_applied", "info", 1)
    assert said["timestamp"].endswith("Z")


def test_readable_lines_and_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    configure_logging(stream=second, level="DEBUG")
    Events().debug("node_persisted_to_postgres", user_id="nick")
    assert first.getvalue() == ""
    assert "node_persisted_to_postgres" in second.getvalue()
    assert "user_id=nick" in second.getvalue()


def test_an_application_that_uses_structlog_gets_the_events_in_its_own_pipeline() -> None:
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    with structlog.testing.capture_logs() as captured:
        Events().warning("postgres_unavailable", attempts=3)
    assert captured == [{"event": "postgres_unavailable", "log_level": "warning", "attempts": 3}]


def test_hooks_see_every_event_until_removed() -> None:
    seen: list[Event] = []
    events = Events()
    remove = events.add_hook(seen.append)
    with events.timed("user_memories_loaded", user_id="nick") as fields:
        fields["nodes"] = 2
    remove()
    events.info("unseen")
    (event,) = seen
    assert (event.name, event.level, event.fields["nodes"]) == ("user_memories_loaded", "info", 2)
    assert event.fields["duration_ms"] >= 0


def test_a_failing_hook_disturbs_neither_the_work_nor_the_other_hooks() -> None:
    seen: list[Event] = []

    def fail(_event: Event) -> None:
        raise RuntimeError("hook")

    Events(fail, seen.append).info("still_reported")
    assert [event.name for event in seen] == ["still_reported"]
