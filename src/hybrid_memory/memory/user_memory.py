"""`UserMemory`: what an agent reads of one user's memory: from the graph in the process, never from a database."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from hybrid_memory.graph.algorithms import Analysis
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.graph.view import GraphView, is_stub
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.identity import node_id_of
from hybrid_memory.memory.turn_index import TurnIndex
from hybrid_memory.models import MemoryNode, RecallHit, Relationship
from hybrid_memory.recall.engine import Recall
from hybrid_memory.recall.entity_index import By, EntityIndex, folded
from hybrid_memory.recall.question import Filters, Question, tags_of, types_of


class UserMemory:
    """The memories and relationships of one user, as they are at each call.

    Every call reads one consistent snapshot. What has expired is not there, and neither are stubs, the place-holders of
    entities that others already point at; their relationships are.
    """

    def __init__(self, graph: UserGraph, accesses: Accesses | None = None, language: str = "english") -> None:
        self._graph = graph
        self._accesses = accesses
        self._entities = EntityIndex()
        self._turns = TurnIndex()
        self._recall = Recall(self._entities, language)
        self._analysis: Analysis | None = None

    @property
    def user_id(self) -> str:
        """Whose memory it is."""
        return self._graph.user_id

    @property
    def version(self) -> int:
        """The version of the user's memory up to which every change is in here."""
        return self._graph.version

    @property
    def incarnation(self) -> str | None:
        """Which life of the user's memory it is; another one begins after it was changed by hand or erased."""
        return self._graph.incarnation

    @property
    def stale(self) -> bool:
        """Whether Postgres could not be asked whether this is still all of it."""
        return self._graph.stale

    @property
    def age(self) -> float | None:
        """Seconds since this was last known to be what Postgres holds; None when it never was."""
        return self._graph.age

    def get_all_nodes(self) -> list[MemoryNode]:
        """All memories, oldest first."""
        return list(self._graph.view().memories())

    def get_all_edges(self) -> list[Relationship]:
        """All relationships, in the order of their ends and types."""
        return list(self._graph.view().edges())

    def get_node(self, node_id: str | UUID) -> MemoryNode | None:
        """One memory, by its id or by the name the caller gave it; None when there is none. Counts as an access.

        Raises:
            InvalidInput: it is neither an id nor a name.
        """
        node = self.peek(node_id)
        self._read([node] if node is not None else [])
        return node

    def peek(self, node_id: str | UUID) -> MemoryNode | None:
        """The same, without counting as an access."""
        return self._graph.view().memory(self._own_id(node_id))

    def find_entity(
        self, text: str, *, entity_system: str | None = None, entity_type: str | None = None
    ) -> MemoryNode | None:
        """The entity that is called so, without case: by an id, else by its name, else by an alias; None without one.

        Of several, the one that changed last. Counts as an access.
        """
        for node, _ in self.entities_called(text):
            content = node.content
            if (
                not is_stub(node)
                and (entity_system is None or content.get("entity_system") == entity_system)
                and (entity_type is None or folded(str(content.get("entity_type"))) == folded(entity_type))
            ):
                self._read([node])
                return node
        return None

    def entities_called(self, text: str) -> list[tuple[MemoryNode, By]]:
        """All that is called so and by what, best first; among them stubs, which are called by their ids."""
        return self._entities.called(self._graph.view(), text)

    def newest_turns(self, thread_id: str, most: int) -> Sequence[MemoryNode]:
        """The newest turns of a conversation, oldest first. Being read in their order is no access."""
        return self._turns.newest(self._graph.view(), thread_id, most)

    def snapshot(self) -> GraphView:
        """What there is now, for an index that follows it."""
        return self._graph.view()

    def retrieve_relevant(
        self,
        query_text: str,
        *,
        context_filter: Iterable[str] | None = None,
        max_age_hours: float | None = None,
        min_relevance: float | None = None,
        max_results: int = 10,
        required_tags: Iterable[str] | None = None,
        excluded_tags: Iterable[str] | None = None,
    ) -> list[MemoryNode]:
        """The memories a query is about, the most relevant first; nothing for a query whose words are in none.

        A query that is the id of an entity in its own system gives that entity alone; one that mentions such an id
        gives the entity first. Memories fade with time, each type at its own speed. Filters apply before ranking:
        the types to look at, the age, all of the required and none of the excluded tags (without case). What is given
        counts as accessed.
        """
        filters = Filters(
            context_types=types_of(context_filter),
            max_age_hours=max_age_hours,
            required_tags=tags_of(required_tags),
            excluded_tags=tags_of(excluded_tags),
        )
        question = Question(text=query_text, filters=filters, limit=max_results, min_score=min_relevance, graph=False)
        given = [hit.node for hit in self.ranked(question)]
        self._read(given)
        return given

    def ranked(self, question: Question) -> list[RecallHit]:
        """What fits a question, the best first, with scores. Does not count as an access."""
        return self._recall.ranked(self._graph.view(), question, self._graph.clock())

    def get_related_nodes(
        self, node_id: str | UUID, *, relationship_types: Iterable[str] | None = None, max_distance: int = 2
    ) -> list[MemoryNode]:
        """The memories within some steps along relationships in either direction.

        The nearest come first, of equally near ones those that the strongest relationship leads to.
        """
        view = self._graph.view()
        start = self._own_id(node_id)
        types = None if relationship_types is None else _names(relationship_types)
        seen, level, related = {start}, [start], []
        for _ in range(max_distance):
            level = _next_level(view, level, seen, types)
            seen.update(level)
            related += [node for other in level if (node := view.memory(other)) is not None]
        return related

    def find_important_memories(self, n: int = 10) -> list[tuple[MemoryNode, float]]:
        """The memories that others lead to, with their PageRank; the strength of relationships counts."""
        return list(self._analysed().important()[: max(0, n)])

    def find_memory_clusters(self) -> list[list[MemoryNode]]:
        """The groups of memories that belong together, the largest first; one without relationships is its own."""
        return [list(cluster) for cluster in self._analysed().clusters()]

    def find_bridge_memories(self, n: int = 5) -> list[tuple[MemoryNode, float]]:
        """The memories that join others which nothing else joins so closely, with their betweenness."""
        return list(self._analysed().bridges()[: max(0, n)])

    def get_statistics(self) -> dict[str, Any]:
        """Figures about what is in here now."""
        analysis = self._analysed()
        memories, edges = analysis.view.memories(), analysis.view.edges()
        return {
            "total_nodes": len(memories),
            "nodes_by_type": dict(sorted(Counter(node.context_type for node in memories).items())),
            "total_tags": len({tag for node in memories for tag in node.tags}),
            "total_entities": sum(node.context_type == "domain_entity" for node in memories),
            "total_edges": len(edges),
            "edges_by_type": dict(sorted(Counter(edge.relationship_type for edge in edges).items())),
            "density": analysis.density(),
            "version": analysis.view.version,
            "stale": self.stale,
            "age": self.age,
        }

    def _read(self, nodes: Iterable[MemoryNode]) -> None:
        if self._accesses is not None:
            self._accesses.count(self.user_id, (node.node_id for node in nodes))

    def _own_id(self, node_id: str | UUID) -> str:
        return node_id_of(self._graph.user_id, node_id)[0]

    def _analysed(self) -> Analysis:
        """The analysis of what there is now; the same one until something changes."""
        view, analysis = self._graph.view(), self._analysis
        if analysis is None or analysis.view is not view:
            analysis = self._analysis = Analysis(view)
        return analysis


def _names(given: Iterable[str]) -> frozenset[str]:
    return frozenset((given,) if isinstance(given, str) else given)


def _next_level(view: GraphView, level: Iterable[str], seen: set[str], types: frozenset[str] | None) -> list[str]:
    """The nodes one step further, those that the strongest relationship leads to first."""
    strength: dict[str, float] = {}
    for node_id in level:
        for edge in view.edges_of(node_id):
            other = edge.to_node_id if edge.from_node_id == node_id else edge.from_node_id
            if other not in seen and (types is None or edge.relationship_type in types):
                strength[other] = max(strength.get(other, 0.0), edge.strength)
    return sorted(strength, key=lambda other: (-strength[other], other))
