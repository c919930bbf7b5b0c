"""What group commit is worth: single-row writes to `state.db`, `synchronous=FULL`, against the bare commit.

The bare commit is begin, insert, commit on one plain connection, nothing of ours; a caller of ours has to pass a queue
and, in asyncio, a thread. The promise: 64 callers at least five times the rate of one commit per write, one caller no
slower than a bare commit.
"""

import asyncio
import tempfile
from pathlib import Path

import apsw

from hybrid_memory.observability import Events
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from tests.benchmarks.runner import Benchmark, Contender

ALONE = 60
CALLERS = 64
EACH = 30
_TABLE = "create table rows (payload text) strict"
_ROW = "insert into rows (payload) values (?)"
_PAYLOAD = ("x" * 200,)


async def run(benchmark: Benchmark) -> None:
    """In the working directory: on the disk that data would be on, not in a memory file system."""
    with tempfile.TemporaryDirectory(dir=".") as place, Database(STATE, Path(place), Events()) as database:
        bare = apsw.Connection(str(Path(place, "bare.db")))
        bare.pragma("journal_mode", "wal")
        bare.pragma("synchronous", "full")
        bare.execute(_TABLE)
        database.write_blocking(lambda sql: sql.connection.execute(_TABLE).close())
        await benchmark.compare(
            "write one row to SQLite, synchronous=FULL",
            [
                Contender("bare commit, one per write", lambda: bare_commits(bare), ALONE),
                Contender("one caller, blocking", lambda: one_thread(database), ALONE),
                Contender("one caller, asyncio", lambda: one_task(database, ALONE), ALONE),
                Contender(f"{CALLERS} callers, asyncio", lambda: together(database), CALLERS * EACH),
            ],
        )
        bare.close()


async def bare_commits(connection: apsw.Connection) -> None:
    for _ in range(ALONE):
        connection.execute("begin immediate")
        connection.execute(_ROW, _PAYLOAD)
        connection.execute("commit")


async def one_thread(database: Database) -> None:
    for _ in range(ALONE):
        database.write_blocking(insert)


async def one_task(database: Database, count: int) -> None:
    for _ in range(count):
        await database.write(insert)


async def together(database: Database) -> None:
    await asyncio.gather(*(one_task(database, EACH) for _ in range(CALLERS)))


def insert(sql: Statements) -> None:
    sql.connection.execute(_ROW, _PAYLOAD)


if __name__ == "__main__":
    asyncio.run(run(Benchmark(rounds=30, seed=1)))
