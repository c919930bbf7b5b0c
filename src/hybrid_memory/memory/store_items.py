"""Items of a store: memories with an address, written through like any other, read by their address."""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from hybrid_memory.errors import StorageRejected, StorageUnavailable
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.items import refresh_is_due
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.item_drafts import ItemDraft
from hybrid_memory.memory.memories import Memories
from hybrid_memory.memory.namespaces import ItemAddress, Namespace
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import MemoryNode
from hybrid_memory.postgres.batches import ANOTHER_VERSION, IF_VERSION
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.queue import Queued


class StoredItems(Protocol):
    """What is asked of the database itself; see `postgres.items.ItemRows`."""

    async def several(self, owner: str, node_ids: Collection[str]) -> list[MemoryNode]:
        """Items of an owner, expired or not."""

    async def under(
        self, owner: str, prefix: Sequence[str], at: datetime, *, most: int | None = None
    ) -> Sequence[MemoryNode]:
        """The items of an owner whose namespace begins so, the newest change first; so many, or all."""

    async def namespaces(self, owner: str, at: datetime) -> list[Namespace]:
        """In which namespaces an owner has items."""

    def owners(self) -> AsyncIterator[str]:
        """Everybody who has items."""

    async def refresh(self, owner: str, node_ids: Collection[str]) -> int:
        """Put off the expiry of items that were read; the owner's version afterwards."""


class Items:
    """The items of all stores, one call at a time."""

    def __init__(
        self,
        clock: HybridClock,
        rows: StoredItems,
        memories: Memories,
        sessions: Sessions,
        accesses: Accesses,
    ) -> None:
        self._clock = clock
        self._rows = rows
        self._memories = memories
        self._sessions = sessions
        self._accesses = accesses

    def held(self, owner: str, node_id: str) -> MemoryNode | None:
        """An item of an owner who is loaded, unless reading it is to put off its expiry; counts as an access."""
        memory = self._sessions.loaded(owner)
        node = None if memory is None else memory.snapshot().memory(node_id)
        if node is None or (node.expires_at is not None and refresh_is_due(node, utc_now())):
            return None
        self._accesses.count(owner, (node_id,))
        return node

    async def get(self, owner: str, node_ids: Collection[str], *, strong: bool) -> dict[str, MemoryNode]:
        """The items of one owner that are there, by their ids; being asked for counts as an access.

        An owner who is not loaded is not loaded for it.

        Raises:
            StorageUnavailable: `strong`, and Postgres does not answer.
        """
        memory = self._sessions.loaded(owner)
        if strong:
            found = await self._now(owner, node_ids)
        elif memory is not None:
            found = _of(memory, node_ids)
        elif self._sessions.holds(owner):
            # Comparing once costs little more than asking for one item, and the next calls nothing.
            found = _of(await self._sessions.opened(owner), node_ids)
        elif len(node_ids) == 1:
            (node_id,) = node_ids
            one = await self._memories.known(owner, node_id)
            found = [] if one is None else [one]
        else:
            found = await self._known(owner, node_ids)
        if found:
            self._accesses.count(owner, (node.node_id for node in found))
        return {node.node_id: node for node in found}

    async def put(self, draft: ItemDraft) -> None:
        """Store an item, in place of the one that has its address."""
        answer = await self._memories.write(draft.address.owner, [Write("nodes", draft.row)])
        self._memories.acknowledged(answer, draft.address.node_id)

    async def put_if_version(self, draft: ItemDraft, version: int | None) -> int | None:
        """Store an item if the one that has its address is of this version, or if there is none for None.

        Returns:
            Its new version; None when another version is there.

        Raises:
            StorageUnavailable: Postgres does not answer, or writes of this owner wait for it.
        """
        owner = draft.address.owner
        try:
            answer = await self._memories.write(owner, [Write("nodes", {**draft.row, IF_VERSION: version or 0})])
        except StorageRejected as error:
            if error.sqlstate == ANOTHER_VERSION:
                return None
            raise
        if isinstance(answer, Queued):
            raise StorageUnavailable(f"writes of {owner!r} wait for Postgres, so versions cannot be compared")
        self._memories.acknowledged(answer, draft.address.node_id)
        return answer.version

    async def delete(self, address: ItemAddress) -> None:
        """Delete an item; one that is not there is no error."""
        await self._memories.write(address.owner, [Write("deletes", {"node_id": address.node_id})])

    async def put_off_expiry(self, owner: str, nodes: Iterable[MemoryNode]) -> None:
        """Items were read: those that expire after a time without being read have it before them again.

        While Postgres does not answer, this is left out.
        """
        now = utc_now()
        due = [node.node_id for node in nodes if refresh_is_due(node, now)]
        if due:
            with suppress(StorageUnavailable):
                await self._sessions.caught_up(owner, await self._rows.refresh(owner, due))

    async def _now(self, owner: str, node_ids: Collection[str]) -> list[MemoryNode]:
        """With everything that was committed before this call."""
        if self._sessions.holds(owner) or self._sessions.awaits_delivery(owner):
            return _of(await self._sessions.current(owner), node_ids)
        return self._alive(await self._rows.several(owner, node_ids))

    async def _known(self, owner: str, node_ids: Collection[str]) -> list[MemoryNode]:
        """In one call, or from what is known without Postgres."""
        if not self._sessions.awaits_delivery(owner):
            with suppress(StorageUnavailable):
                return self._alive(await self._rows.several(owner, node_ids))
        return _of(await self._sessions.opened(owner), node_ids)

    def _alive(self, nodes: Iterable[MemoryNode]) -> list[MemoryNode]:
        now = utc_now()
        alive = [node for node in nodes if node.expires_at is None or node.expires_at > now]
        self._clock.observe(*(node.written_at for node in alive))
        return alive


def _of(memory: UserMemory, node_ids: Iterable[str]) -> list[MemoryNode]:
    there = memory.snapshot()
    return [node for node_id in node_ids if (node := there.memory(node_id)) is not None]
