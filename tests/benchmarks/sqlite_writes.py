"""What group commit is worth: single-row writes to `state.db` with `synchronous=FULL`.

The rates are taken in turns, in many short rounds on the same disk: the bare commit (begin, insert, commit on one plain
connection, nothing of ours), one caller of ours, and 64 concurrent callers of ours. A ratio is the median of the ratios
of the rounds; the first rounds, in which the WAL files grow, do not count.

    uv run python -m tests.benchmarks.sqlite_writes
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw

from hybrid_memory.observability import Events
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE

Report = Callable[[str], None]

ROUNDS = 30
WARM_UP = 5
ALONE = 60
TOGETHER = 1920
CALLERS = 64
_PAYLOAD = "x" * 200
_TABLE = "create table rows (number integer, payload text) strict"
_ROW = "insert into rows (number, payload) values (?, ?)"


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds per row in one round."""

    bare: float
    thread: float
    task: float
    together: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What the rounds say together."""

    rounds: Sequence[Round]

    def per_row(self, name: str) -> float:
        """Seconds per row, the median."""
        return float(statistics.median(getattr(one, name) for one in self.rounds))

    def against_bare(self, name: str) -> float:
        """How many rows are written in the time of one bare commit, the median."""
        return float(statistics.median(one.bare / getattr(one, name) for one in self.rounds))


def bare_commits(connection: apsw.Connection, count: int) -> float:
    """One commit per write; seconds."""
    start = time.perf_counter()
    for number in range(count):
        connection.execute("begin immediate")
        connection.execute(_ROW, (number, _PAYLOAD))
        connection.execute("commit")
    return time.perf_counter() - start


def one_thread(database: Database, count: int) -> float:
    """One synchronous caller; seconds."""
    start = time.perf_counter()
    for number in range(count):
        database.write_blocking(lambda sql, number=number: _insert(sql, number))  # type: ignore[misc]
    return time.perf_counter() - start


async def one_task(database: Database, count: int) -> float:
    """One asynchronous caller; seconds."""
    start = time.perf_counter()
    for number in range(count):
        await database.write(lambda sql, number=number: _insert(sql, number))  # type: ignore[misc]
    return time.perf_counter() - start


async def together(database: Database, count: int, callers: int) -> float:
    """Many asynchronous callers, each writing one row after the other; seconds."""
    start = time.perf_counter()
    await asyncio.gather(*(one_task(database, count // callers) for _ in range(callers)))
    return time.perf_counter() - start


def measure(directory: Path, *, rounds: int = ROUNDS, alone: int = ALONE, many: int = TOGETHER) -> Rates:
    """All rates, interleaved."""
    bare = apsw.Connection(str(directory / "bare.db"))
    bare.pragma("journal_mode", "wal")
    bare.pragma("synchronous", "full")
    bare.execute(_TABLE)
    with Database(STATE, directory, Events()) as database:
        database.write_blocking(lambda sql: sql.connection.execute(_TABLE))
        taken = [
            Round(
                bare=bare_commits(bare, alone) / alone,
                thread=one_thread(database, alone) / alone,
                task=asyncio.run(one_task(database, alone)) / alone,
                together=asyncio.run(together(database, many, CALLERS)) / many,
            )
            for _ in range(WARM_UP + rounds)
        ]
    bare.close()
    return Rates(taken[WARM_UP:])


def _insert(sql: Statements, number: int) -> None:
    sql.connection.execute(_ROW, (number, _PAYLOAD))


async def run(report: Report = print) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory(dir=".") as directory:
        rates = await asyncio.to_thread(measure, Path(directory))
    report(f"SQLite {apsw.sqlite_lib_version()}, synchronous=FULL, one row per write, {ROUNDS} rounds")
    report(
        f"bare commit            {1 / rates.per_row('bare'):8.0f} rows/s  {rates.per_row('bare') * 1000:.3f} ms each"
    )
    for name, text in (("thread", "one caller, blocking"), ("task", "one caller, asyncio"), ("together", "64 callers")):
        report(f"{text:22} {1 / rates.per_row(name):8.0f} rows/s  {rates.against_bare(name):.2f} x the bare commit")


if __name__ == "__main__":
    asyncio.run(run())
