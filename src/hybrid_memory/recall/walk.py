"""From what a question names along relationships to what it does not: a bounded walk through one user's graph."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import Relationship

# Bounds of one walk, whatever the graph is like: relationships followed from one node, steps, and nodes met in all.
_FAN_OUT = 32
_STEPS = 2
_MOST_NODES = 1000
_KEPT_BY_STEP = 0.8


@dataclass(frozen=True, slots=True)
class Reached:
    """How strongly a node is connected with what a question names, and the nodes on the way to it, itself the last."""

    strength: float
    path: tuple[str, ...]


class Walk:
    """Walks through snapshots; remembers the strongest relationships of the nodes it met in the last of them."""

    def __init__(self) -> None:
        self._view: GraphView | None = None
        self._strongest: dict[str, list[tuple[str, float]]] = {}

    def reached(self, view: GraphView, seeds: Mapping[str, float]) -> dict[str, Reached]:
        """What is met from the seeds, stubs and seeds among it; of several ways to a node the strongest counts."""
        if view is not self._view:
            self._view, self._strongest = view, {}
        reached = {node_id: Reached(strength, (node_id,)) for node_id, strength in seeds.items()}
        level = sorted(reached)
        for _ in range(_STEPS):
            met: dict[str, Reached] = {}
            for node_id in level:
                here = reached[node_id]
                for other, share in self._from(view, node_id):
                    strength = here.strength * share * _KEPT_BY_STEP
                    if strength > max(_strength(reached.get(other)), _strength(met.get(other))):
                        met[other] = Reached(strength, (*here.path, other))
            level = _strongest_of(met, _MOST_NODES - len(reached))
            reached |= {node_id: met[node_id] for node_id in level}
        return reached

    def _from(self, view: GraphView, node_id: str) -> list[tuple[str, float]]:
        """Where the strongest relationships of a node lead to, in either direction; many of them tell less each."""
        found = self._strongest.get(node_id)
        if found is None:
            edges = list(view.edges_of(node_id))
            share = 1 / (1 + len(edges)) ** 0.25
            first = heapq.nsmallest(_FAN_OUT, edges, key=_order)
            found = self._strongest[node_id] = [
                (_other_end(edge, node_id), share * min(1.0, edge.strength)) for edge in first
            ]
        return found


def _strength(reached: Reached | None) -> float:
    return 0.0 if reached is None else reached.strength


def _strongest_of(met: Mapping[str, Reached], most: int) -> list[str]:
    return heapq.nsmallest(max(0, most), met, key=lambda node_id: (-met[node_id].strength, node_id))


def _other_end(edge: Relationship, node_id: str) -> str:
    return edge.to_node_id if edge.from_node_id == node_id else edge.from_node_id


def _order(edge: Relationship) -> tuple[float, str, str, str]:
    return -edge.strength, edge.from_node_id, edge.to_node_id, edge.relationship_type


def strongest(reached: Iterable[tuple[str, Reached]], most: int) -> list[tuple[str, Reached]]:
    """Some of what was reached, the strongest first."""
    return heapq.nsmallest(most, reached, key=lambda one: (-one[1].strength, one[0]))
