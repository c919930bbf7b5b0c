"""What it costs a writer to tell other processes, who hear it: the same writes with and without."""

import asyncio
import tempfile
from itertools import count

from hybrid_memory import HybridMemoryManager
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.managers import settings_for
from tests.support.servers import running_server
from tests.support.waiting import until

WRITERS = 16
EACH = 10


async def run(benchmark: Benchmark) -> None:
    """On a server with its ordinary, durable settings."""
    with running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server:
        async with server.migrated_database() as targets:
            with tempfile.TemporaryDirectory(prefix="hm-") as directory:
                settings = settings_for(targets, data_dir=directory, max_staleness_seconds=3600)
                async with HybridMemoryManager(settings) as manager:
                    await until(lambda: manager.health().listener == "listening", "it listens")
                    for users in (1, WRITERS):
                        await _measure(benchmark, manager, users)


async def _measure(benchmark: Benchmark, manager: HybridMemoryManager, users: int) -> None:
    assert manager._parts is not None
    invalidation, numbers = manager._parts.freshness._invalidation, count()

    async def telling(*, tells: bool) -> None:
        if tells:
            invalidation._closing.clear()
        else:
            invalidation._closing.set()

    async def write_on(place: int) -> None:
        for _ in range(EACH):
            await manager.store_persistent_memory(f"writer-{place % users}", f"fact {next(numbers)}")

    async def write() -> None:
        await asyncio.gather(*(write_on(place) for place in range(WRITERS)))

    await benchmark.compare(
        f"{WRITERS} callers, {users} {'user' if users == 1 else 'users'}",
        [
            Contender("nobody is told", write, WRITERS * EACH, before=lambda: telling(tells=False)),
            Contender("others are told", write, WRITERS * EACH, before=lambda: telling(tells=True)),
        ],
    )
