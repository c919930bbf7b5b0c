"""An index that follows a user's graph from snapshot to snapshot: nodes that stayed the same are not read again."""

import threading
from typing import TYPE_CHECKING

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode

if TYPE_CHECKING:
    from collections.abc import Mapping


class ViewIndex:
    """What every index of one user's memory does; whoever looks something up holds the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: GraphView | None = None
        self._known: Mapping[str, MemoryNode] = {}

    def _follow(self, view: GraphView) -> None:
        """Bring the index to a snapshot."""
        if view is self._view:
            return
        known, there = self._known, view.nodes_by_id
        changed = [node for node_id, node in there.items() if known.get(node_id) is not node]
        came = sum(node.node_id not in known for node in changed)
        if len(there) != len(known) + came:
            for node_id, node in known.items():
                if node_id not in there and self._is_indexed(node):
                    self._drop(node)
        for node in changed:
            before = known.get(node.node_id)
            if before is not None and self._is_indexed(before):
                self._drop(before)
            if self._is_indexed(node):
                self._add(node)
        self._view, self._known = view, there

    def _is_indexed(self, node: MemoryNode) -> bool:
        """Whether this index is about such a node."""
        raise NotImplementedError

    def _add(self, node: MemoryNode) -> None:
        raise NotImplementedError

    def _drop(self, node: MemoryNode) -> None:
        raise NotImplementedError
