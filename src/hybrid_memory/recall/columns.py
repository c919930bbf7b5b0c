"""What ranking needs to know of every memory, one array per property: a question looks at all of them at once."""

import numpy as np
from numpy.typing import NDArray

# What is reckoned for all memories. Half the width is half the time, and tells them apart as well.
Floats = NDArray[np.float32]
Moments = NDArray[np.float64]
# What arrays are indexed with: other integers would be turned into these each time, which takes longer than the look.
Slots = NDArray[np.intp]
Flags = NDArray[np.bool_]

# The slot of nobody: what has no neighbour has this one, which says nothing.
NOBODY = 0
_BEGIN = 64
_DAY_SECONDS = 86_400.0
NEVER = float("-inf")
GONE = float("inf")


class Columns:
    """Arrays that grow, with a slot per memory.

    Attributes:
        used: up to where there are slots.
        turns: how many turns of conversations there are.
        changes: how often a memory came or went: what was reckoned of all holds as long as this stays the same.
        there: whether the slot holds a memory.
        length: how many words it has, `GONE` when the slot is empty.
        at: when it happened, in days.
        updated, accessed: when its content changed and when it was last read, in hours.
        half_life, importance: how fast it fades, and from where.
        turn: whether it is a turn of a conversation.
        asks: whether it ends with a question.
        speaker, session: their numbers, 0 for none.
        earlier, later: the slots of the turns before and after it.
        place: where it is among what questions are compared with.
    """

    def __init__(self) -> None:
        self.used = NOBODY + 1
        self.turns = 0
        self.changes = 0
        self.there: Flags = np.zeros(_BEGIN, np.bool_)
        self.length: Floats = np.full(_BEGIN, GONE, np.float32)
        self.at: Moments = np.zeros(_BEGIN)
        self.updated: Moments = np.zeros(_BEGIN)
        self.accessed: Moments = np.full(_BEGIN, NEVER)
        self.half_life: Moments = np.ones(_BEGIN)
        self.importance: Moments = np.zeros(_BEGIN)
        self.turn: Flags = np.zeros(_BEGIN, np.bool_)
        self.asks: Flags = np.zeros(_BEGIN, np.bool_)
        self.speaker: Slots = np.zeros(_BEGIN, np.intp)
        self.session: Slots = np.zeros(_BEGIN, np.intp)
        self.earlier: Slots = np.zeros(_BEGIN, np.intp)
        self.later: Slots = np.zeros(_BEGIN, np.intp)
        self.place: Slots = np.zeros(_BEGIN, np.intp)

    def new(self) -> int:
        """An empty slot."""
        if self.used == len(self.length):
            for name, column in vars(self).items():
                if isinstance(column, np.ndarray):
                    setattr(self, name, np.concatenate([column, np.full_like(column, column[NOBODY])]))
        self.used += 1
        self.changes += 1
        return self.used - 1

    def empty(self, slot: int) -> None:
        """Nothing counts of what was there."""
        self.changes += 1
        self.turns -= int(self.turn[slot])
        self.there[slot] = self.turn[slot] = False
        self.length[slot] = GONE
        self.session[slot] = self.speaker[slot] = self.place[slot] = 0


def days(seconds: float) -> float:
    """Days since 1970."""
    return seconds / _DAY_SECONDS
