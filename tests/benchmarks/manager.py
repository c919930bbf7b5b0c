"""What an agent waits for: a durable write and a session start through the manager, against raw asyncpg."""

import json
import tempfile
from itertools import count
from typing import Any

import asyncpg

from hybrid_memory import HybridMemoryManager
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.postgres.target import Targets
from tests.benchmarks.postgres import raw_insert
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.managers import settings_for
from tests.support.servers import running_server

ROWS = 10_000
CHANGES = 10
WARM_CALLS = 100
TURNS, THREADS = 1000, 10
READ = """
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes where user_id = $1
"""
FILL = """
insert into memory.nodes (user_id, content, content_kind, summary, tags, metadata, version)
select 'reader', jsonb_build_object('text', repeat('word ', 20) || i), 'text', 'summary ' || i, array['a', 'b'],
       jsonb_build_object('source', i), 1
from generate_series(1, $1::int) i
"""


async def run(benchmark: Benchmark) -> None:
    """On a server with its ordinary, durable settings."""
    with running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server:
        async with server.migrated_database() as targets:
            await _measure(benchmark, targets)


async def _measure(benchmark: Benchmark, targets: Targets) -> None:
    raw = await asyncpg.create_pool(**targets.administration.asyncpg_arguments(), min_size=2, max_size=20)
    try:
        await raw.execute(FILL, ROWS)
        await raw.execute("select memory.touch_user('reader')")
        with tempfile.TemporaryDirectory(prefix="hm-") as directory:

            def made(**keywords: Any) -> HybridMemoryManager:
                return HybridMemoryManager(settings_for(targets, **({"data_dir": directory} | keywords)))

            async with (
                made(max_staleness_seconds=3600) as manager,
                made(listen=False, poll_interval_seconds=3600) as always_asking,
                made(max_cache_bytes=0, max_staleness_seconds=3600, data_dir=f"{directory}/none") as without_cache,
            ):
                await _writes(benchmark, raw, manager)
                await _session_start(benchmark, raw, without_cache)
                await _warm_start(benchmark, manager, without_cache)
                await _freshness(benchmark, manager, always_asking)
                await _conversations(benchmark, manager, without_cache)
    finally:
        await raw.close()


async def _writes(benchmark: Benchmark, raw: "asyncpg.Pool[asyncpg.Record]", manager: HybridMemoryManager) -> None:
    await manager.ensure_user_memories("loaded")
    numbers = count()

    async def store(user: str) -> None:
        await manager.store_persistent_memory(user, f"fact {next(numbers)}")

    await benchmark.compare(
        "one caller stores one memory",
        [
            Contender("asyncpg, transaction + insert", lambda: raw_insert(raw)),
            Contender("hybrid-memory, user not loaded", lambda: store("writer")),
            Contender("hybrid-memory, user loaded", lambda: store("loaded")),
        ],
    )


async def _session_start(
    benchmark: Benchmark, raw: "asyncpg.Pool[asyncpg.Record]", without_cache: HybridMemoryManager
) -> None:
    await benchmark.compare(
        f"first session of a user with {ROWS} memories",
        [
            Contender("asyncpg, fetch and decode JSON", lambda: raw_read(raw)),
            Contender("hybrid-memory, cold", lambda: begun(without_cache)),
        ],
    )


async def _warm_start(benchmark: Benchmark, manager: HybridMemoryManager, without_cache: HybridMemoryManager) -> None:
    await begun(manager)
    await kept(manager)
    await benchmark.compare(
        f"first session of a process, user with {ROWS} memories",
        [
            Contender("hybrid-memory, from Postgres", lambda: begun(without_cache)),
            Contender("hybrid-memory, from cache.db", lambda: begun(manager)),
        ],
    )


async def begun(manager: HybridMemoryManager) -> None:
    """What the first session of a process does; the graph of the one before is not in its way."""
    sessions_of(manager)._sessions.clear()
    assert len((await manager.ensure_user_memories("reader")).get_all_nodes()) == ROWS


async def kept(manager: HybridMemoryManager) -> None:
    keeper = sessions_of(manager)._keeper
    assert keeper is not None
    await keeper.written()


async def _freshness(benchmark: Benchmark, manager: HybridMemoryManager, always_asking: HybridMemoryManager) -> None:
    async def warm() -> None:
        for _ in range(WARM_CALLS):
            await manager.ensure_user_memories("reader")

    await warm()
    await benchmark.compare("session of a loaded user", [Contender("hybrid-memory, warm", warm, WARM_CALLS)])
    memory = await always_asking.ensure_user_memories("reader")

    async def changes() -> None:
        items = [{"content": f"change {place}", "node_id": f"change {place}"} for place in range(CHANGES)]
        await manager.store_many("reader", items)

    async def delta() -> None:
        before = memory.version
        await always_asking.ensure_user_memories("reader")
        assert memory.version == before + 1

    await benchmark.compare(
        f"{CHANGES} changes of another instance, user with {ROWS} memories",
        [Contender("hybrid-memory, delta", delta, before=changes)],
    )


async def _conversations(
    benchmark: Benchmark, manager: HybridMemoryManager, without_cache: HybridMemoryManager
) -> None:
    for place in range(TURNS):
        await manager.add_message("talker", f"thread {place % THREADS}", "user", f"turn {place}")

    async def context(of: HybridMemoryManager, calls: int = 1) -> None:
        for _ in range(calls):
            assert len(await of.get_context("talker", "thread 1", limit=10)) == 10

    async def forgotten(by: HybridMemoryManager) -> None:
        sessions_of(by)._sessions.clear()

    await context(manager)
    await kept(manager)
    await benchmark.compare(
        f"the last 10 turns of a conversation, user with {TURNS} turns in {THREADS} threads",
        [
            Contender(
                "hybrid-memory, from Postgres",
                lambda: context(without_cache),
                before=lambda: forgotten(without_cache),
            ),
            Contender("hybrid-memory, from cache.db", lambda: context(manager), before=lambda: forgotten(manager)),
            Contender("hybrid-memory, loaded", lambda: context(manager, WARM_CALLS), WARM_CALLS),
        ],
    )


async def raw_read(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    rows = await pool.fetch(READ, "reader")
    assert len([(row, json.loads(row["content"]), json.loads(row["metadata"])) for row in rows]) == ROWS


def sessions_of(manager: HybridMemoryManager) -> Sessions:
    assert manager._parts is not None
    return manager._parts.sessions
