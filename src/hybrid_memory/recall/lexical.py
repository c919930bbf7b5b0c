"""The words of a question in the memories of one user: BM25, what neighbours say, and what a session is about."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log1p

import numpy as np

from hybrid_memory.recall.columns import NOBODY, Columns, Floats, Slots
from hybrid_memory.recall.corpus import Corpus
from hybrid_memory.recall.holders import Holders

# What so many say tells next to nothing of their neighbours.
_MOST_LENDERS = 1000
# A word that a larger share of many memories hold is looked for in all of them: that takes less time.
_COMMON_SHARE = 0.125
_LEAST_ASKED = 1e-9
# Of so many words that many hold it is kept what they give each memory.
_MOST_KEPT = 32
# Words by memories that are looked at together: a long question must not take room for all of both.
_MOST_CELLS = 2_000_000


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

    Scores are for comparing with each other: what is the same in all is left out. `session` is there where turns are.
    `covered` is the largest share of the question that one memory says itself, rare words counting more.
    """

    own: Floats
    session: Floats | None
    covered: float


@dataclass(slots=True)
class _Known:
    """What every question meets again until a memory comes or goes.

    Attributes:
        columns, changes: of which memories.
        damping: see `Bm25._damping`.
        common: what words that many hold give each memory: of its score, and of what it says itself.
    """

    columns: Columns
    changes: int
    damping: Floats
    common: dict[Holders, tuple[Floats, Floats]] = field(default_factory=dict)


