"""What changed in one user's memory between two versions, or all of it at one version."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from hybrid_memory.models import MemoryNode, Relationship

EdgeKey = tuple[str, str, str]
Row = TypeVar("Row", MemoryNode, Relationship)


def edge_key(edge: Relationship) -> EdgeKey:
    """What tells the relationships of one user apart."""
    return edge.from_node_id, edge.to_node_id, edge.relationship_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Rows as they are at `version`, and the memories deleted on the way there.

    A complete delta is everything there is. A partial one holds every change after version `since`, so the delta of a
    write that made version 7 has `since=6`: a graph that has not seen version 6 yet knows by it that something is
    missing. The incarnation is None for a user who has no row in Postgres.
    """

    incarnation: str | None
    version: int
    nodes: Sequence[MemoryNode] = ()
    relationships: Sequence[Relationship] = ()
    deleted: Collection[str] = ()
    complete: bool = False
    since: int | None = None

    def __post_init__(self) -> None:
        if self.complete != (self.since is None):
            raise ValueError("a delta is complete, or says since which version it has every change")
        if self.since is not None and self.since > self.version:
            raise ValueError(f"a delta cannot lead from version {self.since} back to {self.version}")

    def covers(self, version: int) -> bool:
        """Whether nothing is missing between `version` and the changes in here."""
        return self.since is None or self.since <= version

    def then(self, *later: "Delta") -> "Delta":
        """This delta and those that follow it without a gap, as one."""
        nodes: dict[str, MemoryNode] = {}
        edges: dict[EdgeKey, Relationship] = {}
        gone: set[str] = set()
        for delta in (self, *later):
            if delta.deleted:
                left = frozenset(delta.deleted)
                nodes = {node_id: node for node_id, node in nodes.items() if node_id not in left}
                edges = {key: edge for key, edge in edges.items() if left.isdisjoint(key[:2])}
                gone |= left
            nodes |= {node.node_id: node for node in delta.nodes}
            edges |= {edge_key(edge): edge for edge in delta.relationships}
        return replace(
            self,
            version=max(delta.version for delta in (self, *later)),
            nodes=tuple(nodes.values()),
            relationships=tuple(edges.values()),
            deleted=frozenset(gone),
        )

    def bounded(self) -> "Delta":
        """The same with no row newer than the delta.

        Rows older than the user's row in `user_metadata` (somebody emptied that table) have versions of an earlier
        count; taken at their word they would win against every change to come.
        """
        newer = [row for rows in (self.nodes, self.relationships) for row in rows if (row.version or 0) > self.version]
        if not newer:
            return self
        return replace(
            self,
            nodes=[_at_most(node, self.version) for node in self.nodes],
            relationships=[_at_most(edge, self.version) for edge in self.relationships],
        )


def _at_most(row: Row, version: int) -> Row:
    return replace(row, version=version) if (row.version or 0) > version else row
