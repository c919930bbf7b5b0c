"""The memories whose vectors were compared with a question: where they are among all, and who is whose neighbour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_

import numpy as np

from hybrid_memory.recall.columns import GONE, NOBODY, Columns, Flags, Slots

_EACH = slice(None)


@dataclass(frozen=True, slots=True)
class Compared:
    """Those that are in a corpus.

    Attributes:
        places: which of the given ones they are.
        slots: their slots.
        before, after: which of these are the turns before and after each; itself, where there is none among them.
        there: who was compared, by slot.
    """

    places: Slots | slice
    slots: Slots
    before: Slots | slice
    after: Slots | slice
    there: Flags


class Comparing:
    """Finds the slots of what is compared. Ids whose slots are known from before are not looked up again."""

    def __init__(self) -> None:
        self._node_ids: Sequence[str] = ()
        self._slots: Slots = np.zeros(0, np.intp)
        self._compared: Compared | None = None

    def changed(self) -> None:
        """A memory came or went."""
        self._compared = None

    def of(self, node_ids: Sequence[str], columns: Columns, slots: Mapping[str, int]) -> Compared:
        """What is compared, by ids; made once for the same sequence until a memory changes."""
        if self._compared is None or self._node_ids is not node_ids:
            self._node_ids, self._slots = node_ids, self._located(node_ids, columns, slots)
            self._compared = _compared(self._slots, columns)
        return self._compared

    def _located(self, node_ids: Sequence[str], columns: Columns, slots: Mapping[str, int]) -> Slots:
        located: Slots = np.full(len(node_ids), NOBODY)
        if node_ids[: len(self._node_ids)] == self._node_ids:
            located[: len(self._node_ids)] = self._slots
        else:
            same = np.fromiter(map(is_, node_ids, self._node_ids), np.bool_)
            located[: len(same)][same] = self._slots[: len(same)][same]
        # Nobody and what is gone have no length. Slots of what is gone are not given to others.
        unknown = np.flatnonzero(columns.length[located] == GONE)
        located[unknown] = [slots.get(node_ids[place], NOBODY) for place in unknown.tolist()]
        return located


def _compared(slots: Slots, columns: Columns) -> Compared:
    known = slots != NOBODY
    places = _EACH if known.all() else np.flatnonzero(known)
    own = slots[places]
    there = np.zeros(columns.used, np.bool_)
    there[own] = True
    if not columns.turn[: columns.used].any():
        return Compared(places, own, _EACH, _EACH, there)
    themselves = np.arange(len(own))
    rank = np.full(columns.used, -1)
    rank[own] = themselves

    def beside(neighbours: Slots) -> Slots:
        found = rank[neighbours[own]]
        return np.where(found < 0, themselves, found)

    return Compared(places, own, beside(columns.earlier), beside(columns.later), there)
