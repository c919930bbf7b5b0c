"""Which items of an owner are below a namespace, newest first: an index that follows the owner's graph."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from hybrid_memory.graph.view import GraphView
from hybrid_memory.items import is_item
from hybrid_memory.memory.namespaces import Namespace
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.view_index import ViewIndex

_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


class ItemIndex(ViewIndex):
    """The items of one owner by namespace."""

    def __init__(self) -> None:
        super().__init__()
        self._by_namespace: dict[Namespace, dict[str, MemoryNode]] = {}
        self._listed: dict[Namespace, Sequence[MemoryNode]] = {}
        self._listed_of: GraphView | None = None

    def below(self, view: GraphView, prefix: Namespace) -> Sequence[MemoryNode]:
        """The items of a snapshot whose namespace begins so, newest first."""
        with self._lock:
            self._follow(view)
            if self._listed_of is not view:
                self._listed, self._listed_of = {}, view
            if prefix not in self._listed:
                found = (
                    node
                    for namespace, nodes in self._by_namespace.items()
                    if namespace[: len(prefix)] == prefix
                    for node in nodes.values()
                )
                self._listed[prefix] = newest_first(found)
            return self._listed[prefix]

    def namespaces(self, view: GraphView) -> list[Namespace]:
        """The namespaces that hold something."""
        with self._lock:
            self._follow(view)
            return list(self._by_namespace)

    def _is_indexed(self, node: MemoryNode) -> bool:
        return is_item(node)

    def _add(self, node: MemoryNode) -> None:
        self._by_namespace.setdefault(node.namespace or (), {})[node.node_id] = node

    def _drop(self, node: MemoryNode) -> None:
        namespace = node.namespace or ()
        nodes = self._by_namespace[namespace]
        del nodes[node.node_id]
        if not nodes:
            del self._by_namespace[namespace]


def newest_first(nodes: Iterable[MemoryNode]) -> Sequence[MemoryNode]:
    """By their last change; of those written together, by the order in which they were written."""
    return sorted(nodes, key=_recency, reverse=True)


def _recency(node: MemoryNode) -> tuple[datetime, datetime, str]:
    return node.updated_at or _BEFORE_ALL, node.written_at or _BEFORE_ALL, node.node_id
