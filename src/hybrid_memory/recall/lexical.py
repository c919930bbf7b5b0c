"""The words of a question in the memories of one user: BM25, what neighbours say, and what a session is about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybrid_memory.recall.columns import NOBODY, Columns, Flags, Floats, Slots
from hybrid_memory.recall.corpus import Corpus, occupied

# What so many say tells next to nothing of their neighbours.
_MOST_LENDERS = 1000
_LEAST_ASKED = 1e-9
_NO_SLOTS: Slots = np.zeros(0, np.intp)


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

    `covered` is the largest share of the question that one memory says itself, rare words counting more.
    """

    own: Floats
    session: Floats
    covered: float


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
        measure = corpus.while_unchanged(_measure_of, self._saturation, self._length_share)
        sessions = np.zeros(len(measure.sessions))
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
            scored = rare * amounts * (self._saturation + 1) / (amounts + measure.memories[slots])
            covered[slots] += rare
            lenders: Slots = _NO_SLOTS
            if measure.spoken:
                sessions += self._of_sessions(columns.session[slots], amounts, measure)
                lenders = np.flatnonzero(columns.turn[slots])
            if 0 < len(lenders) <= _MOST_LENDERS:
                own += self._lent(columns, slots, scored, lenders)
            else:
                own[slots] += scored
        own[NOBODY] = 0.0
        most = float((covered * measure.there).max())
        return WordScores(own, sessions[columns.session[:used]], most / max(asked, _LEAST_ASKED))

    def _of_sessions(self, session: Slots, amounts: Floats, measure: "_Measure") -> Floats:
        """What one word tells of sessions, documents of their own that are made of what their turns hold."""
        said = np.bincount(session, amounts, len(measure.sessions))
        said[0] = 0.0
        rare = rarity(int(np.count_nonzero(said)), measure.spoken)
        scores: Floats = rare * said * (self._saturation + 1) / (said + measure.sessions)
        return scores

    def _lent(self, columns: Columns, slots: Slots, scored: Floats, lenders: Slots) -> Floats:
        """The scores of one word by slot, those of its holders' neighbours among them."""
        lending, everyone = self._lending, np.zeros(columns.used)
        everyone[slots] = scored
        lent, slots = scored[lenders], slots[lenders]
        before, after = columns.earlier[slots], columns.later[slots]
        shares = (
            (after, lending.after + lending.answer * columns.asks[slots]),
            (before, lending.before),
            (columns.later[after], lending.second_after),
        )
        for neighbours, share in shares:
            everyone[neighbours] = np.maximum(everyone[neighbours], share * lent)
        return everyone


@dataclass(frozen=True, slots=True)
class _Measure:
    """What amounts of a word are measured with, by memory and by session; who is there, and how many sessions are."""

    memories: Floats
    sessions: Floats
    there: Flags
    spoken: int


def _measure_of(corpus: Corpus, saturation: float, length_share: float) -> _Measure:
    """Nothing counts of what is gone."""

    def damping(length: Floats, mean: float) -> Floats:
        return saturation * (1 - length_share + length_share * length / max(mean, 1.0))

    lengths = corpus.session_lengths()
    spoken = int(np.count_nonzero(lengths[1:]))
    return _Measure(
        damping(corpus.columns.length[: corpus.columns.used], corpus.words_in_all / max(1, len(corpus.slots))),
        damping(lengths, float(lengths[1:].sum()) / max(1, spoken)),
        corpus.while_unchanged(occupied),
        spoken,
    )


def rarity(holders: int, memories: int) -> float:
    """What a word tells, from the number of memories that have it."""
    return float(np.log1p((memories - holders + 0.5) / (holders + 0.5)))