class Bm25:
    """Scores of all memories of a corpus for the words of a question. Whoever asks holds the lock of the corpus."""

    def __init__(self, saturation: float, length_share: float, lending: Lending) -> None:
        self._saturation = saturation
        self._length_share = length_share
        self._lending = lending
        self._known: _Known | None = None

    def scores(self, corpus: Corpus, terms: Sequence[str]) -> WordScores:
        """The words count in one order, so that sums are the same whenever they are made."""
        columns, memories = corpus.columns, len(corpus.slots)
        most = max(_MOST_LENDERS, _COMMON_SHARE * memories)
        seldom: list[tuple[Holders, float]] = []
        common: list[tuple[Holders, float]] = []
        asked = 0.0
        for term in terms:
            holders = corpus.holders(term)
            rare = rarity(0 if holders is None else holders.alive, memories)
            asked += rare
            if holders is not None:
                (seldom if holders.alive <= most else common).append((holders, rare))
        own: Floats = np.zeros(columns.used, np.float32)
        if not seldom and not common:
            return WordScores(own, own if columns.turns else None, 0.0)
        covered: Floats = np.zeros(columns.used, np.float32)
        sessions = np.zeros(columns.used, np.float32) if columns.turns else None
        known = self._known_of(corpus)
        at_once = max(1, _MOST_CELLS // columns.used)
        for begin in range(0, len(seldom), at_once):
            held = Postings(seldom[begin : begin + at_once])
            scored = _shares(held.amounts, known.damping[held.slots])
            scored *= held.rarities
            np.add.at(covered, held.slots, held.rarities * (scored > 0))
            if sessions is None:
                np.add.at(own, held.slots, scored)
            else:
                own += self._lent(columns, held, scored)
                sessions += self._of_sessions(corpus, held, ())
        for holders, rare in common:
            scored, said = self._everywhere(known, holders, rare)
            covered += said
            own += scored
        if sessions is not None and common:
            everywhere = [holders.by_slot(len(columns.length))[: columns.used] for holders, _ in common]
            sessions += self._of_sessions(corpus, Postings(()), everywhere)
        return WordScores(own, sessions, float(covered.max()) / max(asked, _LEAST_ASKED))

    def _known_of(self, corpus: Corpus) -> _Known:
        columns, known = corpus.columns, self._known
        if known is None or known.columns is not columns or known.changes != columns.changes:
            mean = corpus.words_in_all / max(1, len(corpus.slots))
            damping = self._damping(columns.length[: columns.used], mean)
            known = self._known = _Known(columns, columns.changes, damping)
        return known

    def _everywhere(self, known: _Known, holders: Holders, rare: float) -> tuple[Floats, Floats]:
        """What a word that many hold gives each memory: of its score, and of what it says itself."""
        found = known.common.get(holders)
        if found is None:
            columns = known.columns
            scored = _shares(holders.by_slot(len(columns.length))[: columns.used], known.damping)
            said: Floats = np.float32(rare) * (scored > 0)
            scored *= np.float32(rare)
            found = scored, said
            if len(known.common) < _MOST_KEPT:
                known.common[holders] = found
        return found

    def _damping(self, lengths: Floats, mean: float) -> Floats:
        """How much of a word is half as good as any amount of it: more in what is long."""
        damping = lengths * np.float32(self._saturation * self._length_share / max(mean, 1.0))
        damping += np.float32(self._saturation * (1 - self._length_share))
        return damping

    def _lent(self, columns: Columns, held: "Postings", scored: Floats) -> Floats:
        """The sums by slot, with what neighbours lend of each word to those that do not say it themselves."""
        lending = self._lending
        of_words = np.zeros((held.words, columns.used), np.float32)
        flat, begin = of_words.reshape(-1), held.word * columns.used
        flat[begin + held.slots] = scored
        lends = held.alive <= _MOST_LENDERS
        slots, begin, lent = (
            (held.slots, begin, scored) if lends.all() else (held.slots[lends], begin[lends], scored[lends])
        )
        before, after = columns.earlier[slots], columns.later[slots]
        to_answer = lending.after + np.float32(lending.answer) * columns.asks[slots]
        for neighbours, share in (
            (after, to_answer), (before, lending.before), (columns.later[after], lending.second_after),
        ):  # fmt: skip
            np.maximum.at(flat, begin + neighbours, lent * share)
        of_words[:, NOBODY] = 0.0
        sums: Floats = of_words.sum(axis=0)
        return sums

    def _of_sessions(self, corpus: Corpus, held: "Postings", everywhere: Sequence[Floats]) -> Floats:
        """What the words tell of the session of each: documents of their own that are made of what their turns hold."""
        session, lengths = corpus.columns.session, np.array(corpus.threads.words, np.float32)
        count, spoken = len(lengths), int(np.count_nonzero(lengths))
        said = np.bincount(held.word * count + session[held.slots], held.amounts, held.words * count)
        of_common = [np.bincount(session[: len(amounts)], amounts, count) for amounts in everywhere]
        of_words = np.vstack([said.reshape(held.words, count), *of_common]).astype(np.float32)
        of_words[:, 0] = 0.0
        rarities = [rarity(found, spoken) for found in np.count_nonzero(of_words, axis=1).tolist()]
        shares = _shares(of_words, self._damping(lengths, float(lengths.sum()) / max(1, spoken)))
        shares *= np.array(rarities, np.float32)[:, np.newaxis]
        scores: Floats = shares.sum(axis=0)[session[: corpus.columns.used]]
        return scores


class Postings:
    """Some words and who holds them, one list behind the other."""

    def __init__(self, words: Sequence[tuple[Holders, float]]) -> None:
        self.words = len(words)
        # Copies at once: what refers to these arrays would hold up whoever adds to them.
        self.slots: Slots = np.frombuffer(b"".join([holders.slots for holders, _ in words]), np.intp)
        self.amounts: Floats = np.frombuffer(b"".join([holders.amounts for holders, _ in words]), np.float32)
        counts = [len(holders.slots) for holders, _ in words]
        self.rarities: Floats = np.repeat(np.array([rare for _, rare in words], np.float32), counts)
        self._words, self._counts = words, counts

    @property
    def word(self) -> Slots:
        """Which word each is of."""
        return np.repeat(np.arange(self.words), self._counts)

    @property
    def alive(self) -> Slots:
        """How many memories hold it."""
        return np.repeat(np.array([holders.alive for holders, _ in self._words], np.intp), self._counts)


def _shares(amounts: Floats, damping: Floats) -> Floats:
    """Amounts of a word as shares of 1, which more and more of it comes near."""
    shares: Floats = amounts + damping
    np.divide(amounts, shares, out=shares)
    return shares


def rarity(holders: int, memories: int) -> float:
    """What a word tells, from the number of memories that have it."""
    return log1p((memories - holders + 0.5) / (holders + 0.5))
