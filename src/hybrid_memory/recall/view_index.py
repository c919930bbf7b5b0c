"""An index that follows a user's graph from snapshot to snapshot: nodes that stayed the same are not read again."""

import threading
from collections.abc import Iterable

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode


class ViewIndex:
    """What every index of one user's memory does; whoever looks something up holds the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: GraphView | None = None
        self._known: dict[str, MemoryNode] = {}

    def _follow(self, view: GraphView) -> None:
        """Bring the index to a snapshot."""
        if view is self._view:
            return
        there = {node.node_id: node for node in self._indexed(view)}
        for node_id in [node_id for node_id, node in self._known.items() if there.get(node_id) is not node]:
            self._drop(self._known.pop(node_id))
        for node_id, node in there.items():
            if node_id not in self._known:
                self._known[node_id] = node
                self._add(node)
        self._view = view

    def _indexed(self, view: GraphView) -> Iterable[MemoryNode]:
        """The nodes this index is about."""
        raise NotImplementedError

    def _add(self, node: MemoryNode) -> None:
        raise NotImplementedError

    def _drop(self, node: MemoryNode) -> None:
        raise NotImplementedError
