"""Finding the memories of one user that a question is about: every way of finding, put together and explained."""

from collections.abc import Iterable
from datetime import datetime

from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import ArmScore, Explanation, MemoryNode, RecallHit
from hybrid_memory.recall import mentions
from hybrid_memory.recall.corpus import Corpus
from hybrid_memory.recall.entity_index import EntityIndex
from hybrid_memory.recall.fusion import Weights, Whatever
from hybrid_memory.recall.graph_arm import GraphArm
from hybrid_memory.recall.language import Language
from hybrid_memory.recall.lexical import Bm25
from hybrid_memory.recall.question import Question
from hybrid_memory.recall.search import Kept, Search

# Of so many memories it is looked at once whether any may be given, which takes less than to ask what they are about.
_FEW = 100


class Recall:
    """The search of one user's memory. Any thread may ask; what it knows of the words follows the snapshots."""

    def __init__(self, entities: EntityIndex, language: str = "english", weights: Weights | None = None) -> None:
        self._entities = entities
        w = weights or Weights()
        bm25 = Bm25(w.saturation, w.length_share, w.lending)
        self._kept = Kept(Corpus(Language(language)), GraphArm(entities), bm25, Whatever(w))

    def ranked(self, view: GraphView, question: Question, now: datetime) -> list[RecallHit]:
        """What fits a question in a snapshot, the best first; the same for the same snapshot, question and moment."""
        if _may_give_nothing(view, question):
            return []
        found = self._found(view, question, now)
        if question.min_score is not None:
            found = [hit for hit in found if hit.score >= question.min_score]
        return found[: question.limit]

    def _found(self, view: GraphView, question: Question, now: datetime) -> list[RecallHit]:
        """Entities called by their ids first; nothing is more relevant, and one that is the whole question is all."""
        text = question.text or ""
        leading: list[RecallHit] = []
        if not self._entities.is_empty(view):
            whole = self._called(mentions.exactly(self._entities, view, text), question, now)
            if whole:
                return whole
            leading = self._called(mentions.by_id(self._entities, view, text), question, now)
            if question.limit <= len(leading):
                return leading
        with self._kept.corpus.at(view):
            found = Search(self._kept, question, now).hits(view)
        if not leading:
            return found
        known = {hit.node.node_id for hit in leading}
        return leading + [hit for hit in found if hit.node.node_id not in known]

    def _called(self, nodes: Iterable[MemoryNode], question: Question, now: datetime) -> list[RecallHit]:
        return [
            RecallHit(node=node, score=1.0, explanation=_sure() if question.explain else None)
            for node in nodes
            if question.filters.admit(node, now)
        ]


def _may_give_nothing(view: GraphView, question: Question) -> bool:
    """Whether there are only few memories and the question admits none, such as what its prompt has already."""
    admits = question.filters.admits
    if admits is None or len(view.nodes_by_id) > _FEW:
        return False
    return not any(map(admits, view.memories()))


def _sure() -> Explanation:
    return Explanation(arms={"id": ArmScore(rank=1, score=1.0, weight=1.0, reason="called by its id")})
