"""A snapshot of one user's graph at one moment, which never changes: what every reader reads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, compress
from operator import is_not
from weakref import ref

from hybrid_memory.graph.delta import edge_key
from hybrid_memory.graph.layered import Layered
from hybrid_memory.graph.rows import Rows
from hybrid_memory.models import MemoryNode, Relationship

# What changed in a graph's rows from one snapshot to the next: ids of what came, changed or went; it only grows.
Journal = Sequence[Iterable[str]]
_NEVER = datetime.max.replace(tzinfo=UTC)


def is_stub(node: MemoryNode) -> bool:
    """Whether it only holds the place of an entity that is spoken of and not there yet."""
    return node.context_type == "domain_entity" and node.metadata.get("stub") is True


@dataclass(frozen=True, slots=True)
class Changes:
    """Nodes that came, changed or went between two snapshots, as they were and as they are."""

    before: list[MemoryNode]
    after: list[MemoryNode]


class GraphView:
    """The memories that have not expired, and the relationships between them.

    Stubs are nodes, so that what they join stays joined, but they are no memories.

    Args:
        rows: of which it is a copy.
        incarnation, version: of the rows.
        at: what has expired by then is not in it.
        journal: what changed until now; without it nobody knows what may have.
    """

    def __init__(
        self, rows: Rows, *, incarnation: str | None, version: int, at: datetime, journal: Journal | None = None
    ) -> None:
        self.incarnation = incarnation
        self.version = version
        self._rows = rows.copy()
        self.expired = [node_id for node_id, expires_at in rows.expiring.items() if expires_at <= at]
        if self.expired:
            self._rows.remove(self.expired)
        self.journal, self.entry = journal, len(journal or ())
        self._holds_until = min(self._rows.expiring.values(), default=_NEVER)
        self._changes: tuple[ref[GraphView], Changes] | None = None
        self._memories: tuple[MemoryNode, ...] | None = None
        self._edges: tuple[Relationship, ...] | None = None

    def changes_since(self, earlier: "GraphView | None") -> Changes:
        """What is different from an earlier snapshot of the same graph; found out once for all who follow both."""
        known = self._changes
        if known is None or known[0]() is not earlier or earlier is None:
            before = Layered[MemoryNode]() if earlier is None else earlier.nodes_by_id
            after, may_differ = self.nodes_by_id, self._may_differ(earlier)
            if may_differ is None:
                changes = _difference(before.merged(), after.merged())
            else:
                changes = _difference_among(may_differ, before, after)
            if earlier is None:
                return changes
            # Weakly: a snapshot must not keep all that were before it.
            known = self._changes = (ref(earlier), changes)
        return known[1]

    def _may_differ(self, earlier: "GraphView | None") -> Iterable[str] | None:
        """The ids of what may be different from an earlier snapshot; None when that is not known."""
        if earlier is None or self.journal is None or self.journal is not earlier.journal:
            return None
        first, last = sorted((earlier.entry, self.entry))
        entries = self.journal[first:last]
        return dict.fromkeys(chain(chain.from_iterable(entries), self.expired, earlier.expired))

    def holds_at(self, moment: datetime) -> bool:
        """Whether nothing in here has expired by then."""
        return moment < self._holds_until

    def nodes(self) -> Iterator[MemoryNode]:
        """Memories and stubs, in no order."""
        return iter(self._rows.nodes.merged().values())

    @property
    def nodes_by_id(self) -> Layered[MemoryNode]:
        """The same by their ids."""
        return self._rows.nodes

    def node(self, node_id: str) -> MemoryNode | None:
        """One memory or stub."""
        return self._rows.nodes.get(node_id)

    def memory(self, node_id: str) -> MemoryNode | None:
        """One memory."""
        node = self.node(node_id)
        return None if node is None or is_stub(node) else node

    def memories(self) -> tuple[MemoryNode, ...]:
        """All memories, oldest first; the order does not depend on how they came in."""
        if self._memories is None:
            self._memories = tuple(sorted((node for node in self.nodes() if not is_stub(node)), key=_by_age))
        return self._memories

    @property
    def edge_count(self) -> int:
        """How many relationships there are."""
        return self._rows.edge_count

    def edges(self) -> tuple[Relationship, ...]:
        """All relationships in the order of their keys."""
        if self._edges is None:
            self._edges = tuple(sorted(chain.from_iterable(self._rows.outgoing.merged().values()), key=edge_key))
        return self._edges

    def edges_of(self, node_id: str) -> Iterator[Relationship]:
        """The relationships that leave or reach a node."""
        return chain(self._rows.outgoing.get(node_id, ()), self._rows.incoming.get(node_id, ()))

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._rows.nodes


def _by_age(node: MemoryNode) -> tuple[datetime, str]:
    return node.created_at or _NEVER, node.node_id


def _difference_among(
    may_differ: Iterable[str], before: Mapping[str, MemoryNode], after: Mapping[str, MemoryNode]
) -> Changes:
    """Nodes that stayed are the same objects."""
    pairs = [(before.get(node_id), after.get(node_id)) for node_id in may_differ]
    different = [(old, new) for old, new in pairs if old is not new]
    return Changes([old for old, _ in different if old], [new for _, new in different if new])


def _difference(before: Mapping[str, MemoryNode], after: Mapping[str, MemoryNode]) -> Changes:
    """The same where it is not known which may have changed: all are looked at."""
    new = list(compress(after.values(), map(is_not, map(before.get, after), after.values())))
    old = [before[node.node_id] for node in new if node.node_id in before]
    if len(after) - len(new) != len(before) - len(old):
        old += [node for node_id, node in before.items() if node_id not in after]
    return Changes(old, new)
