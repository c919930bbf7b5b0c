"""Both places as one: whatever is asked about a user is asked where he is at home."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hybrid_memory.graph.delta import Delta
from hybrid_memory.memory.homes import Homes
from hybrid_memory.memory.places import Arrived, Counting, Source, Tidying
from hybrid_memory.memory.store_items import StoredItems
from hybrid_memory.models import MemoryNode, Swept
from hybrid_memory.postgres.housekeeping import Chore, Reads
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.local_batches import NotHere
from hybrid_memory.replication.writer import Answer, Writer


@dataclass(frozen=True, slots=True)
class SourceAtHome:
    """Reads."""

    homes: Homes
    local: Source
    postgres: Source

    async def everything(self, user_id: str, arrived: Arrived) -> Delta:
        """All rows of a user."""
        if await self.homes.settle(user_id):
            delta = await self.local.everything(user_id, arrived)
            if delta.incarnation is not None or not self.homes.has_left(user_id):
                return delta
        return await self.postgres.everything(user_id, arrived)

    async def changes(self, user_id: str, incarnation: str | None, since: int, *, counting: bool) -> Delta | None:
        """What changed since a version of one incarnation; None when only a load can tell."""
        place = self.local if await self.homes.settle(user_id) else self.postgres
        return await place.changes(user_id, incarnation, since, counting=counting)

    async def node(self, user_id: str, node_id: str) -> MemoryNode | None:
        """One memory, expired or not."""
        if await self.homes.settle(user_id):
            found = await self.local.node(user_id, node_id)
            if found is not None or not await self._is_gone(user_id):
                return found
        return await self.postgres.node(user_id, node_id)

    async def _is_gone(self, user_id: str) -> bool:
        """Whether another process has moved a local user to Postgres."""
        news = await self.local.changes(user_id, None, 0, counting=False)
        return news is not None and news.incarnation is None and self.homes.has_left(user_id)


@dataclass(frozen=True, slots=True)
class WriterAtHome:
    """Writes. A user whom another process has moved to Postgres is written for there."""

    homes: Homes
    local: Writer
    postgres: Writer
    moved: Callable[[str], Awaitable[None]]

    async def write(self, user_id: str, writes: Sequence[Write]) -> Answer:
        """Write all of `writes` or none; see `Writer.write`."""
        if await self.homes.settle(user_id):
            try:
                return await self.local.write(user_id, writes)
            except NotHere:
                self.homes.left(user_id)
                await self.moved(user_id)
        return await self.postgres.write(user_id, writes)

    def would_queue(self, user_id: str) -> bool:
        """Whether a write of now would probably go into the outbox."""
        return not self.homes.is_local(user_id) and self.postgres.would_queue(user_id)

    async def close(self) -> None:
        """Take nothing new, and finish what was taken."""
        await self.local.close()
        await self.postgres.close()

    @property
    def waiting(self) -> int:
        """How many writes have not been confirmed yet."""
        return self.local.waiting + self.postgres.waiting


@dataclass(frozen=True, slots=True)
class TidyingAtHome:
    """Housekeeping; who is at home here is looked after here, whoever looks after Postgres."""

    homes: Homes
    local: Tidying
    postgres: Tidying | None

    async def claim(self, chore: Chore, seconds: float) -> bool:
        """Whether this process is to do a chore for everybody, which is done every so many seconds."""
        return await (self.postgres or self.local).claim(chore, seconds)

    async def users_to_sweep(self, before: datetime | None, *, everybody: bool = True) -> AsyncIterator[str]:
        """Users with memories that have expired, or were not changed since `before`."""
        async for user_id in self.local.users_to_sweep(before):
            if await self.homes.settle(user_id):
                yield user_id
        if self.postgres is not None:
            async for user_id in self.postgres.users_to_sweep(before, everybody=everybody):
                if not await self.homes.settle(user_id):
                    yield user_id

    async def users_to_trim(self, before: datetime) -> AsyncIterator[str]:
        """Users of whom old deletions and finished processes are remembered."""
        for place in filter(None, (self.local, self.postgres)):
            async for user_id in place.users_to_trim(before):
                yield user_id

    async def sweep(self, user_id: str, before: datetime | None, keep_tags: Sequence[str]) -> AsyncIterator[Swept]:
        """Remove in batches what has expired, and what was not changed since `before` and has none of the tags."""
        async for swept in (await self._place_of(user_id)).sweep(user_id, before, keep_tags):
            yield swept

    async def trim(self, user_id: str, before: datetime) -> tuple[int, int]:
        """Forget a user's deletions and finished processes from before; how many of each."""
        return await (await self._place_of(user_id)).trim(user_id, before)

    async def count_accesses(self, user_id: str, reads: Reads) -> None:
        """Add what was read; memories that are gone are passed over."""
        await (await self._place_of(user_id)).count_accesses(user_id, reads)

    async def forget_watermarks(self, users: Sequence[str], instance_id: str) -> None:
        """Remove what says how far an instance is that will write no more."""
        await self.local.forget_watermarks(list(filter(self.homes.is_local, users)), instance_id)
        others = [user_id for user_id in users if not self.homes.is_local(user_id)]
        if self.postgres is not None and others:
            await self.postgres.forget_watermarks(others, instance_id)

    async def _place_of(self, user_id: str) -> Tidying:
        is_local = await self.homes.settle(user_id)
        return self.local if is_local or self.postgres is None else self.postgres


@dataclass(frozen=True, slots=True)
class CountingAtHome:
    """Figures; those over all users are about Postgres."""

    homes: Homes
    local: Counting
    postgres: Counting | None

    async def of_user(self, user_id: str, at: datetime) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
        """What a user has at this moment, without what has expired at `at`: as a whole, and by type."""
        is_local = await self.homes.settle(user_id)
        place = self.local if is_local or self.postgres is None else self.postgres
        return await place.of_user(user_id, at)

    async def refresh(self) -> bool:
        """Refresh the views over all users; False when another process is at it, or there are none."""
        return await (self.postgres or self.local).refresh()


@dataclass(frozen=True, slots=True)
class ItemsAtHome:
    """Items of stores."""

    homes: Homes
    local: StoredItems
    postgres: StoredItems

    async def several(self, owner: str, node_ids: Collection[str]) -> list[MemoryNode]:
        """Items of an owner, expired or not."""
        return await (await self._place_of(owner)).several(owner, node_ids)

    async def under(
        self, owner: str, prefix: Sequence[str], at: datetime, *, most: int | None = None
    ) -> Sequence[MemoryNode]:
        """The items of an owner whose namespace begins so, the newest change first; so many, or all."""
        return await (await self._place_of(owner)).under(owner, prefix, at, most=most)

    async def namespaces(self, owner: str, at: datetime) -> list[tuple[str, ...]]:
        """In which namespaces an owner has items."""
        return await (await self._place_of(owner)).namespaces(owner, at)

    async def owners(self) -> AsyncIterator[str]:
        """Everybody who has items."""
        async for owner in self.local.owners():
            if await self.homes.settle(owner):
                yield owner
        if not self.homes.everybody_is_local:
            async for owner in self.postgres.owners():
                if not await self.homes.settle(owner):
                    yield owner

    async def refresh(self, owner: str, node_ids: Collection[str]) -> int:
        """Put off the expiry of items that were read; the owner's version afterwards."""
        return await (await self._place_of(owner)).refresh(owner, node_ids)

    async def _place_of(self, owner: str) -> StoredItems:
        return self.local if await self.homes.settle(owner) else self.postgres
