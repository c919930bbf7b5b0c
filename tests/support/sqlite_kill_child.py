"""One of the processes of the kill campaign: writes notes to a shared directory until it is killed.

    python -m tests.support.sqlite_kill_child DIRECTORY LOG NAME [answer-before-commit]

It logs what it intends to write, and what was acknowledged; the log survives because the system, not the process, holds
it. Half of its callers are tasks of an event loop, half are threads.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybrid_memory.observability import Events
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.groups import Verdict
from hybrid_memory.sqlite.tickets import LoopTicket, Ticket, tell
from hybrid_memory.sqlite.writer import Run, Writer
from tests.support.sqlite_files import noting

TASKS = 8
THREADS = 2
DEADLINE = 30.0


class Log:
    """Lines that are the system's as soon as they are written."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word: str, what: object) -> None:
        os.write(self._file, f"{word} {what}\n".encode())


def main() -> None:
    directory, log_path, name, *plants = sys.argv[1:]
    log = Log(log_path)
    if "answer-before-commit" in plants:
        answer_before_commit()
    start = time.perf_counter()
    database = Database(STATE, Path(directory), Events())
    database.open()
    log.note("ready", time.perf_counter() - start)
    if not plants:
        for number in range(THREADS):
            threading.Thread(
                target=write_in_a_thread, args=(database, log, f"{name}-thread{number}"), daemon=True
            ).start()
    asyncio.run(write_in_tasks(database, log, name))


async def write_in_tasks(database: Database, log: Log, name: str) -> None:
    async def write_on(prefix: str) -> None:
        number = 0
        while True:
            number += 1
            log.note("intent", f"{prefix}-{number}")
            await database.write(noting("t", f"{prefix}-{number}"), timeout=DEADLINE)
            log.note("ack", f"{prefix}-{number}")

    await asyncio.gather(*(write_on(f"{name}-task{number}") for number in range(TASKS)))


def write_in_a_thread(database: Database, log: Log, prefix: str) -> None:
    number = 0
    while True:
        number += 1
        log.note("intent", f"{prefix}-{number}")
        database.write_blocking(noting("t", f"{prefix}-{number}"), timeout=DEADLINE)
        log.note("ack", f"{prefix}-{number}")


def answer_before_commit() -> None:
    """The planted bug: callers hear of success while the commit is still to come."""
    commit = Writer._commit

    def hasty(self: Writer, tickets: Sequence[Ticket[Any]], run: Run) -> Sequence[Verdict]:
        assert all(isinstance(ticket, LoopTicket) for ticket in tickets)
        tell(tickets)
        time.sleep(0.02)
        return commit(self, tickets, run)

    Writer._commit = hasty  # type: ignore[method-assign] # a bug is planted


if __name__ == "__main__":
    main()
