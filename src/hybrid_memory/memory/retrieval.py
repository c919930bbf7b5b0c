"""Finding the memories of one user that a query is about: filters, the words they share with it, and time."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from hybrid_memory.graph.view import GraphView
from hybrid_memory.memory.relevance import age_hours, overlap, rarity, relevance, vitality
from hybrid_memory.memory.term_index import TermIndex
from hybrid_memory.memory.terms import terms_of
from hybrid_memory.models import MemoryNode

Scored = tuple[MemoryNode, float]
_AROUND_AN_ID = ".,;:!?()[]{}<>'\"`"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which memories are looked at. Tags are compared without case."""

    context_types: frozenset[str] | None = None
    max_age_hours: float | None = None
    required_tags: frozenset[str] = frozenset()
    excluded_tags: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        context_types: Iterable[str] | None,
        max_age_hours: float | None,
        required_tags: Iterable[str] | None,
        excluded_tags: Iterable[str] | None,
    ) -> "Filters":
        """From what a caller gives: any iterable, or one name; None is no filter."""
        return cls(
            None if context_types is None else frozenset(_several(context_types)),
            max_age_hours,
            frozenset(tag.casefold() for tag in _several(required_tags)),
            frozenset(tag.casefold() for tag in _several(excluded_tags)),
        )

    def admit(self, node: MemoryNode, now: datetime) -> bool:
        """Whether a memory is looked at."""
        if self.context_types is not None and node.context_type not in self.context_types:
            return False
        if self.max_age_hours is not None and not age_hours(node, now) <= self.max_age_hours:
            return False
        if not self.required_tags and not self.excluded_tags:
            return True
        tags = {tag.casefold() for tag in node.tags}
        return self.required_tags <= tags and self.excluded_tags.isdisjoint(tags)


class Retrieval:
    """The search of one user's memory by words."""

    def __init__(self) -> None:
        self._index = TermIndex()

    def ranked(self, view: GraphView, query: str, filters: Filters, now: datetime) -> list[Scored]:
        """What passes the filters and shares words with the query, by relevance; the newer of equals first."""
        whole = self._named(view, [query.strip()], filters, now)
        if whole:
            return whole
        named = self._named(view, _ids_within(query), filters, now)
        leading = {node.node_id for node, _ in named}
        return named + [
            scored for scored in self._matching(view, query, filters, now) if scored[0].node_id not in leading
        ]

    def _named(self, view: GraphView, ids: Iterable[str], filters: Filters, now: datetime) -> list[Scored]:
        """The entities the query calls by their ids; nothing is more relevant."""
        found = dict.fromkeys(node_id for entity_id in ids for node_id in self._index.entities(view, entity_id))
        return [(node, 1.0) for node in _admitted(view, found, filters, now)]

    def _matching(self, view: GraphView, query: str, filters: Filters, now: datetime) -> list[Scored]:
        words = terms_of(query)
        found, holders = self._index.lookup(view, words)
        total = len(view.memories())
        rarities = [(word, rarity(holders[word], total)) for word in words]
        scored = [
            (node, relevance(overlap(found[node.node_id], rarities), vitality(node, now)))
            for node in _admitted(view, found, filters, now)
        ]
        return sorted(scored, key=lambda one: (-one[1], age_hours(one[0], now), one[0].node_id))


def _admitted(view: GraphView, node_ids: Iterable[str], filters: Filters, now: datetime) -> list[MemoryNode]:
    nodes = (view.memory(node_id) for node_id in node_ids)
    return [node for node in nodes if node is not None and filters.admit(node, now)]


def _ids_within(query: str) -> list[str]:
    """The words that could be an id: entities called "sales" are not meant by everyone who says it."""
    words = (word.strip(_AROUND_AN_ID) for word in query.split())
    return [word for word in words if any(letter.isdigit() for letter in word)]


def _several(given: Iterable[str] | None) -> Iterable[str]:
    return () if given is None else (given,) if isinstance(given, str) else given
