"""How long finding takes in a memory that is loaded, small and large, against LangGraph's own store with vectors."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate, count, cycle

import numpy as np
from langgraph.store.base import PutOp
from langgraph.store.postgres.aio import AsyncPostgresStore

from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.question import Question, Similarities
from tests.benchmarks.recall.minilm import DIMENSIONS
from tests.benchmarks.runner import Benchmark, Contender
from tests.benchmarks.writers import address_of
from tests.support.servers import running_server

SIZES = (2_000, 10_000, 50_000)
# To fill the store with more takes minutes.
_LARGEST_STORED = 10_000
_WORDS = [f"{first}{second}{third}" for first in "bdfgklmnprst" for second in "aeiou" for third in "bdfgklmnprstvwxz"]
_COMMON = list(accumulate(1 / (3 + rank) for rank in range(len(_WORDS) * 20)))
_TURNS_OF_A_THREAD = 40
_QUESTIONS = 50
_PUT_AT_ONCE = 500
_BEGAN = datetime(2023, 1, 1, tzinfo=UTC)


async def run(benchmark: Benchmark) -> None:
    """On one server for all sizes."""
    rng = random.Random(1)
    with running_server(18) as server:
        async with server.migrated_database() as targets:
            index = {"dims": DIMENSIONS, "embed": _embedded, "fields": ["text"]}
            store_at = AsyncPostgresStore.from_conn_string(address_of(targets.administration), index=index)  # type: ignore[arg-type]  # a plain dict is what it takes
            async with store_at as store:
                await store.setup()
                for size in SIZES:
                    await _measure(benchmark, store, rng, size)


async def _measure(benchmark: Benchmark, store: AsyncPostgresStore, rng: random.Random, size: int) -> None:
    turns = [_turn(number, _text(rng)) for number in range(size)]
    graph = UserGraph("reader")
    graph.apply(Delta(incarnation="one", version=1, nodes=turns, complete=True))
    memory = UserMemory(graph)
    ids = tuple(turn.node_id for turn in turns)
    vectors = _vectors([turn.content["content"] for turn in turns])
    asked = cycle(
        [" ".join(rng.choices(turn.content["content"].split(), k=6)) for turn in rng.sample(turns, _QUESTIONS)]
    )
    numbers = count(size)

    async def by_words() -> None:
        memory.ranked(Question(text=next(asked)))

    async def by_all() -> None:
        text = next(asked)
        memory.ranked(Question(text=text, similarities=Similarities(ids, np.vecdot(vectors, _vectors([text])[0]))))

    async def after_a_write() -> None:
        number, version = next(numbers), graph.version
        graph.apply(Delta(incarnation="one", version=version + 1, since=version, nodes=[_turn(number, _text(rng))]))
        memory.ranked(Question(text=next(asked)))

    contenders = [
        Contender("words, time, conversation", by_words),
        Contender("the same and vectors, exact", by_all),
        Contender("the first after a write, the write included", after_a_write),
    ]
    if size <= _LARGEST_STORED:
        place = ("turns", str(size))
        for begin in range(0, size, _PUT_AT_ONCE):
            await store.abatch(
                [
                    PutOp(place, turn.node_id, {"text": turn.content["content"]})
                    for turn in turns[begin : begin + _PUT_AT_ONCE]
                ]
            )

        async def by_store() -> None:
            await store.asearch(place, query=next(asked))

        contenders.insert(0, Contender("AsyncPostgresStore.asearch", by_store))
    await benchmark.compare(f"one question to a user with {size} memories", contenders)


def _turn(number: int, text: str) -> MemoryNode:
    at = _BEGAN + timedelta(minutes=7 * number)
    thread, seq = divmod(number, _TURNS_OF_A_THREAD)
    said = {"role": "user", "name": ("Ann", "Bob")[number % 2], "content": text, "at": at.isoformat()}
    return MemoryNode(user_id="reader", node_id=f"turn {number}", context_type="conversation_message", content=said,
                      thread_id=f"thread {thread}", seq=seq, version=1, created_at=at, updated_at=at)  # fmt: skip


def _text(rng: random.Random) -> str:
    """Words as rare and as common as in a language."""
    ranks = rng.choices(range(len(_COMMON)), cum_weights=_COMMON, k=rng.randint(5, 40))
    return " ".join(f"{_WORDS[rank % len(_WORDS)]}{_WORDS[rank // len(_WORDS)]}" for rank in ranks)


def _vectors(texts: Sequence[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Of no meaning; the same for the same text."""
    rows = [np.random.default_rng(abs(hash(text))).standard_normal(DIMENSIONS, np.float32) for text in texts]
    return np.array([row / np.linalg.norm(row) for row in rows])


def _embedded(texts: Sequence[str]) -> list[list[float]]:
    return [row.tolist() for row in _vectors(texts)]
