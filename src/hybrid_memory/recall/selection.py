"""From scores to a page: what is admitted, in one order, and not the same thing again and again."""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hybrid_memory.recall.columns import Floats, Slots
from hybrid_memory.recall.corpus import Corpus
from hybrid_memory.recall.fusion import Weights

# So many more than wanted are looked at, for those that are taken back.
_SPARE = 16
# Memories that share so many of their words say the same.
_SAME = 0.9

Admitted = Callable[[int], bool] | None


def best(corpus: Corpus, scores: Floats, found: Slots, wanted: int, admitted: Admitted) -> list[int]:
    """Enough of the best that are admitted, the best first, of equals those that changed last."""
    enough = 2 * wanted + _SPARE
    size, values = enough, scores[found]
    while True:
        near = found
        if size < len(found):
            near = found[values >= np.partition(values, len(found) - size)[len(found) - size]]
        kept = near.tolist() if admitted is None else [slot for slot in near.tolist() if admitted(slot)]
        if len(kept) >= enough or size >= len(found):
            return sorted(kept, key=lambda slot: _order(corpus, float(scores[slot]), slot))[:enough]
        size *= 4


@dataclass(slots=True)
class _Waiting:
    """A memory on its way to the page, and how many of those on it were compared with it already."""

    slot: int
    compared: int = 0
    repeats: bool = False


def page(corpus: Corpus, scores: Floats, slots: list[int], wanted: int, weights: Weights) -> list[tuple[int, float]]:
    """The first ones, each taken back for what it repeats of those before it."""
    session = corpus.columns.session
    chosen: list[tuple[int, float]] = []
    crowd: Counter[int] = Counter()
    waiting = [(_order(corpus, float(scores[slot]), slot), _Waiting(slot)) for slot in slots]
    while waiting and len(chosen) < wanted:
        order, first = heapq.heappop(waiting)
        said_before = chosen[first.compared :] if weights.copy < 1 and not first.repeats else []
        first.repeats = first.repeats or any(_say_the_same(corpus, first.slot, other) for other, _ in said_before)
        first.compared = len(chosen)
        score = float(scores[first.slot]) - weights.crowd * crowd[int(session[first.slot])]
        score *= weights.copy if first.repeats else 1.0
        if score < -order[0]:
            heapq.heappush(waiting, (_order(corpus, score, first.slot), first))
            continue
        chosen.append((first.slot, max(0.0, score)))
        if session[first.slot]:
            crowd[int(session[first.slot])] += 1
    return chosen


def _order(corpus: Corpus, score: float, slot: int) -> tuple[float, float, str]:
    return -score, -float(corpus.columns.updated[slot]), corpus.node_at(slot).node_id


def _say_the_same(corpus: Corpus, slot: int, other: int) -> bool:
    one, two = corpus.terms_of(slot), corpus.terms_of(other)
    if len(one) < _SAME * len(two) or len(two) < _SAME * len(one):
        return False
    return len(one & two) >= _SAME * len(one | two) > 0
