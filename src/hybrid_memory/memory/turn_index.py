"""The turns of one user's conversations by thread: an index that follows the user's graph."""

import heapq
from collections.abc import Sequence
from datetime import UTC, datetime

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.passage import MESSAGE
from hybrid_memory.recall.view_index import ViewIndex

_NEVER = datetime.max.replace(tzinfo=UTC)


class TurnIndex(ViewIndex):
    """Who asks for a thread does not look at what else a user has."""

    def __init__(self) -> None:
        super().__init__()
        self._by_thread: dict[str | None, dict[str, MemoryNode]] = {}

    def newest(self, view: GraphView, thread_id: str, most: int) -> Sequence[MemoryNode]:
        """The newest turns of a thread in a snapshot, oldest first."""
        with self._lock:
            self._follow(view)
            return heapq.nlargest(most, self._by_thread.get(thread_id, {}).values(), key=_order)[::-1]

    def _is_indexed(self, node: MemoryNode) -> bool:
        return node.context_type == MESSAGE

    def _add(self, node: MemoryNode) -> None:
        self._by_thread.setdefault(node.thread_id, {})[node.node_id] = node

    def _drop(self, node: MemoryNode) -> None:
        turns = self._by_thread[node.thread_id]
        del turns[node.node_id]
        if not turns:
            del self._by_thread[node.thread_id]


def _order(turn: MemoryNode) -> tuple[int, datetime, str]:
    return turn.seq or 0, turn.created_at or _NEVER, turn.node_id
