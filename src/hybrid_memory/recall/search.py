"""One search: its arms, one after the other, and what comes of them."""

from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import RecallHit
from hybrid_memory.recall.arms import time_scores, vector_scores
from hybrid_memory.recall.columns import NOBODY, Flags, Floats, Slots
from hybrid_memory.recall.corpus import Corpus, distinct, hours, occupied
from hybrid_memory.recall.explaining import Explainer
from hybrid_memory.recall.fusion import Arm, Weights, normalised, of_conversation, total
from hybrid_memory.recall.graph_arm import GraphArm
from hybrid_memory.recall.language import plain_words
from hybrid_memory.recall.lexical import Bm25
from hybrid_memory.recall.moments import Span, spans
from hybrid_memory.recall.question import EVERYTHING, Question
from hybrid_memory.recall.relevance import LEAST_VITALITY, vitality
from hybrid_memory.recall.selection import Fit, best, page

if TYPE_CHECKING:
    from hybrid_memory.recall.walk import Reached

_MOST_YEARS = 50
# How sure a search is that has only a time to go by.
_SURE_OF_TIME = 0.5
_DAYS_OF_YEAR = 365.25
# The arms that say by themselves what a question is about.
_MATCHED = frozenset({"words", "vector"})
_NOT_FOUND = -1.0


class Search:
    """A question put to a corpus that nobody changes meanwhile."""

    def __init__(self, corpus: Corpus, graph: GraphArm, weights: Weights, question: Question, now: datetime) -> None:
        self._corpus = corpus
        self._graph = graph
        self._weights = replace(weights, copy=1.0) if question.near_copies else weights
        self._question = question
        self._now = now
        self._text = question.text or ""
        self._terms = distinct(corpus.language.terms(self._text))
        self._arms: dict[str, Arm] = {}
        self._reached: dict[str, Reached] = {}
        self._spans: list[Span] = []
        self._sure = 0.0
        self._timings: dict[str, float] = {}

    def hits(self, view: GraphView) -> list[RecallHit]:
        """The best memories with their scores and, if asked for, their reasons."""
        started = perf_counter()
        fit = self._everything() if self._question.text is None and not self._near() else self._fused(view)
        arms = sum(self._timings.values())
        self._took("fusion", started)
        self._timings["fusion"] -= arms
        started = perf_counter()
        admitted = None if self._question.filters == EVERYTHING else self._admitted
        ranked, highest = best(self._corpus, fit, self._question.limit, admitted)
        chosen = page(self._corpus, ranked, self._question.limit, self._weights)
        self._took("selection", started)
        share = self._sure / highest if highest > 0 else 0.0
        return [self._hit(slot, min(1.0, score * share)) for slot, score in chosen]

    def _near(self) -> bool:
        near = self._question.similarities
        return near is not None and len(near.node_ids) > 0

    def _everything(self) -> Fit:
        """Without a question: what matters now."""
        slots = np.flatnonzero(self._corpus.while_unchanged(occupied))
        scores = np.full(self._corpus.columns.used, _NOT_FOUND)
        scores[slots] = vitality(self._corpus.columns, slots, hours(self._now))
        self._sure = float(scores.max(initial=0.0))
        return Fit(scores, 1.0, scores.__getitem__)

    def _fused(self, view: GraphView) -> Fit:
        corpus, w = self._corpus, self._weights
        nothing = np.zeros(corpus.columns.used)
        session = self._words()
        there = self._vectors()
        matched = total(self._arms.values(), nothing)
        found = (matched > 0) | there
        if self._question.graph and w.graph:
            started = perf_counter()
            scores, reached = self._graph.scores(corpus, view, self._text, matched)
            connected = scores > 0
            if connected.any():
                self._arms["graph"], self._reached = Arm(scores, w.graph), dict(reached)
                found |= connected
            self._took("graph", started)
        self._times(found)
        found &= corpus.while_unchanged(occupied)
        if not found.any():
            return Fit(np.full(len(found), _NOT_FOUND), 1.0, nothing.__getitem__)
        named = corpus.speakers_named(plain_words(self._text))
        further = {name: arm for name, arm in self._arms.items() if name not in _MATCHED}
        further |= of_conversation(corpus, matched, session, named, w)
        self._arms |= further
        fit = np.maximum(total(further.values(), matched), 0.0)

        def faded(slots: Slots) -> Floats:
            return fit[slots] * (1 - w.vitality + w.vitality * vitality(corpus.columns, slots, hours(self._now)))

        # How far everything has faded need not be known: to begin with, that nothing fades further counts.
        return Fit(np.where(found, fit, _NOT_FOUND), 1 - w.vitality + w.vitality * LEAST_VITALITY, faded)

    def _words(self) -> Floats:
        """The arm of the words; what sessions are about."""
        started = perf_counter()
        w = self._weights
        found = Bm25(w.saturation, w.length_share, w.lending).scores(self._corpus, self._terms)
        self._arms["words"] = Arm(normalised(found.own), w.words if self._near() else float(w.words > 0))
        self._sure = max(self._sure, found.covered)
        self._took("words", started)
        return found.session

    def _vectors(self) -> Flags:
        """The arm of the vectors; who has one."""
        near = self._question.similarities
        if near is None or not self._near():
            return np.zeros(self._corpus.columns.used, np.bool_)
        started = perf_counter()
        compared = self._corpus.compared(near.node_ids)
        scores = vector_scores(compared, near.cosines, self._weights.neighbour)
        self._arms["vector"] = Arm(scores, self._weights.vector)
        self._sure = max(self._sure, min(1.0, float(near.cosines.max())))
        self._took("vector", started)
        return compared.there

    def _times(self, found: Flags) -> None:
        """The arm of the time asked for. It finds by itself where there is nothing else to go by."""
        started = perf_counter()
        columns = self._corpus.columns
        if not self._weights.time or columns.used == NOBODY + 1:
            return
        first, last = self._corpus.while_unchanged(_years)
        self._spans = spans(self._text, self._now.astimezone(UTC), range(max(first, last - _MOST_YEARS), last + 1))
        if self._spans:
            scores = time_scores(columns, self._spans, self._weights.time_fades_days)
            self._arms["time"] = Arm(scores, self._weights.time)
            if not found.any():
                found |= scores >= 1.0
                self._sure = _SURE_OF_TIME
        self._took("time", started)

    def _admitted(self, slot: int) -> bool:
        return self._question.filters.admit(self._corpus.node_at(slot), self._now)

    def _hit(self, slot: int, score: float) -> RecallHit:
        node = self._corpus.node_at(slot)
        if not self._question.explain:
            return RecallHit(node=node, score=score)
        columns = self._corpus.columns
        explainer = Explainer(
            columns=columns,
            arms=self._arms,
            terms=self._terms,
            spans=self._spans,
            reached=self._reached,
            timings_ms=self._timings,
        )
        alive = float(vitality(columns, np.array([slot], np.intp), hours(self._now))[0])
        explanation = explainer.of(slot, node.node_id, self._corpus.terms_of(slot), alive)
        return RecallHit(node=node, score=score, explanation=explanation)

    def _took(self, part: str, started: float) -> None:
        self._timings[part] = (perf_counter() - started) * 1000


def _years(corpus: Corpus) -> tuple[int, int]:
    """From which year to which one what there is happened."""
    at = corpus.columns.at[NOBODY + 1 : corpus.columns.used]
    return 1970 + int(at.min() / _DAYS_OF_YEAR), 1970 + int(at.max() / _DAYS_OF_YEAR)
