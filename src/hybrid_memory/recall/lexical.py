"""The words of a question in the memories of one user: BM25, what neighbours say, and what a session is about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_memory.recall.columns import NOBODY, Columns, Floats, Slots
from hybrid_memory.recall.corpus import Corpus

# What so many say tells next to nothing of their neighbours.
_MOST_LENDERS = 1000
_LEAST_ASKED = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Lending:
    """How much of a word's score the neighbours of a turn have too, if they do not say it themselves.

    What is said after a question is likely its answer, so it borrows more.
    """

    before: float
    after: float
    second_after: float
    answer: float


@dataclass(frozen=True, slots=True)
class WordScores:
    """BM25 of every memory, words lent by neighbours included; of the session each is from; how much is covered.

    `covered` is the share of the question that a memory says itself, rare words counting more.
    """

    own: Floats
    session: Floats
    covered: Floats


class Bm25:
    """Scores of all memories of a corpus for the words of a question."""

    def __init__(self, saturation: float, length_share: float, lending: Lending) -> None:
        self._saturation = saturation
        self._length_share = length_share
        self._lending = lending

    def scores(self, corpus: Corpus, terms: Sequence[str]) -> WordScores:
        """The words count in the order given, so that sums are the same whenever they are made."""
        columns, used = corpus.columns, corpus.columns.used
        memories = len(corpus.slots)
        damping = self._damping(columns.length[:used], corpus.words_in_all / max(1, memories))
        sessions = _Sessions(columns, corpus.session_lengths(), self._damping)
        own: Floats = np.zeros(used)
        covered: Floats = np.zeros(used)
        asked = 0.0
        for term in terms:
            holders = corpus.holders(term)
            rare = rarity(0 if holders is None else holders.alive, memories)
            asked += rare
            if holders is None:
                continue
            slots, amounts = holders.arrays()
            scored = np.zeros(used)
            scored[slots] = rare * amounts * (self._saturation + 1) / (amounts + damping[slots])
            covered[slots] += rare
            sessions.add(slots, amounts, self._saturation)
            own += self._lent(columns, scored, slots)
        own[NOBODY] = 0.0
        covered[~np.isfinite(columns.length[:used])] = 0.0
        return WordScores(own, sessions.scores, covered / max(asked, _LEAST_ASKED))

    def _damping(self, length: Floats, mean: float) -> Floats:
        """What an amount of words is measured with; nothing counts of what is gone."""
        share = self._length_share
        return self._saturation * (1 - share + share * length / max(mean, 1.0))

    def _lent(self, columns: Columns, scored: Floats, slots: Slots) -> Floats:
        """The scores of one word, those of its holders' neighbours among them."""
        slots = slots[columns.turn[slots]]
        if not 0 < len(slots) <= _MOST_LENDERS:
            return scored
        lending, given = self._lending, scored[slots]
        before, after = columns.earlier[slots], columns.later[slots]
        shares = (
            (after, lending.after + lending.answer * columns.asks[slots]),
            (before, lending.before),
            (columns.later[after], lending.second_after),
        )
        for neighbours, share in shares:
            scored[neighbours] = np.maximum(scored[neighbours], share * given)
        return scored


class _Sessions:
    """Sessions as documents of their own, made of what their turns hold."""

    def __init__(self, columns: Columns, lengths: Floats, damping: Callable[[Floats, float], Floats]) -> None:
        self._session = columns.session
        self._there = np.isfinite(columns.length[: columns.used])
        self._sessions = int(np.count_nonzero(lengths[1:]))
        self._damping = damping(lengths, float(lengths[1:].sum()) / max(1, self._sessions))
        self._scores = np.zeros(len(lengths))

    def add(self, slots: Slots, amounts: Floats, saturation: float) -> None:
        """Count one word."""
        if not self._sessions:
            return
        said = np.bincount(self._session[slots], amounts * self._there[slots], len(self._scores))
        said[0] = 0.0
        rare = rarity(int(np.count_nonzero(said)), self._sessions)
        self._scores += rare * said * (saturation + 1) / (said + self._damping)

    @property
    def scores(self) -> Floats:
        """By memory; nothing for those of no session."""
        scores: Floats = self._scores[self._session[: len(self._there)]]
        return scores


def rarity(holders: int, memories: int) -> float:
    """What a word tells, from the number of memories that have it."""
    return float(np.log1p((memories - holders + 0.5) / (holders + 0.5)))
