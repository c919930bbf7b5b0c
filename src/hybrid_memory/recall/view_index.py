"""An index that follows a user's graph from snapshot to snapshot: nodes that stayed the same are not read again."""

import threading

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode


class ViewIndex:
    """What every index of one user's memory does; whoever looks something up holds the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: GraphView | None = None

    def _follow(self, view: GraphView) -> None:
        """Bring the index to a snapshot."""
        if view is self._view:
            return
        changes = view.changes_since(self._view)
        for node in filter(self._is_indexed, changes.before):
            self._drop(node)
        for node in filter(self._is_indexed, changes.after):
            self._add(node)
        self._view = view

    def _is_indexed(self, node: MemoryNode) -> bool:
        """Whether this index is about such a node."""
        raise NotImplementedError

    def _add(self, node: MemoryNode) -> None:
        raise NotImplementedError

    def _drop(self, node: MemoryNode) -> None:
        raise NotImplementedError
