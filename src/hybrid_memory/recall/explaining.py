"""Why a memory was found, for people and for programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from hybrid_memory.models import ArmScore, Explanation, MemoryNode
from hybrid_memory.recall.corpus import Corpus
from hybrid_memory.recall.fusion import Arms
from hybrid_memory.recall.moments import Span
from hybrid_memory.recall.relevance import vitality
from hybrid_memory.recall.walk import Reached

_LEAST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Explainer:
    """What is known of one search when its hits are told about."""

    corpus: Corpus
    arms: Arms
    terms: list[str]
    spans: list[Span]
    reached: Mapping[str, Reached]
    timings_ms: Mapping[str, float]
    now_hours: float

    def of(self, slot: int, node: MemoryNode) -> Explanation:
        """Why this one."""
        columns, holds = self.corpus.columns, self.corpus.terms_of(slot)
        there = columns.there[: columns.used]
        matched = tuple(term for term in self.terms if term in holds)
        window = self._window(slot)
        reached = self.reached.get(node.node_id)
        reasons = {
            "words": f"says {', '.join(matched)}" if matched else "its neighbours say the words",
            "vector": "means something near",
            "graph": f"{len(reached.path) - 1} steps from what is named" if reached else "speaks of what is connected",
            "time": f"{window[0]:%Y-%m-%d} until {window[1]:%Y-%m-%d}" if window else "told later",
            "session": "its session is about it" if columns.turn[slot] else "is a session of its own",
            "speaker": "said by whom the question names",
            "saying": "says enough",
            "asking": "asks itself",
        }
        arms = {
            name: ArmScore(
                rank=1 + int(np.count_nonzero((arm.scores > arm.scores[slot]) & there)),
                score=float(arm.scores[slot]),
                weight=arm.weight,
                reason=reasons[name],
            )
            for name, arm in self.arms.items()
            if arm.scores[slot] > _LEAST
        }
        return Explanation(
            arms=arms,
            matched=matched,
            path=reached.path if reached else (),
            window=window,
            vitality=float(vitality(columns, np.array([slot], np.intp), self.now_hours)[0]),
            timings_ms=self.timings_ms,
        )

    def _window(self, slot: int) -> tuple[datetime, datetime] | None:
        at = self.corpus.columns.at[slot]
        return next((span.moments() for span in self.spans if span.first_day <= at < span.end_day), None)
