"""Choosing weights on some conversations, to be tried on another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from hybrid_memory.recall.fusion import Weights
from hybrid_memory.recall.lexical import Lending
from tests.benchmarks.recall.measures import Answer, mean_recall
from tests.benchmarks.recall.subjects import Subject

# Round numbers as one would choose them without looking.
START = Weights(
    words=0.5, vector=0.5, graph=0.4, time=0.3, session=0.2, speaker=0.1, saying=0.1, full_turn=20, asking=0.0,
    crowd=0.0, neighbour=0.25, time_fades_days=5, saturation=1.2, length_share=0.5,
    lending=Lending(before=0.5, after=0.5, second_after=0.25, answer=0.0),
)  # fmt: skip
_CHOICES: dict[str, tuple[float, ...]] = {
    "words": (0.4, 0.5, 0.6),
    "time": (0.3, 0.6, 0.9),
    "session": (0.1, 0.2, 0.3, 0.4),
    "speaker": (0.1, 0.2, 0.3),
    "saying": (0.1, 0.2, 0.3, 0.4),
    "asking": (0.0, 0.05, 0.1),
    "crowd": (0.0, 0.01, 0.02, 0.03),
    "neighbour": (0.1, 0.25, 0.4),
    "time_fades_days": (2.5, 5.0, 10.0),
    "saturation": (0.8, 1.2, 1.6),
    "length_share": (0.3, 0.5, 0.7),
}
_LENDING_CHOICES: dict[str, tuple[float, ...]] = {
    "before": (0.2, 0.35, 0.5),
    "after": (0.35, 0.5, 0.65),
    "second_after": (0.15, 0.3, 0.5),
    "answer": (0.0, 0.25, 0.5),
}
_ROUNDS = 2
_MULTI_HOP = 1
# Questions that need several turns are few and hard.
_MULTI_HOP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class _Tried:
    weights: Weights
    value: float


def held_out(subjects: list[Subject], *, with_vectors: bool, say: Callable[[str], None]) -> dict[str, list[Answer]]:
    """Answers about each conversation with the weights that are best for the others."""
    modes = {"whole, without an embedder": False} | ({"whole": True} if with_vectors else {})
    variants: dict[str, list[Answer]] = {name: [] for name in modes}
    for subject in subjects:
        weights = chosen([one for one in subjects if one is not subject], with_vectors=with_vectors)
        say(f"{subject.conversation.name} is asked about with {weights}\n")
        for name, vectors in modes.items():
            variants[name] += subject.answers(weights, vectors=vectors)
    return variants


def chosen(subjects: list[Subject], *, with_vectors: bool) -> Weights:
    """One weight after the other, twice: the value that finds most, with and without an embedder."""
    best = _tried(subjects, START, with_vectors=with_vectors)
    for _ in range(_ROUNDS):
        for name in (*_CHOICES, *_LENDING_CHOICES):
            others = (_tried(subjects, one, with_vectors=with_vectors) for one in _alternatives(best.weights, name))
            best = max((best, *others), key=lambda one: one.value)
    return best.weights


def _alternatives(weights: Weights, name: str) -> Iterator[Weights]:
    for value in _LENDING_CHOICES.get(name, ()):
        if getattr(weights.lending, name) != value:
            yield replace(weights, lending=replace(weights.lending, **{name: value}))
    for value in _CHOICES.get(name, ()):
        if getattr(weights, name) != value:
            changed: dict[str, Any] = {"words": value, "vector": 1 - value} if name == "words" else {name: value}
            yield replace(weights, **changed)


def _tried(subjects: list[Subject], weights: Weights, *, with_vectors: bool) -> _Tried:
    value = 0.0
    for vectors in (False, True) if with_vectors else (False,):
        answers = list(chain.from_iterable(one.answers(weights, vectors=vectors) for one in subjects))
        value += mean_recall(answers) + _MULTI_HOP_SHARE * mean_recall(answers, _MULTI_HOP)
    return _Tried(weights, value)
