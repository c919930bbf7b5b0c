"""What the entities of one user are called: ids, names and aliases, without case and extra spaces."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

from hybrid_memory.graph.view import GraphView, is_stub
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.passage import ENTITY
from hybrid_memory.recall.view_index import ViewIndex

By = Literal["id", "name", "alias"]
_RANK: tuple[By, ...] = ("id", "name", "alias")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def folded(text: str) -> str:
    """The form in which names are compared."""
    return " ".join(text.casefold().split())


class EntityIndex(ViewIndex):
    """The entities by everything they are called; stubs too, by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self._called: defaultdict[str, dict[str, By]] = defaultdict(dict)
        self._first_words: Counter[str] = Counter()

    def is_empty(self, view: GraphView) -> bool:
        """Whether nothing in a snapshot is called anything."""
        with self._lock:
            self._follow(view)
            return not self._first_words

    def any_begins_with(self, view: GraphView, word: str) -> bool:
        """Whether something in a snapshot is called by that word, or by words of which it is the first."""
        with self._lock:
            self._follow(view)
            return word in self._first_words

    def called(self, view: GraphView, text: str) -> list[tuple[MemoryNode, By]]:
        """What is called so in a snapshot: by an id first, then by its name, then by an alias.

        Of ids the one in the same case comes first, some systems tell them apart by it; else what changed last.
        """
        with self._lock:
            self._follow(view)
            called = self._called.get(folded(text))
            if not called:
                return []
            found = [(view.nodes_by_id[node_id], by) for node_id, by in called.items()]
        newest = sorted(found, key=lambda one: (one[0].updated_at or _LONG_AGO, one[0].node_id), reverse=True)
        return sorted(newest, key=lambda one: (_RANK.index(one[1]), text not in ids_of(one[0])))

    def _is_indexed(self, node: MemoryNode) -> bool:
        return node.context_type == ENTITY and isinstance(node.content, dict)

    def _add(self, node: MemoryNode) -> None:
        for name, by in _names(node):
            if node.node_id not in self._called[name]:
                self._called[name][node.node_id] = by
                self._first_words[name.partition(" ")[0]] += 1

    def _drop(self, node: MemoryNode) -> None:
        for name, _ in _names(node):
            holders = self._called.get(name)
            if holders is None or holders.pop(node.node_id, None) is None:
                continue
            if not holders:
                del self._called[name]
            first = name.partition(" ")[0]
            self._first_words[first] -= 1
            if not self._first_words[first]:
                del self._first_words[first]


def ids_of(node: MemoryNode) -> list[object]:
    """The ids an entity has in its own system."""
    return [node.content.get("entity_id"), *_listed(node, "other_ids")]


def names_of(node: MemoryNode) -> list[str]:
    """What an entity that is known is called: its name and its aliases."""
    return [str(one) for one in (node.content.get("entity_name"), *_listed(node, "aliases")) if one]


def _names(node: MemoryNode) -> Iterator[tuple[str, By]]:
    """The best first."""
    for own_id in ids_of(node):
        yield folded(str(own_id)), "id"
    if is_stub(node):
        return
    if node.content.get("entity_name"):
        yield folded(str(node.content["entity_name"])), "name"
    for alias in _listed(node, "aliases"):
        yield folded(str(alias)), "alias"


def _listed(node: MemoryNode, key: str) -> list[object]:
    found = node.content.get(key)
    return found if isinstance(found, list) else []
