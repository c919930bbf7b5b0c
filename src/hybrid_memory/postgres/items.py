"""Items of stores: asked for by their ids and by their namespaces, of one owner at a time, and who the owners are."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from uuid import UUID

from hybrid_memory.models import MemoryNode
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.statistics import over_all_users

_OWNERS_OF_A_PAGE = 1000


class ItemRows:
    """The statements about items, each a transaction of its own."""

    def __init__(self, database: Access) -> None:
        self._database = database

    async def several(self, owner: str, node_ids: Collection[str]) -> list[MemoryNode]:
        """Items of an owner, in no order; those that have expired may be among them."""
        async with self._database.transaction([owner]) as transaction:
            return await Nodes(transaction, owner).several(node_ids)

    async def under(
        self, owner: str, prefix: Sequence[str], at: datetime, *, most: int | None = None
    ) -> list[MemoryNode]:
        """The items of an owner whose namespace begins so, the newest change first; so many, or all."""
        async with self._database.transaction([owner]) as transaction:
            return await Nodes(transaction, owner).items(prefix, at, most=most)

    async def namespaces(self, owner: str, at: datetime) -> list[tuple[str, ...]]:
        """In which namespaces an owner has items."""
        async with self._database.transaction([owner]) as transaction:
            rows = await transaction.fetch("items.namespaces", user_id=owner, at=at)
        return [tuple(row["namespace"]) for row in rows]

    async def owners(self) -> AsyncIterator[str]:
        """Everybody who has items."""
        after = ""
        while True:
            async with over_all_users(self._database) as transaction:
                rows = await transaction.fetch("items.owners", after=after, most=_OWNERS_OF_A_PAGE)
            for row in rows:
                yield row["user_id"]
            if len(rows) < _OWNERS_OF_A_PAGE:
                return
            after = rows[-1]["user_id"]

    async def refresh(self, owner: str, node_ids: Collection[str]) -> int:
        """Put off the expiry of items that were read; the owner's version afterwards."""
        # Locks are taken in one order, whoever refreshes what.
        ids = [UUID(one) for one in sorted(node_ids)]
        rows = await self._database.call("items.refresh", owner=owner, node_ids=ids)
        return rows[0][0] or 0
