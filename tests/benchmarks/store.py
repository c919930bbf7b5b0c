"""The store against LangGraph's own on the same server, with the same vectors, which are ready when asked for."""

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count

import numpy as np
import numpy.typing as npt
from langchain_core.embeddings import Embeddings
from langgraph.store.base import BaseStore, PutOp
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig

from hybrid_memory import HybridMemoryManager
from tests.benchmarks.floors import Floor, floor_in
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.managers import settings_for
from tests.support.servers import running_server

ITEMS = 10_000
CHUNK = 500
CALLERS = 32
PUTS = 5
GETS = 50
SEARCHES = 20
DIMENSIONS = 384
TOPICS = 200
WANTED = 10
FILLED = ("docs", "filled")


class ReadyVectors(Embeddings):
    """The vector of the text `n` is the n-th: near one of some topics, as texts are."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        topics = rng.standard_normal((TOPICS, DIMENSIONS))
        near = topics[rng.integers(0, TOPICS, 2 * ITEMS)] + 0.7 * rng.standard_normal((2 * ITEMS, DIMENSIONS))
        self.vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def nth(self, number: int) -> npt.NDArray[np.float32]:
        """The vector of a text."""
        vector: npt.NDArray[np.float32] = self.vectors[number % len(self.vectors)]
        return vector

    def embed_query(self, text: str) -> list[float]:
        vector: list[float] = self.nth(int(text)).tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)

    def nearest(self, text: str) -> set[str]:
        """The keys of the filled items that are nearest in truth."""
        cosines = self.vectors[:ITEMS] @ np.asarray(self.embed_query(text), np.float32)
        return {str(place) for place in np.argsort(-cosines)[:WANTED].tolist()}


async def run(benchmark: Benchmark) -> None:
    """On a server with its ordinary, durable settings."""
    embedder = ReadyVectors()
    vectors = PostgresIndexConfig(dims=DIMENSIONS, embed=embedder, fields=["text"])
    with (
        running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server,
        tempfile.TemporaryDirectory(prefix="hm-") as directory,
    ):
        async with server.migrated_database() as targets:
            own = targets.administration
            address = f"host={own.hosts[0]} dbname={own.database} user={own.user}"
            settings = settings_for(targets, data_dir=directory, max_staleness_seconds=60, store_search="vector")
            pool = {"min_size": 2, "max_size": 20}
            async with (
                AsyncExitStack() as stack,
                AsyncPostgresStore.from_conn_string(address, pool_config=pool, index=vectors) as upstream,  # type: ignore[arg-type] # a dict of that form
                HybridMemoryManager(settings, embedder={"embed": embedder, "dims": DIMENSIONS}) as manager,
            ):
                await upstream.setup()
                floor = await stack.enter_async_context(floor_in(targets.administration, embedder.nth))
                await _fill(upstream)
                await _fill(manager.store)
                assert await manager.flush(300)
                for owners in (CALLERS, 1):
                    await _puts(benchmark, upstream, floor, manager, owners)
                for callers in (CALLERS, 1):
                    await _gets(benchmark, upstream, manager.store, callers)
                await _searches(benchmark, embedder, upstream, manager.store)


async def _fill(store: BaseStore) -> None:
    for start in range(0, ITEMS, CHUNK):
        await store.abatch([_put(FILLED, place) for place in range(start, start + CHUNK)])


def _put(namespace: tuple[str, ...], place: int) -> PutOp:
    return PutOp(namespace, str(place), {"text": str(place)}, ["text"])


async def _puts(
    benchmark: Benchmark,
    upstream: BaseStore,
    floor: Floor,
    manager: HybridMemoryManager,
    owners: int,
) -> None:
    numbers = count(ITEMS)

    async def put(store: BaseStore, caller: int) -> None:
        number = next(numbers)
        await store.aput(("memories", f"user {caller % owners}"), str(number), {"text": str(number)}, ["text"])

    async def upstream_put(caller: int) -> None:
        await put(upstream, caller)

    async def own_put(caller: int) -> None:
        await put(manager.store, caller)

    async def flushed() -> None:
        await _at_once(own_put, PUTS)
        assert await manager.flush(60)

    await benchmark.compare(
        f"{CALLERS} callers put one item after another, {owners} owner{'s' if owners > 1 else ''}, with vectors",
        [
            Contender("AsyncPostgresStore", lambda: _at_once(upstream_put, PUTS), CALLERS * PUTS),
            floor.items_with_vectors(CALLERS, PUTS, owners),
            Contender("hybrid-memory, until flush() returns", flushed, CALLERS * PUTS),
            Contender("hybrid-memory, put", lambda: _at_once(own_put, PUTS), CALLERS * PUTS),
        ],
    )
    assert await manager.flush(60)


async def _gets(benchmark: Benchmark, upstream: BaseStore, own: BaseStore, callers: int) -> None:
    rng = random.Random(7)

    async def upstream_get(_: int) -> None:
        assert await upstream.aget(FILLED, str(rng.randrange(ITEMS))) is not None

    async def own_get(_: int) -> None:
        assert await own.aget(FILLED, str(rng.randrange(ITEMS))) is not None

    await own.asearch(FILLED, limit=1)
    await benchmark.compare(
        f"{callers} caller{'s' if callers > 1 else ''} get one of {ITEMS} items after another",
        [
            Contender("AsyncPostgresStore", lambda: _at_once(upstream_get, GETS, callers), callers * GETS),
            Contender("hybrid-memory, owner loaded", lambda: _at_once(own_get, GETS, callers), callers * GETS),
        ],
    )


async def _searches(benchmark: Benchmark, embedder: ReadyVectors, upstream: BaseStore, own: BaseStore) -> None:
    rng = random.Random(7)
    answers: dict[str, list[tuple[str, set[str]]]] = {"AsyncPostgresStore": [], "hybrid-memory": []}

    async def search(store: BaseStore, name: str) -> None:
        for _ in range(SEARCHES):
            question = str(rng.randrange(ITEMS, 2 * ITEMS))
            items = await store.asearch(FILLED, query=question, limit=WANTED)
            answers[name].append((question, {item.key for item in items}))

    await benchmark.compare(
        f"the {WANTED} nearest of {ITEMS} items",
        [
            Contender("AsyncPostgresStore", lambda: search(upstream, "AsyncPostgresStore"), SEARCHES),
            Contender("hybrid-memory", lambda: search(own, "hybrid-memory"), SEARCHES),
        ],
    )
    for name, told in answers.items():
        found = sum(len(keys & embedder.nearest(question)) for question, keys in told)
        print(f"found of the {WANTED} nearest: {name} {found / (WANTED * len(told)):.3f}")


async def _at_once(work: Callable[[int], Awaitable[None]], times: int, callers: int = CALLERS) -> None:
    async def caller(number: int) -> None:
        for _ in range(times):
            await work(number)

    await asyncio.gather(*(caller(number) for number in range(callers)))
