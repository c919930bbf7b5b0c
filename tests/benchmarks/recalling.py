"""A question to one user's memory, warm: the manager against LangGraph's store, same server, same vectors."""

import random
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from statistics import fmean

import numpy as np
from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig
from psycopg import AsyncConnection

from hybrid_memory import HybridMemoryManager
from hybrid_memory.postgres.target import Targets
from tests.benchmarks.runner import Benchmark, Contender
from tests.benchmarks.writers import address_of
from tests.support.managers import settings_for
from tests.support.servers import running_server

SIZES = (2_000, 10_000, 50_000)
# One among others, as users are: in the same tables, of the same two stores.
AMONG = 10_000
OTHERS = 20
OF_EACH_OTHER = 1_000
DIMENSIONS = 384
TOPICS = 200
VOCABULARY = 5_000
WORDS = 12
CHUNK = 500
QUESTIONS = 20
# Who is asked one question after the other finds in the processor's caches what the one before has left there; who is
# asked in turn with another server finds what that one has left.
IN_A_ROW = 50
WANTED = 10
USER = "nick"


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

    def nearest(self, text: str, size: int) -> set[str]:
        """The numbers of those of the first texts that are nearest in truth."""
        cosines = self.vectors[:size] @ np.asarray(self.embed_query(text), np.float32)
        return {str(place) for place in np.argsort(-cosines)[:WANTED].tolist()}

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
                await _measure(benchmark, targets, {USER: range(size)}, f"{size} memories")
        async with server.migrated_database() as targets:
            first = AMONG + QUESTIONS
            users = {USER: range(AMONG)}
            for number in range(OTHERS):
                users[f"other {number}"] = range(first + number * OF_EACH_OTHER, first + (number + 1) * OF_EACH_OTHER)
            await _measure(
                benchmark, targets, users, f"{AMONG} memories among {OTHERS} users with {OF_EACH_OTHER} each"
            )


async def _measure(benchmark: Benchmark, targets: Targets, users: Mapping[str, range], of_what: str) -> None:
    """`users` have the texts of these numbers; those that follow the numbers of the one who is asked are questions."""
    size, everything = len(users[USER]), QUESTIONS + sum(map(len, users.values()))
    said, ready = texts(everything), ReadyVectors(everything)
    index = PostgresIndexConfig(dims=DIMENSIONS, embed=ready, fields=["text"])
    with tempfile.TemporaryDirectory(prefix="hm-") as directory:
        settings = settings_for(targets, data_dir=directory, max_staleness_seconds=3600)
        async with (
            AsyncPostgresStore.from_conn_string(address_of(targets.administration), index=index) as theirs,
            HybridMemoryManager(settings, embedder={"embed": ready, "dims": DIMENSIONS}) as ours,
        ):
            await theirs.setup()
            for user_id, numbers in users.items():
                await _fill(theirs, ours, user_id, {str(one): said[one] for one in numbers})
            if not await ours.flush(timeout=3600):
                raise RuntimeError("the vectors are not there")
            questions = said[size : size + QUESTIONS]
            nearest = [ready.nearest(question, size) for question in questions]
            benchmark.say(
                f"{of_what}, nearest found: manager.recall {await _found(ours, ready, questions, nearest):.3f}"
            )
            benchmark.say(await _found_by_store(theirs, questions, nearest))
            asked = random.Random(3)

            async def recalled() -> None:
                await ours.recall(USER, asked.choice(questions), limit=WANTED)

            async def searched() -> None:
                await theirs.asearch(_place(USER), query=asked.choice(questions), limit=WANTED)

            # Near one of those that are there, and not the same.
            news = (f"{number % size} said anew {number}" for number in count())

            async def told() -> None:
                await ours.store_many(USER, [{"content": next(news)}])
                if not await ours.flush(timeout=60):
                    raise RuntimeError("the vector is not there")

            async def put() -> None:
                said_now = next(news)
                await theirs.aput(_place(USER), said_now, {"text": said_now})

            questioned = [Contender("AsyncPostgresStore.asearch", searched), Contender("manager.recall", recalled)]
            await benchmark.compare(
                f"warm: one of {IN_A_ROW} questions in a row to {of_what}", questioned, in_a_row=IN_A_ROW
            )
            await benchmark.compare(f"cold: one question in turn with the other to {of_what}", questioned)
            await benchmark.compare(
                f"the first question after a write to {of_what}",
                [
                    Contender("AsyncPostgresStore.asearch", searched, before=put),
                    Contender("manager.recall", recalled, before=told),
                ],
            )


async def _fill(theirs: AsyncPostgresStore, ours: HybridMemoryManager, user_id: str, said: Mapping[str, str]) -> None:
    keys = list(said)
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        await theirs.abatch([PutOp(_place(user_id), key, {"text": said[key]}) for key in chunk])
        await ours.store_many(user_id, [{"content": said[key]} for key in chunk])


async def _found(
    ours: HybridMemoryManager, ready: ReadyVectors, questions: Sequence[str], nearest: Sequence[set[str]]
) -> float:
    """The share of the nearest vectors in truth that the comparison of vectors puts first.

    What is given in the end is in another order where two are as near and one was changed later.
    """
    shares = []
    for question, wanted in zip(questions, nearest, strict=True):
        hits = await ours.recall(USER, vector=ready.embed_query(question), limit=2 * WANTED, explain=True)
        first = (hit for hit in hits if hit.explanation and hit.explanation.arms["vector"].rank <= WANTED)
        shares.append(len(wanted & {str(hit.node.text).split(maxsplit=1)[0] for hit in first}) / WANTED)
    return fmean(shares)


async def _found_by_store(theirs: AsyncPostgresStore, questions: Sequence[str], nearest: Sequence[set[str]]) -> str:
    """The same of what the store gives, and for how many questions it went by its index of vectors."""
    shares, before = [], await _index_scans(theirs)
    for question, wanted in zip(questions, nearest, strict=True):
        items = await theirs.asearch(_place(USER), query=question, limit=WANTED)
        shares.append(len(wanted & {item.key for item in items}) / WANTED)
    by_index = await _index_scans(theirs) - before
    return f"AsyncPostgresStore.asearch {fmean(shares):.3f}, by its index for {by_index} of {len(questions)} questions"


async def _index_scans(theirs: AsyncPostgresStore) -> int:
    assert isinstance(theirs.conn, AsyncConnection)
    await theirs.conn.execute("SELECT pg_stat_force_next_flush()")
    scans = await theirs.conn.execute(
        "SELECT idx_scan AS scans FROM pg_stat_user_indexes WHERE indexrelname = 'store_vectors_embedding_idx'"
    )
    row = await scans.fetchone()
    assert row is not None
    return int(row["scans"])


def _place(user_id: str) -> tuple[str, ...]:
    return ("memories", user_id)
