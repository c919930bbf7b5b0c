"""How a user's memory leaves `state.db`: portion by portion, in the order of versions, and then for good."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.local_rows import Counted, LocalRows, LocalState
from hybrid_memory.stamped import NodeVector, Stamp, StampedNode, StampedRelationship

MOST_ROWS = 256


@dataclass(frozen=True, slots=True)
class Portion:
    """Everything that came, changed or was deleted after what Postgres has, up to a version.

    With it comes what it does not stand without: ends of relationships that were changed later, the vectors of its
    memories, and the deletion before a memory was stored anew.
    """

    incarnation: str
    up_to: int
    tombstones: Mapping[str, Stamp] = field(default_factory=dict)
    nodes: Sequence[StampedNode] = ()
    relationships: Sequence[StampedRelationship] = ()
    vectors: Mapping[str, Sequence[NodeVector]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many rows and deletions it is, at least one: where all rows are gone, the version is news."""
        return len(self.nodes) + len(self.relationships) + len(self.tombstones) or 1


def next_portion(sql: Statements, user_id: str) -> Portion | None:
    """What is next; None when Postgres has everything, or nothing is here."""
    rows = LocalRows(sql, user_id)
    state = rows.state()
    if state is None or state.delivered >= state.version:
        return None
    end = rows.end_of_portion(state.delivered, MOST_ROWS)
    if end is None:
        return Portion(state.incarnation, state.version)
    found = rows.since(state.delivered, end)
    nodes = {one.node.node_id: one for one in found.nodes}
    ends = {node_id for one in found.relationships for node_id in one.key[:2]}
    described = {one.node_id for one in found.vectors}
    for node_id in (ends | described) - nodes.keys():
        there = rows.node(node_id)
        if there is not None and (node_id in described or (there.node.version or 0) > end):
            nodes[node_id] = there
    buried = ((node_id, rows.tombstone(node_id)) for node_id in nodes)
    return Portion(
        incarnation=state.incarnation,
        up_to=end,
        tombstones=found.tombstones | {node_id: stamp for node_id, stamp in buried if stamp is not None},
        nodes=list(nodes.values()),
        relationships=found.relationships,
        vectors={node_id: rows.vectors_of(node_id) for node_id in nodes},
    )


def note_delivered(sql: Statements, user_id: str, portion: Portion) -> None:
    """Postgres has a portion."""
    rows = LocalRows(sql, user_id)
    state = rows.state()
    if state is not None and state.incarnation == portion.incarnation:
        rows.keep_state(replace(state, delivered=max(state.delivered, portion.up_to)))


def leave(sql: Statements, user_id: str, counts: Callable[[Statements, LocalState, list[Counted]], None]) -> bool:
    """Remove all rows of a user if Postgres has everything but the `counts`, which is given them; whether it has."""
    rows = LocalRows(sql, user_id)
    state = rows.state()
    if state is None:
        return True
    if state.delivered < state.version:
        return False
    counts(sql, state, rows.counted())
    rows.forget_everything()
    return True


def rows_left(sql: Statements, user_id: str) -> int:
    """How many memories and relationships of a user are here."""
    state = LocalRows(sql, user_id).state()
    return 0 if state is None else state.node_count + state.relationship_count
