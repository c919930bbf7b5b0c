"""A question to one user's memory, warm: the manager against LangGraph's store, same server, same vectors."""

import random
import tempfile
from collections.abc import Sequence

import numpy as np
from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig

from hybrid_memory import HybridMemoryManager
from hybrid_memory.postgres.target import Targets
from tests.benchmarks.runner import Benchmark, Contender
from tests.benchmarks.writers import address_of
from tests.support.managers import settings_for
from tests.support.servers import running_server

SIZES = (2_000, 10_000, 50_000)
DIMENSIONS = 384
TOPICS = 200
VOCABULARY = 5_000
WORDS = 12
CHUNK = 500
QUESTIONS = 20
WANTED = 10
NAMESPACE = ("memories", "nick")


class ReadyVectors(Embeddings):
    """The vector of a text that begins with a number is the one of that number: near a topic, as texts are."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(7)
        topics = rng.standard_normal((TOPICS, DIMENSIONS))
        near = topics[rng.integers(0, TOPICS, count)] + 0.7 * rng.standard_normal((count, DIMENSIONS))
        self.vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        vector: list[float] = self.vectors[int(text.split(maxsplit=1)[0])].tolist()
        return vector

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)


def texts(count: int) -> list[str]:
    """Words as they occur: few often, many seldom."""
    rng = np.random.default_rng(11)
    shares = 1 / np.arange(1, VOCABULARY + 1)
    chosen = rng.choice(VOCABULARY, size=(count, WORDS), p=shares / shares.sum())
    return [f"{place} {' '.join(f'word{number}' for number in row)}" for place, row in enumerate(chosen.tolist())]


async def run(benchmark: Benchmark) -> None:
    """On a server with its ordinary, durable settings."""
    with running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server:
        for size in SIZES:
            async with server.migrated_database() as targets:
                await _measure(benchmark, targets, size)


async def _measure(benchmark: Benchmark, targets: Targets, size: int) -> None:
    said, ready = texts(size + QUESTIONS), ReadyVectors(size + QUESTIONS)
    index = PostgresIndexConfig(dims=DIMENSIONS, embed=ready, fields=["text"])
    with tempfile.TemporaryDirectory(prefix="hm-") as directory:
        settings = settings_for(targets, data_dir=directory, max_staleness_seconds=3600)
        async with (
            AsyncPostgresStore.from_conn_string(address_of(targets.administration), index=index) as theirs,
            HybridMemoryManager(settings, embedder={"embed": ready, "dims": DIMENSIONS}) as ours,
        ):
            await theirs.setup()
            for start in range(0, size, CHUNK):
                chunk = range(start, min(start + CHUNK, size))
                await theirs.abatch([PutOp(NAMESPACE, str(place), {"text": said[place]}) for place in chunk])
                await ours.store_many("nick", [{"content": said[place]} for place in chunk])
            if not await ours.flush(timeout=3600):
                raise RuntimeError("the vectors are not there")
            questions = said[size:]
            benchmark.say(f"{size} memories: nearest found {await _found(ours, ready, questions, size):.2f}")
            asked = random.Random(3)

            async def recalled() -> None:
                await ours.recall("nick", asked.choice(questions), limit=WANTED)

            async def searched() -> None:
                await theirs.asearch(NAMESPACE, query=asked.choice(questions), limit=WANTED)

            await benchmark.compare(
                f"one question to {size} memories",
                [Contender("AsyncPostgresStore.asearch", searched), Contender("manager.recall", recalled)],
            )


async def _found(ours: HybridMemoryManager, ready: ReadyVectors, questions: Sequence[str], size: int) -> float:
    """The share of the nearest vectors in truth that the comparison of vectors puts first.

    What is given in the end is in another order where two are as near and one was changed later.
    """
    shares = []
    for question in questions:
        vector = np.asarray(ready.embed_query(question), np.float32)
        wanted = {str(place) for place in np.argsort(-(ready.vectors[:size] @ vector))[:WANTED].tolist()}
        hits = await ours.recall("nick", vector=vector.tolist(), limit=2 * WANTED, explain=True)
        nearest = (hit for hit in hits if hit.explanation and hit.explanation.arms["vector"].rank <= WANTED)
        shares.append(len(wanted & {str(hit.node.text).split(maxsplit=1)[0] for hit in nearest}) / WANTED)
    return sum(shares) / len(shares)
