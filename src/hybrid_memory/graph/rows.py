"""The rows of one user's graph with both directions of every edge: what deltas change and snapshots copy."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from hybrid_memory.graph.delta import Delta, EdgeKey, edge_key
from hybrid_memory.graph.layered import Layered
from hybrid_memory.models import MemoryNode, Relationship

if TYPE_CHECKING:
    from datetime import datetime

_FROM = attrgetter("from_node_id")
_TO = attrgetter("to_node_id")


@dataclass(slots=True)
class Rows:
    """Memories by id, and the relationships that leave and reach each of them.

    The list of one memory's edges is replaced, never changed: copies share it. `touched` are the memories that were put
    or removed since somebody cleared it.
    """

    nodes: Layered[MemoryNode] = field(default_factory=Layered)
    outgoing: Layered[Sequence[Relationship]] = field(default_factory=Layered)
    incoming: Layered[Sequence[Relationship]] = field(default_factory=Layered)
    expiring: "dict[str, datetime]" = field(default_factory=dict)
    edge_count: int = 0
    touched: dict[str, None] = field(default_factory=dict)

    def copy(self) -> "Rows":
        """Rows that no longer change with these; no row is copied."""
        return Rows(
            self.nodes.copy(), self.outgoing.copy(), self.incoming.copy(), self.expiring.copy(), self.edge_count
        )

    def apply(self, delta: Delta) -> None:
        """Deletions first, then what came or changed. A newer row stays; an edge without both its ends is dropped."""
        if delta.deleted:
            self.remove(delta.deleted)
        for node in delta.nodes:
            if not _is_newer(self.nodes.get(node.node_id), node):
                self._put(node)
        if delta.relationships:
            self._join(delta.relationships)

    def remove(self, node_ids: Iterable[str]) -> None:
        """Take memories out, with their edges."""
        lost: dict[EdgeKey, Relationship] = {}
        for node_id in node_ids:
            if self.nodes.pop(node_id, None) is not None:
                self.touched[node_id] = None
                self.expiring.pop(node_id, None)
                for edges in (self.outgoing.get(node_id, ()), self.incoming.get(node_id, ())):
                    lost |= {edge_key(edge): edge for edge in edges}
        self._part(lost)

    def _put(self, node: MemoryNode) -> None:
        self.nodes[node.node_id] = node
        self.touched[node.node_id] = None
        if node.expires_at is None:
            self.expiring.pop(node.node_id, None)
        else:
            self.expiring[node.node_id] = node.expires_at

    def _join(self, edges: Iterable[Relationship]) -> None:
        new: dict[EdgeKey, Relationship] = {}
        for edge in edges:
            if edge.from_node_id in self.nodes and edge.to_node_id in self.nodes:
                key = edge_key(edge)
                if not _is_newer(new.get(key), edge):
                    new[key] = edge
        before = sum(len(self.outgoing.get(node_id, ())) for node_id in {key[0] for key in new})
        for side, end in ((self.outgoing, _FROM), (self.incoming, _TO)):
            for node_id, joined in _by_end(new.values(), end).items():
                known = side.get(node_id)
                side[node_id] = _merged(known, joined) if known else joined
        self.edge_count += sum(len(self.outgoing[node_id]) for node_id in {key[0] for key in new}) - before

    def _part(self, edges: Mapping[EdgeKey, Relationship]) -> None:
        self.edge_count -= len(edges)
        for side, end in ((self.outgoing, _FROM), (self.incoming, _TO)):
            for node_id in _by_end(edges.values(), end):
                left = [edge for edge in side[node_id] if edge_key(edge) not in edges]
                if left:
                    side[node_id] = left
                else:
                    del side[node_id]


def _by_end(edges: Iterable[Relationship], end: Callable[[Relationship], str]) -> dict[str, list[Relationship]]:
    grouped: dict[str, list[Relationship]] = {}
    for edge in edges:
        node_id = end(edge)
        if node_id in grouped:
            grouped[node_id].append(edge)
        else:
            grouped[node_id] = [edge]
    return grouped


def _merged(known: Iterable[Relationship], new: Iterable[Relationship]) -> list[Relationship]:
    merged = {edge_key(edge): edge for edge in known}
    for edge in new:
        key = edge_key(edge)
        if not _is_newer(merged.get(key), edge):
            merged[key] = edge
    return list(merged.values())


def _is_newer(known: MemoryNode | Relationship | None, row: MemoryNode | Relationship) -> bool:
    """Whether what is known was written after `row`; a row that waits for its version is the newest of all."""
    if known is None or known.version is None or row.version is None:
        return False
    return known.version > row.version
