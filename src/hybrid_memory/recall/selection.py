"""From scores to a page: what is admitted, in one order, and not the same thing again and again."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_memory.graph.largest import about_nth_largest, nth_largest
from hybrid_memory.recall.columns import Floats, Slots
from hybrid_memory.recall.copies import say_the_same
from hybrid_memory.recall.corpus import Corpus
from hybrid_memory.recall.fusion import Weights

# So many more than wanted are looked at, for those that are taken back.
_SPARE = 16

Admitted = Callable[[int], bool] | None
# What the best are sorted by: score, then what changed last, then the place among all, where ids decide of equals; and
# the memory's slot.
Ranked = tuple[float, float, int, int]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well memories fit.

    Attributes:
        most: how well each does at most, by slot; below 0 what does not.
        least_share: what is left of that at least.
        of: how well some do.
    """

    most: Floats
    least_share: float
    of: Callable[[Slots], Floats]

    def best(self, size: int) -> tuple[Slots, Floats]:
        """So many of the best, and those that are as good as the last of them; and how well they fit."""
        enough = max(0.0, about_nth_largest(self.most, min(size, len(self.most)))) * self.least_share
        slots = np.flatnonzero(self.most >= enough)
        scores = self.of(slots)
        if size < len(slots):
            among = scores >= nth_largest(scores, size)
            slots, scores = slots[among], scores[among]
        return slots, scores


def looked_at(limit: int) -> int:
    """How many of the best are looked at for so many hits, near-copies and faded ones among them."""
    return 2 * limit + _SPARE


def best(corpus: Corpus, fit: Fit, wanted: int, admitted: Admitted) -> tuple[list[Ranked], float]:
    """Enough of the best that are admitted, the best first; and how well the best of all fits, admitted or not."""
    enough = looked_at(wanted)
    size = enough
    while True:
        slots, scores = fit.best(size)
        highest, found = float(scores.max(initial=0.0)), len(slots)
        if admitted is not None:
            kept = [place for place, slot in enumerate(slots.tolist()) if admitted(slot)]
            slots, scores = slots[kept], scores[kept]
        if len(slots) >= enough or found < size:
            return _ranked(corpus, slots, scores, enough), highest
        size *= 4


def _ranked(corpus: Corpus, slots: Slots, scores: Floats, most: int) -> list[Ranked]:
    falling, ages = -scores, -corpus.columns.updated[slots]
    order = np.lexsort((ages, falling))
    falling, ages = falling[order], ages[order]
    tied = (falling[1:] == falling[:-1]) & (ages[1:] == ages[:-1])
    if tied[:most].any():
        # Many may fit equally well: ids are looked up of those alone that may come into it.
        may_come = most + int(np.argmin([*tied[most - 1 :], False]))
        ids = np.array([corpus.node_at(slot).node_id for slot in slots[order[:may_come]].tolist()])
        order = order[np.lexsort((ids, ages[:may_come], falling[:may_come]))]
    # What was tied has changed places only with its like.
    first = falling[:most].tolist(), ages[:most].tolist()
    return list(zip(*first, range(most), slots[order[:most]].tolist(), strict=False))


def page(corpus: Corpus, best_first: Sequence[Ranked], wanted: int, weights: Weights) -> list[tuple[int, float]]:
    """The first ones, each taken back for what it repeats of those before it."""
    session = corpus.columns.session
    first = [slot for _, _, _, slot in best_first[:wanted]]
    marks = [word for slot in first for word in corpus.marks_of(slot)]
    if len(set(marks)) == len(marks) and not session[first].any():
        # Nothing is repeated, and nothing comes from a session: most pages of facts.
        return [(slot, max(0.0, -falling)) for falling, _, _, slot in best_first[:wanted]]
    chosen: list[tuple[int, float]] = []
    said, crowd = _Said(corpus), defaultdict[int, int](int)
    compared: dict[int, int] = {}
    repeating: set[int] = set()
    waiting = list(best_first)
    while waiting and len(chosen) < wanted:
        falling, age, place, slot = heapq.heappop(waiting)
        if weights.copy < 1 and slot not in repeating and said.repeats(slot, since=compared.get(slot, 0)):
            repeating.add(slot)
        compared[slot] = len(chosen)
        of_session = int(session[slot])
        score = -best_first[place][0] - weights.crowd * crowd[of_session]
        score *= weights.copy if slot in repeating else 1.0
        if score < -falling:
            heapq.heappush(waiting, (-score, age, place, slot))
            continue
        chosen.append((slot, max(0.0, score)))
        said.add(slot)
        if of_session:
            crowd[of_session] += 1
    return chosen


class _Said:
    """What is on the page, by the words by which it is met again: only what shares one of those is compared."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._slots: list[int] = []
        self._places: dict[int, list[int]] = {}

    def add(self, slot: int) -> None:
        """A memory takes the next place."""
        for word in self._corpus.marks_of(slot):
            self._places.setdefault(word, []).append(len(self._slots))
        self._slots.append(slot)

    def repeats(self, slot: int, *, since: int) -> bool:
        """Whether a memory says the same as one at that place or behind it."""
        terms_of = self._corpus.terms_of
        for word in self._corpus.marks_of(slot):
            for place in self._places.get(word, ()):
                if place >= since and say_the_same(terms_of(slot), terms_of(self._slots[place])):
                    return True
        return False
