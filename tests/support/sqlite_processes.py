"""Processes that do what they are told, all at the same moment.

python -m tests.support.sqlite_processes        reads one JSON order per line, answers each with one JSON line
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybrid_memory.observability import Event, Events
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from tests.support.sqlite_files import ROOT, noting

DEADLINE = 30.0
_HEAD_START_SECONDS = 0.05


class Crew:
    """Some processes that take the same orders."""

    def __init__(self, processes: list["subprocess.Popen[str]"]) -> None:
        self._processes = processes

    def order(self, what: str, directory: Path, **details: Any) -> list[Any]:
        """Have all of them do it at the same moment; their answers."""
        moment = time.time() + _HEAD_START_SECONDS
        for number, process in enumerate(self._processes):
            assert process.stdin is not None
            order = {"what": what, "directory": str(directory), "name": f"p{number}", "moment": moment, **details}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout is not None]


@contextmanager
def crew(size: int) -> Iterator[Crew]:
    command = [sys.executable, "-m", "tests.support.sqlite_processes"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(size)
    ]
    try:
        together = Crew(processes)
        together.order("nothing", Path())
        yield together
    finally:
        for process in processes:
            process.communicate(timeout=DEADLINE)


def start_and_write(directory: Path, name: str) -> int:
    """Open and write one note; how many migrations that took."""
    seen: list[Event] = []
    with Database(STATE, directory, Events(seen.append)) as database:
        database.write_blocking(noting("t", name))
    return sum(event.name == "migration_applied" for event in seen)


def write_for_a_while(directory: Path, name: str, seconds: float) -> tuple[int, float]:
    """Write as fast as it goes; how often, and the longest wait."""
    with Database(STATE, directory, Events()) as database:
        end = time.monotonic() + seconds
        count, longest = 0, 0.0
        while time.monotonic() < end:
            start = time.monotonic()
            database.write_blocking(noting("t", f"{name}-{count}"))
            longest = max(longest, time.monotonic() - start)
            count += 1
    return count, longest


def obey(what: str, directory: str, name: str, moment: float, **details: Any) -> Any:
    while time.time() < moment:
        pass
    try:
        if what == "start":
            return start_and_write(Path(directory), name)
        if what == "write":
            return write_for_a_while(Path(directory), name, details["seconds"])
    except Exception as error:  # noqa: BLE001 - whoever ordered it reports it
        return repr(error)
    return "nothing done"


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(obey(**json.loads(line))), flush=True)
