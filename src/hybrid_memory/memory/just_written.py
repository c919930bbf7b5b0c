"""What this process has just written of a user and knows to have no vectors: nobody has to look for it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from hybrid_memory.graph.view import is_stub
from hybrid_memory.models import MemoryNode
from hybrid_memory.postgres.batches import Applied

_MEMORIES_OF_A_PORTION = 256
# More of one user are looked for page by page: a statement that keeps their vectors keeps the user's writes waiting.
_MOST_MEMORIES = 256


@dataclass(frozen=True, slots=True)
class JustWritten:
    """New memories of one user: all that came with some of the user's versions."""

    user_id: str
    incarnation: str
    versions: frozenset[int]
    nodes: Mapping[str, MemoryNode]

    @classmethod
    def of(cls, applied: Applied) -> Self | None:
        """What came with a write; None where that is not known or much, or something may have its vectors already."""
        written = applied.written
        if written is None or applied.incarnation is None or applied.vectors is None or applied.vectors:
            return None
        if len(written.nodes) > _MOST_MEMORIES:
            return None
        # What was there before may say the same as before.
        if any(node.created_at != node.updated_at for node in written.nodes):
            return None
        nodes = {node.node_id: node for node in written.nodes}
        return cls(applied.user_id, applied.incarnation, frozenset((applied.version,)), nodes)

    def includes(self, applied: Applied) -> bool:
        """Whether a write is in here."""
        return applied.version in self.versions and applied.incarnation == self.incarnation

    def joined(self, other: "JustWritten | None") -> "JustWritten | None":
        """Both, of each memory what is newer; None when that is much, not known, or of another life of the user."""
        if other is None or other.incarnation != self.incarnation:
            return None
        if len(self.nodes) + len(other.nodes) > _MOST_MEMORIES:
            return None
        nodes = dict(self.nodes)
        for node_id, node in other.nodes.items():
            if node_id not in nodes or (nodes[node_id].version or 0) <= (node.version or 0):
                nodes[node_id] = node
        return JustWritten(self.user_id, self.incarnation, self.versions | other.versions, nodes)

    def memories(self) -> Iterator[MemoryNode]:
        """Those that get vectors."""
        return (node for node in self.nodes.values() if not is_stub(node))

    @property
    def span(self) -> tuple[int, int | None]:
        """After which version, and up to which one, nothing else was written; up to None where something was."""
        since, last = min(self.versions) - 1, max(self.versions)
        return since, last if last - since == len(self.versions) else None


def in_portions(several: Iterable[JustWritten]) -> Iterator[list[JustWritten]]:
    """Users, so many at a time that they have a few hundred memories together."""
    portion: list[JustWritten] = []
    memories = 0
    for one in several:
        portion.append(one)
        memories += len(one.nodes)
        if memories >= _MEMORIES_OF_A_PORTION:
            yield portion
            portion, memories = [], 0
    if portion:
        yield portion
