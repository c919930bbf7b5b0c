"""What the entities of one user are called: ids, names and aliases, without case and extra spaces."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Literal

from hybrid_memory.graph.view import GraphView, is_stub
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.view_index import ViewIndex

ENTITY = "domain_entity"
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

    def called(self, view: GraphView, text: str) -> list[tuple[MemoryNode, By]]:
        """What is called so in a snapshot: by an id first, then by its name, then by an alias.

        Of ids the one in the same case comes first, some systems tell them apart by it; else what changed last.
        """
        with self._lock:
            self._follow(view)
            found = [(self._known[node_id], by) for node_id, by in self._called.get(folded(text), {}).items()]
        newest = sorted(found, key=lambda one: (one[0].updated_at or _LONG_AGO, one[0].node_id), reverse=True)
        return sorted(newest, key=lambda one: (_RANK.index(one[1]), text not in ids_of(one[0])))

    def _indexed(self, view: GraphView) -> Iterable[MemoryNode]:
        return (node for node in view.nodes() if node.context_type == ENTITY and isinstance(node.content, dict))

    def _add(self, node: MemoryNode) -> None:
        for name, by in _names(node):
            self._called[name].setdefault(node.node_id, by)

    def _drop(self, node: MemoryNode) -> None:
        for name, _ in _names(node):
            holders = self._called.get(name)
            if holders is not None:
                holders.pop(node.node_id, None)
                if not holders:
                    del self._called[name]


def ids_of(node: MemoryNode) -> list[object]:
    """The ids an entity has in its own system."""
    return [node.content.get("entity_id"), *_listed(node, "other_ids")]


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
