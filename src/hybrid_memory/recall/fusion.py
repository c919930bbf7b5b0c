"""How the ways of finding are put together: the weights, in one place, and the sum."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from hybrid_memory.recall.columns import Columns, Floats
from hybrid_memory.recall.lexical import Lending


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What counts how much. Chosen on conversations that no test and no figure in the docs is about.

    Args:
        words, vector: shares of a whole; without a vector the words are all of it.
        graph, time, session, speaker: what is added for being connected with what the question names, for having
            happened when it says, for a session that is about it, for being said by whom it names.
        saying: what is added for a turn of `full_turn` words, and to every other memory.
        asking: what is taken from a turn that asks.
        vitality: the share of a score that fades with time and comes back with reading.
        crowd: what is taken from a turn for every better one of its session.
        copy: what is left of the score of a memory that says the same as a better one.
        neighbour: how much the vectors of the turns before and after a turn count, against its own.
        time_fades_days: how fast a turn counts less that is told after the time asked for.
        saturation, length_share, lending: of BM25, see there.
    """

    words: float = 0.5
    vector: float = 0.5
    graph: float = 0.8
    time: float = 0.75
    session: float = 0.25
    speaker: float = 0.2
    saying: float = 0.25
    full_turn: float = 18.0
    asking: float = 0.1
    vitality: float = 0.1
    crowd: float = 0.015
    copy: float = 0.5
    neighbour: float = 0.25
    time_fades_days: float = 3.0
    saturation: float = 1.2
    length_share: float = 0.45
    lending: Lending = field(default_factory=lambda: Lending(before=0.25, after=0.5, second_after=0.5, answer=0.5))


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of finding: a score from 0 to 1 for every memory, and its weight."""

    scores: Floats
    weight: float


Arms = dict[str, Arm]


def normalised(scores: Floats) -> Floats:
    """As shares of the best."""
    best = float(scores.max(initial=0.0))
    return scores / best if best > 0 else np.zeros_like(scores)


def of_conversation(columns: Columns, matched: Floats, session: Floats | None, named: list[int], w: Weights) -> Arms:
    """What being a turn of a conversation adds; every other memory is a session of its own."""
    turn = columns.turn[: columns.used]
    arms = {"session": Arm(matched if session is None else np.where(turn, normalised(session), matched), w.session)}
    if len(named) == 1:
        arms["speaker"] = Arm((columns.speaker[: columns.used] == named[0]).astype(np.float32), w.speaker)
    return arms


def of_itself(columns: Columns, slots: slice, w: Weights) -> Arms:
    """What is added to memories whatever is asked: turns say more or less, and may ask; every other memory says all."""
    turn, length = columns.turn[slots], columns.length[slots]
    full = np.float32(w.full_turn)
    return {
        "saying": Arm(np.where(turn, np.minimum(length, full) / full, np.float32(1.0)), w.saying),
        "asking": Arm(columns.asks[slots].astype(np.float32), -w.asking),
    }


class Whatever:
    """What is added to memories whatever is asked, for all of them: reckoned once, as they come."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._columns: Columns | None = None
        self._added: Floats = np.zeros(0, np.float32)
        self._known = 0

    def added(self, columns: Columns) -> Floats:
        """By slot. Nobody asks for that of empty ones."""
        room = len(columns.length)
        if columns is not self._columns or room != len(self._added):
            self._columns, self._added, self._known = columns, np.zeros(room, np.float32), 0
        if self._known < columns.used:
            new = slice(self._known, columns.used)
            self._added[new] = total(*of_itself(columns, new, self.weights).values())
            self._known = columns.used
        return self._added[: columns.used]


def total(first: Arm, *others: Arm) -> Floats:
    """The weighted sum."""
    return add(others, first.weight * first.scores)


def add(arms: Iterable[Arm], scores: Floats) -> Floats:
    """The weighted sum, added to what there is."""
    for arm in arms:
        scores += arm.weight * arm.scores
    return scores
