"""A user's rows with all that the next write to them is merged by, to be kept where there is no Postgres."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from hybrid_memory.postgres.database import Transaction
from hybrid_memory.postgres.nodes import node_from_row
from hybrid_memory.postgres.relationships import relationship_from_row
from hybrid_memory.stamped import NodeVector, Stamp, StampedNode, StampedRelationship


class Copies:
    """One user's rows within one bound transaction, portion by portion."""

    def __init__(self, transaction: Transaction, user_id: str) -> None:
        self._transaction = transaction
        self._user_id = user_id

    async def nodes(self) -> AsyncIterator[list[StampedNode]]:
        """Memories."""
        async for rows in self._transaction.stream("copies.nodes", user_id=self._user_id):
            yield [self._node(tuple(row)) for row in rows]

    async def relationships(self) -> AsyncIterator[list[StampedRelationship]]:
        """Relationships."""
        async for rows in self._transaction.stream("copies.relationships", user_id=self._user_id):
            yield [
                StampedRelationship(
                    relationship_from_row(self._user_id, row), (row["written_at"], str(row["written_by"]))
                )
                for row in rows
            ]

    async def tombstones(self) -> AsyncIterator[dict[str, Stamp]]:
        """Deletions."""
        async for rows in self._transaction.stream("copies.tombstones", user_id=self._user_id):
            yield {str(node_id): (written_at, str(written_by)) for node_id, written_at, written_by in rows}

    async def vectors(self) -> AsyncIterator[list[NodeVector]]:
        """Vectors."""
        async for rows in self._transaction.stream("copies.embeddings", user_id=self._user_id):
            yield [
                NodeVector(str(node_id), field, model, (half if whole is None else whole).to_list(), content_hash)
                for node_id, field, model, whole, half, content_hash in rows
            ]

    def _node(self, row: Sequence[Any]) -> StampedNode:
        *columns, content_hash, clocks = row
        return StampedNode(node_from_row(self._user_id, columns), content_hash, json.loads(clocks))
