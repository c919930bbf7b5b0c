"""Who holds a word, and how much of it."""

from array import array

import numpy as np

from hybrid_memory.recall.columns import Floats


class Holders:
    """The memories that hold a word, some of which may be gone; words are numbered as they come.

    Attributes:
        slots, amounts: each memory that holds it, and how much of it.
        alive: how many of them are not gone.
    """

    __slots__ = ("_by_slot", "alive", "amounts", "number", "slots")

    def __init__(self, number: int) -> None:
        self.number = number
        self.slots = array("q")
        self.amounts = array("f")
        self.alive = 0
        self._by_slot: Floats | None = None

    def add(self, slot: int, amount: float) -> None:
        """One more memory holds it."""
        self.slots.append(slot)
        self.amounts.append(amount)
        self.alive += 1
        if self._by_slot is not None and slot < len(self._by_slot):
            self._by_slot[slot] = amount

    def by_slot(self, room: int) -> Floats:
        """How much every memory holds; made once, and kept up to date while there is room."""
        if self._by_slot is None or len(self._by_slot) < room:
            self._by_slot = np.zeros(room, np.float32)
            self._by_slot[self.slots] = self.amounts
        return self._by_slot
