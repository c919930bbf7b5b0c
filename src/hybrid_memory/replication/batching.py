"""Which writes may share a statement."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hybrid_memory.postgres.batches import Applied, Embedding, Kind, Operation

MOST_OPERATIONS = 128
_ENDS = ("node_id", "from_node_id", "to_node_id")


@dataclass(frozen=True, slots=True)
class Write:
    """What a caller wants written: the columns of a row, before it has a number."""

    kind: Kind
    row: Mapping[str, Any]
    embeddings: tuple[Embedding, ...] = ()


class Applies(Protocol):
    """What applies numbered operations, exactly once; see `Batches` for what is promised."""

    async def apply(
        self,
        batches: Mapping[str, Sequence[Operation]],
        *,
        echo: Collection[str] = (),
        timeout: float | None = None,
    ) -> dict[str, Applied]:
        """Apply each user's operations, all or none of them, and say how far each user is."""


def key_of(row: Mapping[str, Any]) -> object:
    """What a row is stored under: its id, or the ends and the type of a relationship."""
    return row["node_id"] if "node_id" in row else (row["from_node_id"], row["to_node_id"], row["relationship_type"])


@dataclass(slots=True)
class Batch:
    """Writes of one user that are applied by one statement.

    A key appears once, because a statement touches a row once; and because deletions run last, nothing that mentions
    a deleted node follows its deletion.
    """

    size: int = 0
    _keys: set[object] = field(default_factory=set)
    _deleted: set[object] = field(default_factory=set)

    def takes(self, writes: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
        """Add writes that belong together, or leave them for the next batch. An empty batch takes everything."""
        writes = list(writes)
        new = {key for kind, row in writes for key in _keys_of(row)}
        mentioned = {row.get(end) for _, row in writes for end in _ENDS}
        full = self.size + len(writes) > MOST_OPERATIONS
        if self.size and (full or self._keys & new or self._deleted & mentioned):
            return False
        self.size += len(writes)
        self._keys |= new
        self._deleted |= {row["node_id"] for kind, row in writes if kind == "deletes"}
        return True


def in_batches(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Operations of one user in their order, in as few batches as they fit into."""
    chunk: list[Operation] = []
    batch = Batch()
    for one in operations:
        if not batch.takes([(one.kind, one.row)]):
            yield chunk
            chunk, batch = [], Batch()
            batch.takes([(one.kind, one.row)])
        chunk.append(one)
    if chunk:
        yield chunk


def _keys_of(row: Mapping[str, Any]) -> list[object]:
    """What a write goes to; a deleted node and the same node put again share a key.

    Equal contents that are to be stored once do not meet in a statement either: the second has to find the first.
    """
    twins = [(row["context_type"], row["content_hash"])] if row.get("only_once") else []
    return [key_of(row), *twins]
