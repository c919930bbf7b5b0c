"""The table `nodes`: memories as values."""

import json
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from hybrid_memory.models import MemoryNode
from hybrid_memory.postgres.database import Transaction

# What Postgres writes has no white space around it to look for, which is half the time of `json.loads`.
_decoded = json.JSONDecoder().raw_decode
_TIMES = ("written_at", "created_at", "updated_at", "last_accessed_at", "expires_at")


def node_from_json(user_id: str, row: dict[str, Any]) -> MemoryNode:
    """A memory from the columns that the queries of this table select, as Postgres writes a row in JSON."""
    times = {name: datetime.fromisoformat(row[name]) if row[name] else None for name in _TIMES}
    namespace = None if row["namespace"] is None else tuple(row["namespace"])
    return MemoryNode(user_id=user_id, **(row | times | {"tags": tuple(row["tags"]), "namespace": namespace}))


def node_from_row(user_id: str, row: Iterable[Any]) -> MemoryNode:
    """A memory from the columns that the queries of this table select."""
    # By place and name by name: a dictionary in between would double the time of a large load.
    (
        node_id,
        context_type,
        content,
        content_kind,
        summary,
        tags,
        metadata,
        importance,
        confidence,
        external_id,
        thread_id,
        seq,
        namespace,
        key,
        version,
        written_at,
        written_by,
        created_at,
        updated_at,
        last_accessed_at,
        access_count,
        expires_at,
    ) = row
    return MemoryNode(
        user_id=user_id,
        node_id=str(node_id),
        context_type=context_type,
        content=_decoded(content)[0],
        content_kind=content_kind,
        summary=summary,
        tags=tuple(tags),
        metadata=_decoded(metadata)[0],
        importance=importance,
        confidence=confidence,
        external_id=external_id,
        thread_id=thread_id,
        seq=seq,
        namespace=None if namespace is None else tuple(namespace),
        key=key,
        version=version,
        written_at=written_at,
        written_by=str(written_by),
        created_at=created_at,
        updated_at=updated_at,
        last_accessed_at=last_accessed_at,
        access_count=access_count,
        expires_at=expires_at,
    )


class Nodes:
    """One user's memories within one bound transaction."""

    def __init__(self, transaction: Transaction, user_id: str) -> None:
        self._transaction = transaction
        self._user_id = user_id

    async def get(self, node_id: str) -> MemoryNode | None:
        """One memory."""
        row = await self._transaction.fetchrow("nodes.get", user_id=self._user_id, node_id=UUID(node_id))
        return node_from_row(self._user_id, row) if row else None

    async def several(self, node_ids: Iterable[str]) -> list[MemoryNode]:
        """Those that are there, in no order."""
        ids = [UUID(node_id) for node_id in node_ids]
        return self.nodes(await self._transaction.fetch("nodes.several", user_id=self._user_id, node_ids=ids))

    async def items(self, prefix: Iterable[str], at: datetime, *, most: int | None = None) -> list[MemoryNode]:
        """The items of a store whose namespace begins so, without those that have expired at `at`, newest first."""
        labels = list(prefix)
        rows = await self._transaction.fetch("nodes.items", user_id=self._user_id, prefix=labels, at=at, most=most)
        return self.nodes(rows)

    async def entity(self, entity_system: str, entity_id: str) -> MemoryNode | None:
        """An entity by the identity it has in its own system."""
        row = await self._transaction.fetchrow(
            "nodes.entity", user_id=self._user_id, entity_system=entity_system, entity_id=entity_id
        )
        return node_from_row(self._user_id, row) if row else None

    async def changed_since(self, version: int = -1) -> list[MemoryNode]:
        """What came or changed after `version`, in no order; everything by default."""
        return self.nodes(await self._transaction.fetch("nodes.changed_since", user_id=self._user_id, version=version))

    async def arriving(self) -> AsyncIterator[list[MemoryNode]]:
        """Everything, in no order, portion by portion."""
        async for rows in self._transaction.stream("nodes.changed_since", user_id=self._user_id, version=-1):
            yield self.nodes(rows)

    async def newest(self, at: datetime, *, context_type: str | None = None, most: int = 50) -> list[MemoryNode]:
        """The latest memories that have not expired at `at`, newest first."""
        return self.nodes(
            await self._transaction.fetch(
                "nodes.newest", user_id=self._user_id, context_type=context_type, at=at, most=most
            )
        )

    async def of_thread(self, thread_id: str, *, most: int = 50) -> list[MemoryNode]:
        """The latest memories of a thread, in their order."""
        rows = await self._transaction.fetch("nodes.of_thread", user_id=self._user_id, thread_id=thread_id, most=most)
        return self.nodes(reversed(rows))

    def nodes(self, rows: Iterable[asyncpg.Record]) -> list[MemoryNode]:
        """The memories in rows of a query that selects what the queries of this table select."""
        return [node_from_row(self._user_id, row) for row in rows]
