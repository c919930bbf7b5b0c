"""The points at which a process dies: before, in the middle of and after each commit that a write goes through.

They are reached from outside, by wrapping what a process runs: the groups that SQLite commits, the call that applies a
batch, and the bytes between the process and Postgres, which pass a proxy inside the process itself.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from hybrid_memory.postgres.batches import Batches, QueuedBatches
from hybrid_memory.sqlite import writer as sqlite_writer
from hybrid_memory.sqlite.connection import Statements
from tests.support import proxy as fault_proxies
from tests.support.scribes import Notes

# The jobs that a group of `state.db` or `cache.db` may hold, by what they do.
_JOBS = {
    "outbox commit": ("Outbox.put",),
    "mark done": ("Outbox.done",),
    "cache write": ("CachedUsers.replace", "CachedUsers.apply"),
}
POINTS = (
    *(f"{when} {what}" for what in _JOBS for when in ("before", "after")),
    "before apply",
    "after apply",
    "before Postgres commit",
    "during Postgres commit",
    "after Postgres commit",
)
# Only the statement that applies a batch says this.
_BATCH = b'"oldest"'


class Point:
    """Ends the process when it has been passed so many times."""

    def __init__(self, name: str, passages: int, notes: Notes) -> None:
        self._name = name
        self._left = passages
        self._notes = notes
        when, _, what = name.partition(" ")
        if what in _JOBS:
            self._watch_groups(when, _JOBS[what])
        elif what == "apply":
            self._watch_batches(when)
        else:
            self._watch_bytes(when)

    @property
    def is_next(self) -> bool:
        return self._left == 1

    def passed(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._notes.note(died=self._name)
            os.kill(os.getpid(), signal.SIGKILL)

    def _watch_groups(self, when: str, jobs: Sequence[str]) -> None:
        honest: Callable[..., Any] = vars(sqlite_writer)["run_group"]

        def run_group(statements: Statements, tickets: Sequence[Any], kind: Any) -> Any:
            if not any(ticket.job.__qualname__.startswith(jobs) for ticket in tickets):
                return honest(statements, tickets, kind)
            if when == "before":
                statements.connection.set_commit_hook(self._at_commit)
            verdicts = honest(statements, tickets, kind)
            statements.connection.set_commit_hook(None)
            if when == "after":
                self.passed()
            return verdicts

        setattr(sqlite_writer, "run_group", run_group)  # noqa: B010 - as below

    def _at_commit(self) -> bool:
        """Called by SQLite when all has been written and nothing is committed."""
        self.passed()
        return False

    def _watch_batches(self, when: str) -> None:
        for sends in (Batches, QueuedBatches):
            setattr(sends, "apply", self._watched(when, sends.apply))  # noqa: B010 - mypy takes no function for a method

    def _watched(self, when: str, honest: Callable[..., Any]) -> Callable[..., Any]:
        async def apply(*sent: Any, **keywords: Any) -> Any:
            if when == "before":
                self.passed()
            applied = await honest(*sent, **keywords)
            if when == "after":
                self.passed()
            return applied

        return apply

    def _watch_bytes(self, when: str) -> None:
        """Before: Postgres has half of the statement. During: all of it. After: it has answered, and nobody heard."""
        honest: Callable[..., Any] = fault_proxies._Link._pass_on
        asked: set[Any] = set()

        async def pass_on(link: Any, direction: str, data: bytes, writer: asyncio.StreamWriter) -> None:
            asks, answers = direction == "to_server" and _BATCH in data, direction == "to_client" and link in asked
            if asks and when == "before":
                if self.is_next:
                    await honest(link, direction, data[: len(data) // 2], writer)
                self.passed()
            if answers:
                asked.discard(link)
                if when == "after":
                    self.passed()
            await honest(link, direction, data, writer)
            if asks:
                asked.add(link)
                if when == "during":
                    self.passed()

        setattr(fault_proxies._Link, "_pass_on", pass_on)  # noqa: B010 - as above
