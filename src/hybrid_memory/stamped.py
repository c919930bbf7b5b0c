"""Rows with what decides between two writes of them, for where this process applies writes itself.

A caller never sees this: the clocks of an entity's keys, the hash of a content and the stamp of a relationship matter
only to whoever merges the next write into the row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hybrid_memory.models import NEVER_WRITTEN_BY, MemoryNode, Relationship

# When something was written, and by which instance. Of two writes the greater one counts.
Stamp = tuple[datetime, str]
RelationshipKey = tuple[str, str, str]

BEFORE_ALL: Stamp = (datetime(1970, 1, 1, tzinfo=UTC), NEVER_WRITTEN_BY)


@dataclass(frozen=True, slots=True)
class StampedNode:
    """A memory, the hash of its content (as hexadecimal text) and, for an entity, the clock of each of its keys."""

    node: MemoryNode
    content_hash: str | None = None
    clocks: Mapping[str, str] = field(default_factory=dict)

    @property
    def stamp(self) -> Stamp:
        """When and by whom it was written last."""
        return (self.node.written_at or BEFORE_ALL[0], self.node.written_by)


@dataclass(frozen=True, slots=True)
class StampedRelationship:
    """A relationship, and when and by whom it was written last."""

    relationship: Relationship
    stamp: Stamp = BEFORE_ALL

    @property
    def key(self) -> RelationshipKey:
        """What tells it from the other relationships of its user."""
        one = self.relationship
        return one.from_node_id, one.to_node_id, one.relationship_type


@dataclass(frozen=True, slots=True)
class NodeVector:
    """A vector of a memory; the hash says of which content."""

    node_id: str
    field: str
    model: str
    values: Sequence[float]
    content_hash: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch does to the rows of one user: rows as they are afterwards, and what is gone.

    `nodes` has every row that is different, those among them that were only counted as accessed. `parted` are the
    relationships that went with a deleted memory. Vectors of a memory in `outdated` go, unless they are of the content
    that it has now. The counts are differences.
    """

    nodes: Mapping[str, StampedNode] = field(default_factory=dict)
    relationships: Mapping[RelationshipKey, StampedRelationship] = field(default_factory=dict)
    deleted: Collection[str] = ()
    parted: Collection[RelationshipKey] = ()
    tombstones: Mapping[str, Stamp] = field(default_factory=dict)
    outdated: Collection[str] = ()
    vectors: Sequence[NodeVector] = ()
    node_count: int = 0
    relationship_count: int = 0
    entity_count: int = 0
