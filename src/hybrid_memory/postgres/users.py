"""The table `user_metadata`: versions, counters and what a cache compares itself with."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.database import Transaction

if TYPE_CHECKING:
    import asyncpg

_USERS_AT_ONCE = 1000
# Another incarnation means that nothing of the one before counts any more; None stands for a user who never wrote.
Version = tuple[str | None, int]
NOTHING: Version = (None, 0)


async def versions_of(access: Access, users: Collection[str]) -> Mapping[str, Version]:
    """Where users stand at this moment, without binding them."""
    found = dict.fromkeys(users, NOTHING)
    for some in _portions(users):
        rows = await access.call("changes.versions", users=some)
        found |= {row["user_id"]: (str(row["incarnation"]), row["version"]) for row in rows}
    return found


@dataclass(frozen=True, slots=True)
class UserState:
    """Where a user's memory stands; another incarnation means that a cache must start anew."""

    incarnation: str
    version: int
    node_count: int
    relationship_count: int
    entity_count: int
    tombstone_floor: int
    last_deletion: datetime | None

    @classmethod
    def of(cls, row: "asyncpg.Record") -> "UserState":
        """The state that a row tells, whatever else is in it."""
        return cls(
            incarnation=str(row["incarnation"]),
            version=row["version"],
            node_count=row["node_count"],
            relationship_count=row["relationship_count"],
            entity_count=row["entity_count"],
            tombstone_floor=row["tombstone_floor"],
            last_deletion=row["last_deletion"],
        )


class Users:
    """One user's row within one bound transaction."""

    def __init__(self, transaction: Transaction, user_id: str) -> None:
        self._transaction = transaction
        self._user_id = user_id

    async def state(self, since: int = -1) -> UserState | None:
        """Where the user's memory stands, and its last deletion after a version; None for a user who never wrote."""
        row = await self._transaction.fetchrow("users.state", user_id=self._user_id, version=since)
        return UserState.of(row) if row else None

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


def _portions(users: Iterable[str]) -> Iterable[list[str]]:
    names = list(users)
    return (names[start : start + _USERS_AT_ONCE] for start in range(0, len(names), _USERS_AT_ONCE))
