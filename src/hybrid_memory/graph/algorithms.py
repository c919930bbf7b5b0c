"""What the shape of a graph says: PageRank, communities, bridges. Computed when first asked for, once per snapshot.

Nodes are numbered in the order of their ids and edges are added in the order of their keys, so equal graphs give equal
answers in every process, whatever order their rows came in. networkx is imported by the first analysis: it takes
longer than the rest of the library.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode

if TYPE_CHECKING:
    import networkx as nx

Scored = tuple[MemoryNode, float]
Answer = TypeVar("Answer")

_SEED = 1
_DAMPING = 0.85
# Exact betweenness takes nodes x edges steps: minutes for a large user. From this many on it is estimated from paths
# that begin at a fixed random choice of nodes.
_MOST_STEPS = 2_500_000


class Analysis:
    """The answers for one snapshot; a thread that asks while another computes waits for that one's answer."""

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self._lock = threading.RLock()
        self._answers: dict[str, Any] = {}
        self._ids = sorted(node.node_id for node in view.nodes())

    def important(self) -> tuple[Scored, ...]:
        """All memories by PageRank, with the strength of relationships as their weight, the highest first."""
        return self._once("important", self._important)

    def clusters(self) -> tuple[tuple[MemoryNode, ...], ...]:
        """The communities, the largest first; a memory without relationships is one of its own."""
        return self._once("clusters", self._clusters)

    def bridges(self) -> tuple[Scored, ...]:
        """The memories that shortest paths between others lead through, those that most lead through first."""
        return self._once("bridges", self._bridges)

    def density(self) -> float:
        """The share of ordered pairs of nodes that are joined."""
        return self._once("density", self._density)

    def _once(self, name: str, compute: Callable[[], Answer]) -> Answer:
        with self._lock:
            if name not in self._answers:
                self._answers[name] = compute()
            answer: Answer = self._answers[name]
            return answer

    def _important(self) -> tuple[Scored, ...]:
        import networkx as nx  # noqa: PLC0415 - see the docstring of the module

        return self._ranked(nx.pagerank(self._directed(), alpha=_DAMPING)) if self._ids else ()

    def _clusters(self) -> tuple[tuple[MemoryNode, ...], ...]:
        import networkx as nx  # noqa: PLC0415 - see the docstring of the module

        found = nx.community.louvain_communities(self._undirected(), seed=_SEED)
        clusters = [
            tuple(node for number in sorted(numbers) if (node := self.view.memory(self._ids[number])))
            for numbers in found
        ]
        return tuple(sorted(filter(None, clusters), key=lambda cluster: (-len(cluster), cluster[0].node_id)))

    def _bridges(self) -> tuple[Scored, ...]:
        import networkx as nx  # noqa: PLC0415 - see the docstring of the module

        graph = self._undirected()
        size = graph.number_of_nodes()
        pivots = max(1, _MOST_STEPS // (size + graph.number_of_edges() + 1))
        scores = nx.betweenness_centrality(graph, k=pivots if pivots < size else None, seed=_SEED)
        return tuple((node, score) for node, score in self._ranked(scores) if score > 0)

    def _density(self) -> float:
        size = len(self._ids)
        pairs = {(edge.from_node_id, edge.to_node_id) for edge in self.view.edges()}
        return sum(one != other for one, other in pairs) / (size * (size - 1)) if size > 1 else 0.0

    def _ranked(self, scores: dict[int, float]) -> tuple[Scored, ...]:
        found = [(node, score) for number, score in scores.items() if (node := self.view.memory(self._ids[number]))]
        return tuple(sorted(found, key=lambda scored: (-scored[1], scored[0].node_id)))

    def _directed(self) -> "nx.DiGraph[int]":
        import networkx as nx  # noqa: PLC0415 - see the docstring of the module

        graph: nx.DiGraph[int] = nx.DiGraph()
        self._fill(graph)
        return graph

    def _undirected(self) -> "nx.Graph[int]":
        import networkx as nx  # noqa: PLC0415 - see the docstring of the module

        graph: nx.Graph[int] = nx.Graph()
        self._fill(graph)
        return graph

    def _fill(self, graph: "nx.Graph[int]") -> None:
        """Every node, and the joint strength of all relationships of two nodes; one without strength joins nothing."""
        number_of = {node_id: number for number, node_id in enumerate(self._ids)}
        graph.add_nodes_from(range(len(self._ids)))
        for edge in self.view.edges():
            if edge.strength > 0:
                ends = number_of[edge.from_node_id], number_of[edge.to_node_id]
                weight = graph.edges[ends]["weight"] if graph.has_edge(*ends) else 0.0
                graph.add_edge(*ends, weight=weight + edge.strength)
