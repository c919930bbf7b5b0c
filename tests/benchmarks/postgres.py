"""The physical limit: raw asyncpg, and what our binding, mapping and deadlines add to it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import asyncpg
from langchain_core.utils.uuid import uuid7

from hybrid_memory import Settings
from hybrid_memory.models import MemoryNode
from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.target import Targets
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.servers import running_server

Pool = TypeVar("Pool")
ROWS = 10_000
WRITERS = 32
INSERT = "insert into memory.nodes (user_id, node_id, content) values ($1, $2, $3)"
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
        await benchmark.compare(
            "write one row, one caller",
            [
                Contender("asyncpg, transaction + insert", lambda: _raw_insert(raw)),
                Contender("asyncpg, autocommit insert", lambda: _raw_autocommit(raw)),
                Contender("hybrid-memory, bound transaction", lambda: _insert(database)),
            ],
        )
        await benchmark.compare(
            f"write one row each, {WRITERS} callers",
            [
                Contender("asyncpg, transaction + insert", lambda: _many(_raw_insert, raw), WRITERS),
                Contender("hybrid-memory, bound transaction", lambda: _many(_insert, database), WRITERS),
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


async def _raw_insert(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(INSERT, "writer", uuid7(), '{"text": "a fact"}')


async def _insert(database: Database) -> None:
    node = MemoryNode(
        user_id="writer",
        node_id=str(uuid7()),
        context_type="conversation_fact",
        content={"text": "a fact"},
        written_at=datetime.now(UTC),
    )
    async with database.transaction(["writer"]) as transaction:
        await Nodes(transaction, "writer").insert(node, 1)


async def _many(insert: Callable[[Pool], Awaitable[None]], pool: Pool) -> None:
    await asyncio.gather(*(insert(pool) for _ in range(WRITERS)))


async def _raw_read(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    rows = await pool.fetch(READ, "reader")
    assert len([(row["node_id"], json.loads(row["content"]), json.loads(row["metadata"])) for row in rows]) == ROWS


async def _read(database: Database) -> None:
    async with database.transaction(["reader"]) as transaction:
        assert len(await Nodes(transaction, "reader").changed_since()) == ROWS
