"""Where a memory stands among those that questions are compared with."""

from collections.abc import Mapping, Sequence

from hybrid_memory.recall.columns import Columns

# The place of what is not compared; the others are counted from 1.
NOWHERE = 0


class Places:
    """Keeps the places in a corpus up to date. Ids whose places are known from before are not looked up again."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._node_ids: Sequence[str] = ()
        self._known = 0
        self._of: dict[str, int] = {}

    def follow(self, node_ids: Sequence[str], count: int, slots: Mapping[str, int]) -> None:
        """The first ones of these are compared; to the same sequence others may have been added since the last time."""
        if node_ids is not self._node_ids:
            self._node_ids, self._known, self._of = node_ids, 0, {}
            self._columns.place[:] = NOWHERE
        for place, node_id in enumerate(node_ids[self._known : count], self._known + 1):
            self._of[node_id] = place
            if node_id in slots:
                self._columns.place[slots[node_id]] = place
        self._known = max(self._known, count)

    def entered(self, node_id: str, slot: int) -> None:
        """A memory has come."""
        self._columns.place[slot] = self._of.get(node_id, NOWHERE)
