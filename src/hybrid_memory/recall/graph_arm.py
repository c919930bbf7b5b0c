"""What is connected with the question: by relationships, or by speaking of an entity that is."""

from collections.abc import Mapping

import numpy as np

from hybrid_memory.graph.largest import nth_largest
from hybrid_memory.graph.view import GraphView, is_stub
from hybrid_memory.recall.columns import Floats
from hybrid_memory.recall.corpus import Corpus
from hybrid_memory.recall.entity_index import EntityIndex, names_of
from hybrid_memory.recall.mentions import named
from hybrid_memory.recall.passage import ENTITY
from hybrid_memory.recall.walk import Reached, Walk, strongest

# The best matches by other ways lead on too, less surely than what the question names.
_LEADING = 5
_LED = 0.5
# What is named is asked about; what it leads to is wanted more.
_ITSELF = 0.5
_ENTITIES_SPOKEN_OF = 8
_SPOKEN_OF = 0.6
_MOST_SPEAKERS = 200


class GraphArm:
    """Walks from what a question names, and from what fits it best."""

    def __init__(self, entities: EntityIndex) -> None:
        self._entities = entities
        self._walk = Walk()

    def scores(
        self, corpus: Corpus, view: GraphView, text: str, matched: Floats
    ) -> tuple[Floats | None, Mapping[str, Reached]]:
        """How strongly each memory is connected, from 0 to 1, where any is, and what was reached on which way."""
        meant = named(self._entities, view, text, corpus.language.empty)
        leading = _highest(matched, _LEADING) if view.edge_count else []
        seeds = {corpus.node_at(slot).node_id: _LED * float(matched[slot]) for slot in leading} | meant
        if not seeds:
            return None, {}
        scores = np.zeros(corpus.columns.used, np.float32)
        reached = self._walk.reached(view, seeds)
        for node_id, way in reached.items():
            slot = corpus.slots.get(node_id)
            if slot is not None and (len(way.path) > 1 or node_id in meant):
                scores[slot] = way.strength if len(way.path) > 1 else _ITSELF * way.strength
        self._spread_by_name(corpus, view, reached, scores)
        if not scores.any():
            return None, {}
        return scores, {node_id: way for node_id, way in reached.items() if len(way.path) > 1 or node_id in meant}

    def _spread_by_name(self, corpus: Corpus, view: GraphView, reached: Mapping[str, Reached], scores: Floats) -> None:
        """What speaks of an entity is connected with it, without a relationship."""
        entities = (
            (node_id, way)
            for node_id, way in reached.items()
            if (node := view.node(node_id)) is not None and node.context_type == ENTITY and not is_stub(node)
        )
        for node_id, way in strongest(entities, _ENTITIES_SPOKEN_OF):
            for name in names_of(view.nodes_by_id[node_id]):
                slots = corpus.holding_all(set(corpus.language.terms(name)))
                if len(slots) <= _MOST_SPEAKERS:
                    scores[slots] = np.maximum(scores[slots], _SPOKEN_OF * way.strength)


def _highest(scores: Floats, most: int) -> list[int]:
    """The slots of the highest scores, without those of nothing."""
    least = nth_largest(scores, most) if most < len(scores) else 0.0
    found = np.flatnonzero(scores >= least if least > 0 else scores > 0)
    # Of many that are equal none leads.
    return found.tolist() if len(found) <= 2 * most else []
