"""Which memories hold a word: an inverted index that follows the graph from snapshot to snapshot."""

import threading
from collections import defaultdict
from collections.abc import Iterable

from hybrid_memory.graph.view import GraphView
from hybrid_memory.memory.terms import entity_ids, weighted_terms
from hybrid_memory.models import MemoryNode

Found = dict[str, dict[str, float]]


class TermIndex:
    """Words of the memories of one user. Memories that stayed the same are not read again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: GraphView | None = None
        self._known: dict[str, MemoryNode] = {}
        self._words: dict[str, dict[str, float]] = {}
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        self._entities: defaultdict[str, set[str]] = defaultdict(set)

    def lookup(self, view: GraphView, words: Iterable[str]) -> tuple[Found, dict[str, int]]:
        """The memories of a snapshot that hold any of the words, each with the words it holds; the holders per word."""
        with self._lock:
            self._follow(view)
            found: Found = defaultdict(dict)
            counts = {}
            for word in words:
                holders = self._holders.get(word, ())
                counts[word] = len(holders)
                for node_id in holders:
                    found[node_id][word] = self._words[node_id][word]
            return found, counts

    def entities(self, view: GraphView, entity_id: str) -> list[str]:
        """The entities of a snapshot that have this id in any system."""
        with self._lock:
            self._follow(view)
            return sorted(self._entities.get(entity_id.casefold(), ()))

    def _follow(self, view: GraphView) -> None:
        if view is self._view:
            return
        there = {node.node_id: node for node in view.memories()}
        for node_id in [node_id for node_id, node in self._known.items() if there.get(node_id) is not node]:
            self._drop(node_id)
        for node_id, node in there.items():
            if node_id not in self._known:
                self._add(node)
        self._view = view

    def _add(self, node: MemoryNode) -> None:
        self._known[node.node_id] = node
        self._words[node.node_id] = weights = weighted_terms(node)
        for word in weights:
            self._holders[word].add(node.node_id)
        for entity_id in entity_ids(node):
            self._entities[entity_id].add(node.node_id)

    def _drop(self, node_id: str) -> None:
        for index, keys in (
            (self._holders, self._words.pop(node_id)),
            (self._entities, entity_ids(self._known.pop(node_id))),
        ):
            for key in keys:
                index[key].discard(node_id)
                if not index[key]:
                    del index[key]
