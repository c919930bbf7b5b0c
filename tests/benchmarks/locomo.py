"""How much of the evidence for questions about long conversations is found, by which way of finding.

The weights are the defaults. They were chosen on other conversations or, with `locomo_held_out`, are chosen on all
conversations of the file but the one that is asked about.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain

from langgraph.store.base import PutOp
from langgraph.store.postgres.aio import AsyncPostgresStore

from hybrid_memory.postgres.target import Target
from hybrid_memory.recall.fusion import Weights
from hybrid_memory.recall.lexical import Lending
from tests.benchmarks.recall import measures
from tests.benchmarks.recall.conversations import Conversation, read
from tests.benchmarks.recall.measures import PAGES, Answer
from tests.benchmarks.recall.minilm import DIMENSIONS, Vectors
from tests.benchmarks.recall.subjects import Subject, remembered
from tests.benchmarks.recall.tuning import held_out
from tests.benchmarks.runner import Benchmark
from tests.benchmarks.writers import address_of

_ALONE = Lending(before=0, after=0, second_after=0, answer=0)
_OFF: dict[str, Callable[[Weights], Weights]] = {
    "words": lambda w: replace(w, words=0.0),
    "conversation": lambda w: replace(
        w, session=0.0, speaker=0.0, saying=0.0, asking=0.0, crowd=0.0, neighbour=0.0, lending=_ALONE
    ),
    "time": lambda w: replace(w, time=0.0),
    "graph": lambda w: replace(w, graph=0.0),
}
_RRF_CONSTANT = 60


async def run(benchmark: Benchmark) -> None:
    """For each file."""
    for file in benchmark.files:
        conversations = read(file)
        vectors = _vectors(benchmark, conversations)
        async with remembered(conversations, vectors) as (subjects, target):
            variants = _variants(subjects, with_vectors=vectors is not None)
            if vectors is not None:
                variants["AsyncPostgresStore, same vectors"] = await _stored(target, subjects, vectors)
            benchmark.show(measures.table_of(f"{file.name}: {len(subjects)} conversations", variants))
            benchmark.show(measures.table_by_category(variants))


async def run_held_out(benchmark: Benchmark) -> None:
    """For each file: every conversation with weights chosen on the others, beginning with round numbers."""
    for file in benchmark.files:
        conversations = read(file)
        vectors = _vectors(benchmark, conversations)
        async with remembered(conversations, vectors) as (subjects, _):
            variants = held_out(subjects, with_vectors=vectors is not None, say=benchmark.say)
            benchmark.show(measures.table_of(f"{file.name}, leave one conversation out", variants))
            benchmark.show(measures.table_by_category(variants))


def _vectors(benchmark: Benchmark, conversations: list[Conversation]) -> Vectors | None:
    try:
        vectors = Vectors()
        for one in conversations:
            vectors.of([asked.text for asked in one.questions])
            vectors.of([f"{turn.name}: {turn.content}" for turn in one.turns])
    except ImportError:
        benchmark.say("sentence-transformers is not installed: without MiniLM\n")
        return None
    return vectors


def _variants(subjects: list[Subject], *, with_vectors: bool) -> dict[str, list[Answer]]:
    def answers(*arms: str) -> list[Answer]:
        return _answers(subjects, arms, vectors="vector" in arms)

    arms = ("words", "vector", "conversation", "time") if with_vectors else ("words", "conversation", "time")
    variants = {"words alone (BM25)": answers("words")}
    if with_vectors:
        variants["vector alone (MiniLM)"] = answers("vector")
        variants["words, vector by RRF"] = _by_ranks(variants["words alone (BM25)"], variants["vector alone (MiniLM)"])
    variants["time alone"] = answers("time")
    for place, one in enumerate(arms):
        for other in arms[place + 1 :]:
            variants[f"{one}, {other}"] = answers(one, other)
    if with_vectors:
        for arm in arms:
            variants[f"all but {arm}"] = answers(*(one for one in arms if one != arm))
        variants["whole, without an embedder"] = answers("words", "conversation", "time", "graph")
    variants["whole without the graph"] = answers(*arms)
    variants["whole"] = answers(*arms, "graph")
    return variants


def _answers(subjects: list[Subject], arms: tuple[str, ...], *, vectors: bool) -> list[Answer]:
    weights = Weights()
    for arm, off in _OFF.items():
        weights = weights if arm in arms else off(weights)
    return list(chain.from_iterable(one.answers(weights, vectors=vectors) for one in subjects))


def _by_ranks(*lists: list[Answer]) -> list[Answer]:
    """Reciprocal rank fusion, as most do it."""
    fused = []
    for answers in zip(*lists, strict=True):
        scores: dict[str, float] = {}
        for answer in answers:
            for rank, one in enumerate(answer.found, 1):
                scores[one] = scores.get(one, 0.0) + 1 / (_RRF_CONSTANT + rank)
        found = sorted(scores, key=lambda one: (-scores[one], one))
        fused.append(Answer(answers[0].category, found, answers[0].evidence))
    return fused


async def _stored(target: Target, subjects: list[Subject], vectors: Vectors) -> list[Answer]:
    """What LangGraph's own store finds with the same vectors."""

    def embed(texts: list[str]) -> list[list[float]]:
        return [row.tolist() for row in vectors.of(texts)]

    found: list[Answer] = []
    index = {"dims": DIMENSIONS, "embed": embed, "fields": ["text"]}
    async with AsyncPostgresStore.from_conn_string(address_of(target), index=index) as store:  # type: ignore[arg-type]  # a plain dict is what it takes
        await store.setup()
        for subject in subjects:
            place = ("turns", subject.conversation.name)
            said = {turn.message_id: f"{turn.name}: {turn.content}" for turn in subject.conversation.turns}
            await store.abatch([PutOp(place, key, {"text": text}) for key, text in said.items()])
            for one in subject.conversation.questions:
                items = await store.asearch(place, query=one.text, limit=max(PAGES))
                found.append(Answer(one.category, [item.key for item in items], one.evidence))
    return found
