"""The physical limit: raw asyncpg, and what our binding, mapping and deadlines add to it."""

import json
from datetime import UTC, datetime
from itertools import count

import asyncpg
from langchain_core.utils.uuid import uuid7

from hybrid_memory import Settings
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Batches, Operation
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.target import Targets
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.rows import fact_row
from tests.support.servers import running_server

ROWS = 10_000
WRITERS = 32
INSERT = "insert into memory.nodes (user_id, node_id, content) values ($1, $2, $3)"
UNNEST = "insert into memory.nodes (user_id, node_id, content) select $1, * from unnest($2::uuid[], $3::jsonb[])"
READ = "select node_id, context_type, content, summary, tags, metadata from memory.nodes where user_id = $1"


async def run(benchmark: Benchmark) -> None:
    """On a server with its ordinary, durable settings."""
    with running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server:
        async with server.migrated_database() as targets:
            await _measure(benchmark, targets)


async def _measure(benchmark: Benchmark, targets: Targets) -> None:
    settings = Settings.without_environment()
    raw = await asyncpg.create_pool(**targets.administration.asyncpg_arguments(), min_size=2, max_size=20)
    database = await Database.open(targets, settings, Events())
    try:
        await raw.execute(
            "insert into memory.nodes (user_id, content, summary, tags) select 'reader',"
            " jsonb_build_object('text', repeat('word ', 20) || i), 'summary ' || i, array['a', 'b']"
            " from generate_series(1, $1::int) i",
            ROWS,
        )
        writer = _Writer(database)
        await benchmark.compare(
            "write one row",
            [
                Contender("asyncpg, transaction + insert", lambda: raw_insert(raw)),
                Contender("asyncpg, autocommit insert", lambda: _raw_autocommit(raw)),
                Contender("hybrid-memory, batch of one", writer.write),
            ],
        )
        await benchmark.compare(
            f"write {WRITERS} rows of one user at once",
            [
                Contender("asyncpg, insert from unnest", lambda: _raw_unnest(raw), WRITERS),
                Contender(f"hybrid-memory, batch of {WRITERS}", lambda: writer.write(WRITERS), WRITERS),
            ],
        )
        await benchmark.compare(
            f"read {ROWS} rows of one user",
            [
                Contender("asyncpg, fetch and decode JSON", lambda: _raw_read(raw)),
                Contender("hybrid-memory, bound, as MemoryNode", lambda: _read(database)),
            ],
        )
    finally:
        await database.close()
        await raw.close()


async def _raw_autocommit(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    async with pool.acquire() as connection:
        await connection.execute(INSERT, "writer", uuid7(), '{"text": "a fact"}')


async def raw_insert(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(INSERT, "writer", uuid7(), '{"text": "a fact"}')


class _Writer:
    """The write path, with the numbers and stamps that a manager gives its operations."""

    def __init__(self, database: Database) -> None:
        self.instance = str(uuid7())
        self.batches = Batches(database, self.instance)
        self._numbers = count(1)

    async def write(self, many: int = 1) -> None:
        await self.batches.apply({"writer": [self._operation() for _ in range(many)]})

    def _operation(self) -> Operation:
        stamp = {"written_at": datetime.now(UTC).isoformat(), "written_by": self.instance}
        return Operation(next(self._numbers), "nodes", fact_row(str(uuid7())) | stamp)


async def _raw_unnest(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    ids = [uuid7() for _ in range(WRITERS)]
    async with pool.acquire() as connection:
        await connection.execute(UNNEST, "writer", ids, ['{"text": "a fact"}'] * WRITERS)


async def _raw_read(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    rows = await pool.fetch(READ, "reader")
    assert len([(row["node_id"], json.loads(row["content"]), json.loads(row["metadata"])) for row in rows]) == ROWS


async def _read(database: Database) -> None:
    async with database.transaction(["reader"]) as transaction:
        assert len(await Nodes(transaction, "reader").changed_since()) == ROWS
