"""The table `relationships`: edges as values."""

import json
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from hybrid_memory.models import Relationship
from hybrid_memory.postgres.database import Transaction


def relationship_from_json(user_id: str, row: dict[str, Any]) -> Relationship:
    """A relationship from the columns that the queries of this table select, as Postgres writes a row in JSON."""
    return Relationship(
        user_id=user_id,
        from_node_id=row["from_node_id"],
        to_node_id=row["to_node_id"],
        relationship_type=row["relationship_type"],
        strength=row["strength"],
        metadata=row["metadata"],
        version=row["version"],
        created_at=datetime.fromisoformat(row["created_at"]),
        updated_at=datetime.fromisoformat(row["updated_at"]),
    )


def relationship_from_row(user_id: str, row: asyncpg.Record) -> Relationship:
    """A relationship from the columns that the queries of this table select."""
    return Relationship(
        user_id=user_id,
        from_node_id=str(row["from_node_id"]),
        to_node_id=str(row["to_node_id"]),
        relationship_type=row["relationship_type"],
        strength=row["strength"],
        metadata=json.loads(row["metadata"]),
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


class Relationships:
    """One user's relationships within one bound transaction."""

    def __init__(self, transaction: Transaction, user_id: str) -> None:
        self._transaction = transaction
        self._user_id = user_id

    async def changed_since(self, version: int = -1) -> list[Relationship]:
        """What came or changed after `version`, in no order; everything by default."""
        return self.edges(
            await self._transaction.fetch("relationships.changed_since", user_id=self._user_id, version=version)
        )

    async def arriving(self) -> AsyncIterator[list[Relationship]]:
        """Everything, in no order, portion by portion."""
        async for rows in self._transaction.stream("relationships.changed_since", user_id=self._user_id, version=-1):
            yield self.edges(rows)

    async def leading_to(self, node_id: str) -> list[Relationship]:
        """The relationships that end at a memory."""
        return self.edges(
            await self._transaction.fetch("relationships.leading_to", user_id=self._user_id, node_id=UUID(node_id))
        )

    def edges(self, rows: Iterable[asyncpg.Record]) -> list[Relationship]:
        """The relationships in rows of a query that selects what the queries of this table select."""
        return [relationship_from_row(self._user_id, row) for row in rows]
