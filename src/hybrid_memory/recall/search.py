"""One search: its arms, one after the other, and what comes of them."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import RecallHit
from hybrid_memory.recall.arms import time_scores, vector_scores
from hybrid_memory.recall.columns import Columns, Flags, Floats, Slots
from hybrid_memory.recall.corpus import Corpus, distinct, hours
from hybrid_memory.recall.explaining import Explainer
from hybrid_memory.recall.fusion import Arm, Arms, Whatever, add, normalised, of_conversation, of_itself, total
from hybrid_memory.recall.graph_arm import GraphArm
from hybrid_memory.recall.language import plain_words
from hybrid_memory.recall.lexical import Bm25
from hybrid_memory.recall.moments import Span, may_name_times, spans
from hybrid_memory.recall.question import Question
from hybrid_memory.recall.relevance import LEAST_VITALITY, vitality
from hybrid_memory.recall.selection import Fit, best, page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hybrid_memory.recall.walk import Reached

_MOST_YEARS = 50
# How sure a search is that has only a time to go by.
_SURE_OF_TIME = 0.5
_DAYS_OF_YEAR = 365.25
_NOT_FOUND = -1.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What one user's memories are searched with, question after question."""

    corpus: Corpus
    graph: GraphArm
    bm25: Bm25
    whatever: Whatever


class Search:
    """A question put to a corpus that nobody changes meanwhile."""

    def __init__(self, kept: Kept, question: Question, now: datetime) -> None:
        weights = kept.whatever.weights
        self._corpus = kept.corpus
        self._graph = kept.graph
        self._bm25 = kept.bm25
        self._whatever = kept.whatever.added(kept.corpus.columns)
        self._weights = replace(weights, copy=1.0) if question.near_copies else weights
        self._question = question
        self._now = now
        self._text = question.text or ""
        self._words_said = plain_words(self._text)
        self._terms = distinct(kept.corpus.language.terms_of(self._words_said))
        self._arms: Arms = {}
        self._reached: Mapping[str, Reached] = {}
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
        admitted = None if self._question.filters.admit_all else self._admitted
        ranked, highest = best(self._corpus, fit, self._question.limit, admitted)
        chosen = page(self._corpus, ranked, self._question.limit, self._weights)
        self._took("selection", started)
        share = self._sure / highest if highest > 0 else 0.0
        found = [(slot, self._corpus.node_at(slot), min(1.0, score * share)) for slot, score in chosen]
        if not self._question.explain:
            return [RecallHit(node=node, score=score) for _, node, score in found]
        why = self._explainer().of
        return [RecallHit(node=node, score=score, explanation=why(slot, node)) for slot, node, score in found]

    def _near(self) -> bool:
        near = self._question.similarities
        return near is not None and len(near.cosines) > 0

    def _everything(self) -> Fit:
        """Without a question: what matters now."""
        columns = self._corpus.columns
        slots = np.flatnonzero(columns.there[: columns.used])
        scores = np.full(columns.used, _NOT_FOUND, np.float32)
        scores[slots] = vitality(columns, slots, hours(self._now))
        self._sure = float(scores.max(initial=0.0))
        return Fit(scores, 1.0, scores.__getitem__)

    def _fused(self, view: GraphView) -> Fit:
        corpus, w = self._corpus, self._weights
        columns = corpus.columns
        session, there = self._words(), self._vectors()
        matched = total(*self._arms.values())
        found: Flags = matched > 0
        if there is not None:
            found |= there
        further: Arms = {}
        if self._question.graph and w.graph:
            further |= self._connected(view, matched, found)
        further |= self._times(found)
        found &= columns.there[: columns.used]
        if not found.any():
            return Fit(np.full(len(found), _NOT_FOUND, np.float32), 1.0, matched.__getitem__)
        further |= of_conversation(columns, matched, session, corpus.speakers_named(self._words_said), w)
        self._arms |= further
        fit = add(further.values(), matched + self._whatever)
        np.maximum(fit, 0.0, out=fit)
        fit[~found] = _NOT_FOUND

        def faded(slots: Slots) -> Floats:
            alive = vitality(columns, slots, hours(self._now)).astype(np.float32)
            fits: Floats = fit[slots] * (1 - w.vitality + w.vitality * alive)
            return fits

        # How far everything has faded need not be known: to begin with, that nothing fades further counts.
        return Fit(fit, 1 - w.vitality + w.vitality * LEAST_VITALITY, faded)

    def _words(self) -> Floats | None:
        """The arm of the words; what sessions are about."""
        started = perf_counter()
        w = self._weights
        found = self._bm25.scores(self._corpus, self._terms)
        self._arms["words"] = Arm(normalised(found.own), w.words if self._near() else float(w.words > 0))
        self._sure = max(self._sure, found.covered)
        self._took("words", started)
        return found.session

    def _vectors(self) -> Flags | None:
        """The arm of the vectors; who has one."""
        near = self._question.similarities
        if near is None or not self._near():
            return None
        started = perf_counter()
        by_place = self._corpus.places.by_place(near.node_ids, near.cosines, self._corpus.slots)
        scores, there = vector_scores(self._corpus.columns, by_place, self._weights.neighbour)
        self._arms["vector"] = Arm(scores, self._weights.vector)
        self._sure = max(self._sure, min(1.0, float(near.cosines.max())))
        self._took("vector", started)
        return there

    def _connected(self, view: GraphView, matched: Floats, found: Flags) -> Arms:
        """The arm of the graph, where anything is connected."""
        started = perf_counter()
        scores, self._reached = self._graph.scores(self._corpus, view, self._text, matched)
        self._took("graph", started)
        if scores is None:
            return {}
        found |= scores > 0
        return {"graph": Arm(scores, self._weights.graph)}

    def _times(self, found: Flags) -> Arms:
        """The arm of the time asked for. It finds by itself where there is nothing else to go by."""
        started = perf_counter()
        arms: Arms = {}
        self._spans = self._asked_times() if self._weights.time else []
        if self._spans:
            scores = time_scores(self._corpus.columns, self._spans, self._weights.time_fades_days)
            arms["time"] = Arm(scores, self._weights.time)
            if not found.any():
                found |= scores >= 1.0
                self._sure = _SURE_OF_TIME
        self._took("time", started)
        return arms

    def _asked_times(self) -> list[Span]:
        columns = self._corpus.columns
        if not self._corpus.slots or not may_name_times(self._words_said):
            return []
        first, last = _years(columns)
        return spans(self._text, self._now.astimezone(UTC), range(max(first, last - _MOST_YEARS), last + 1))

    def _admitted(self, slot: int) -> bool:
        return self._question.filters.admit(self._corpus.node_at(slot), self._now)

    def _explainer(self) -> Explainer:
        columns = self._corpus.columns
        return Explainer(
            corpus=self._corpus,
            arms=self._arms | of_itself(columns, slice(columns.used), self._weights),
            terms=self._terms,
            spans=self._spans,
            reached=self._reached,
            timings_ms=self._timings,
            now_hours=hours(self._now),
        )

    def _took(self, part: str, started: float) -> None:
        self._timings[part] = (perf_counter() - started) * 1000


def _years(columns: Columns) -> tuple[int, int]:
    """From which year to which one what there is happened."""
    at = columns.at[: columns.used][columns.there[: columns.used]]
    return 1970 + int(at.min() / _DAYS_OF_YEAR), 1970 + int(at.max() / _DAYS_OF_YEAR)
