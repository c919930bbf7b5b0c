"""The table `user_metadata`: versions, counters and what a cache compares itself with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.postgres.database import Transaction


@dataclass(frozen=True, slots=True)
class UserState:
    """Where a user's memory stands; another incarnation means that a cache must start anew."""

    incarnation: str
    version: int
    node_count: int
    relationship_count: int
    entity_count: int
    tombstone_floor: int


@dataclass(slots=True)
class Advance:
    """The version a writing transaction gives its rows, and how many rows it added."""

    version: int
    nodes: int = 0
    relationships: int = 0
    entities: int = 0


class Users:
    """One user's row within one bound transaction."""

    def __init__(self, transaction: Transaction, user_id: str) -> None:
        self._transaction = transaction
        self._user_id = user_id

    @asynccontextmanager
    async def advancing(self, at: datetime) -> AsyncIterator[Advance]:
        """Hold the user's lock; the block writes rows at the new version and counts them."""
        current = await self._transaction.fetchval("users.lock", user_id=self._user_id)
        if current is None:
            await self._transaction.execute("users.ensure", user_id=self._user_id)
            current = await self._transaction.fetchval("users.lock", user_id=self._user_id)
        if current is None:
            raise StorageUnavailable("the user's row was removed while it was being locked; try again")
        advance = Advance(current + 1)
        yield advance
        await self._transaction.execute(
            "users.advance",
            user_id=self._user_id,
            version=advance.version,
            at=at,
            nodes=advance.nodes,
            relationships=advance.relationships,
            entities=advance.entities,
        )

    async def state(self) -> UserState | None:
        """Where the user's memory stands; None for a user who never wrote."""
        row = await self._transaction.fetchrow("users.state", user_id=self._user_id)
        return UserState(**dict(row) | {"incarnation": str(row["incarnation"])}) if row else None

    async def deleted_since(self, version: int) -> list[str]:
        """Ids of the memories deleted after `version`."""
        rows = await self._transaction.fetch("users.deleted_since", user_id=self._user_id, version=version)
        return [str(row["node_id"]) for row in rows]

    async def row_counts(self) -> tuple[int, int]:
        """How many nodes and relationships there really are; other than the counters when rows were changed by hand."""
        row = await self._transaction.fetchrow("nodes.counts", user_id=self._user_id)
        return (row["nodes"], row["relationships"]) if row else (0, 0)

    async def touch(self) -> int:
        """Count anew and make every cache load the user afresh; the new version."""
        version: int = await self._transaction.fetchval("users.touch", user_id=self._user_id)
        return version
