"""Which memories hold a word: an inverted index."""

from collections import defaultdict
from collections.abc import Iterable

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.terms import entity_ids, weighted_terms
from hybrid_memory.recall.view_index import ViewIndex

Found = dict[str, dict[str, float]]


class TermIndex(ViewIndex):
    """Words of the memories of one user."""

    def __init__(self) -> None:
        super().__init__()
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

    def _indexed(self, view: GraphView) -> Iterable[MemoryNode]:
        return view.memories()

    def _add(self, node: MemoryNode) -> None:
        self._words[node.node_id] = weights = weighted_terms(node)
        for word in weights:
            self._holders[word].add(node.node_id)
        for entity_id in entity_ids(node):
            self._entities[entity_id].add(node.node_id)

    def _drop(self, node: MemoryNode) -> None:
        for index, keys in (
            (self._holders, self._words.pop(node.node_id)),
            (self._entities, entity_ids(node)),
        ):
            for key in keys:
                index[key].discard(node.node_id)
                if not index[key]:
                    del index[key]
