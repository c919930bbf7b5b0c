"""Many callers that store memories at once, against LangGraph's own store on the same server."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

from langgraph.store.postgres.aio import AsyncPostgresStore

from hybrid_memory import HybridMemoryManager
from hybrid_memory.postgres.target import Target
from tests.benchmarks.floors import Floor, floor_in
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.managers import settings_for
from tests.support.servers import running_server

CALLERS = 32
CALLS = 5


async def run(benchmark: Benchmark) -> None:
    """On a server with its ordinary, durable settings."""
    with (
        running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server,
        tempfile.TemporaryDirectory(prefix="hm-") as directory,
    ):
        async with (
            server.migrated_database() as targets,
            upstream_store(targets.administration) as store,
            floor_in(targets.administration) as floor,
            HybridMemoryManager(settings_for(targets, data_dir=directory)) as manager,
        ):
            await _measure(benchmark, store, floor, manager, users=CALLERS)
            await _measure(benchmark, store, floor, manager, users=1)


@contextlib.asynccontextmanager
async def upstream_store(target: Target) -> AsyncIterator[AsyncPostgresStore]:
    """The published store with its pool, in the same database."""
    async with AsyncPostgresStore.from_conn_string(
        address_of(target), pool_config={"min_size": 2, "max_size": 20}
    ) as store:
        await store.setup()
        yield store


def address_of(target: Target) -> str:
    """As psycopg takes it."""
    return f"host={target.hosts[0]} dbname={target.database} user={target.user}"


async def _measure(
    benchmark: Benchmark, store: AsyncPostgresStore, floor: Floor, manager: HybridMemoryManager, *, users: int
) -> None:
    numbers = count()

    async def put(user: str) -> None:
        number = next(numbers)
        await store.aput(("memories", user), f"key {number}", {"text": f"fact {number}"}, index=False)

    async def remember(user: str) -> None:
        await manager.store_persistent_memory(user, f"fact {next(numbers)}")

    await benchmark.compare(
        f"{CALLERS} callers store one memory after another, {users} user{'s' if users > 1 else ''}",
        [
            Contender("AsyncPostgresStore.aput", lambda: _at_once(put, users), CALLERS * CALLS),
            floor.items(CALLERS, CALLS, users),
            Contender("hybrid-memory, store_persistent_memory", lambda: _at_once(remember, users), CALLERS * CALLS),
        ],
    )


async def _at_once(write: Callable[[str], Awaitable[None]], users: int) -> None:
    async def caller(number: int) -> None:
        for _ in range(CALLS):
            await write(f"user {number % users}")

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
