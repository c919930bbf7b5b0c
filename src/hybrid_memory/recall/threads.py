"""Which turns of a conversation are neighbours, and which belong to one session."""

from array import array
from bisect import bisect_left, insort
from collections import defaultdict

from hybrid_memory.recall.columns import NOBODY, Columns

# A turn that comes later than that does not go on with what was said.
_LONGEST_PAUSE_DAYS = 0.25

_Turn = tuple[int, str, int]


class Threads:
    """The turns of every thread in their order. A session is what was said in a thread on one day."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._turns: defaultdict[str, list[_Turn]] = defaultdict(list)
        self._sessions: dict[tuple[str, int], int] = {}
        # How many words each session has, by its number; that of none has none.
        self.words = array("d", [0.0])

    def add(self, thread_id: str, seq: int, node_id: str, slot: int) -> None:
        """A turn takes its place between its neighbours."""
        columns, turns = self._columns, self._turns[thread_id]
        day = int(columns.at[slot])
        session = self._sessions.setdefault((thread_id, day), len(self.words))
        if session == len(self.words):
            self.words.append(0.0)
        columns.session[slot] = session
        self.words[session] += columns.length[slot]
        turn = (seq, node_id, slot)
        insort(turns, turn)
        place = bisect_left(turns, turn)
        self._join(turns[place - 1][2] if place else NOBODY, slot)
        self._join(slot, turns[place + 1][2] if place + 1 < len(turns) else NOBODY)

    def drop(self, thread_id: str, seq: int, node_id: str, slot: int) -> None:
        """Its neighbours become each other's."""
        self.words[self._columns.session[slot]] -= self._columns.length[slot]
        turns = self._turns[thread_id]
        place = bisect_left(turns, (seq, node_id, slot))
        del turns[place]
        before = turns[place - 1][2] if place else NOBODY
        after = turns[place][2] if place < len(turns) else NOBODY
        self._join(before, after)
        self._columns.earlier[slot] = self._columns.later[slot] = NOBODY

    def _join(self, before: int, after: int) -> None:
        columns = self._columns
        near = abs(columns.at[after] - columns.at[before]) <= _LONGEST_PAUSE_DAYS
        if before != NOBODY:
            columns.later[before] = after if near else NOBODY
        if after != NOBODY:
            columns.earlier[after] = before if near else NOBODY
