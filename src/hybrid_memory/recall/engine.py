"""Finding the memories of one user that a query is about: filters, the words they share with it, and time."""

from collections.abc import Iterable
from datetime import datetime

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode, RecallHit
from hybrid_memory.recall.question import Filters, Question
from hybrid_memory.recall.relevance import age_hours, overlap, rarity, relevance, vitality
from hybrid_memory.recall.term_index import TermIndex
from hybrid_memory.recall.terms import terms_of

Scored = tuple[MemoryNode, float]
_AROUND_AN_ID = ".,;:!?()[]{}<>'\"`"


class Recall:
    """The search of one user's memory. Any thread may ask; what it knows of the words follows the snapshots."""

    def __init__(self) -> None:
        self._index = TermIndex()

    def ranked(self, view: GraphView, question: Question, now: datetime) -> list[RecallHit]:
        """What fits a question in a snapshot, the best first; the same for the same snapshot, question and moment."""
        found = self._found(view, question.text, question.filters, now)
        least = float("-inf") if question.min_score is None else question.min_score
        enough = [RecallHit(node=node, score=score) for node, score in found if score >= least]
        return enough[: max(0, question.limit)]

    def _found(self, view: GraphView, query: str, filters: Filters, now: datetime) -> list[Scored]:
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
