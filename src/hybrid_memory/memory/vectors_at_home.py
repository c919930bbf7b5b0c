"""Vectors of both places as one: a user's are where the user is at home."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from hybrid_memory.memory.homes import Homes
from hybrid_memory.memory.vector_parts import VectorStorage
from hybrid_memory.models import MemoryNode
from hybrid_memory.postgres.embeddings import KeptVectors, Lacking, MadeForUser, NewVectors, Space


@dataclass(frozen=True, slots=True)
class VectorsAtHome:
    """See `VectorStorage`."""

    homes: Homes
    local: VectorStorage
    postgres: VectorStorage

    async def keep(self, space: Space, several: Sequence[MadeForUser]) -> Mapping[str, KeptVectors]:
        """Keep vectors of memories that have not changed since, of each user once; who is gone is left out."""
        here = [user for user in several if await self.homes.settle(user.user_id)]
        there = [user for user in several if user not in here]
        kept = dict(await self.local.keep(space, here)) if here else {}
        return kept | (dict(await self.postgres.keep(space, there)) if there else {})

    async def lacking(
        self, user_id: str, space: Space, at: datetime, after: MemoryNode | None, most: int
    ) -> Lacking | None:
        """Memories without a vector, page by page; None when it is known that there are none."""
        return await (await self._place_of(user_id)).lacking(user_id, space, at, after, most)

    async def lacking_count(self, user_id: str, space: Space, at: datetime) -> int:
        """How many there are."""
        return await (await self._place_of(user_id)).lacking_count(user_id, space, at)

    async def users_to_embed(self, space: Space, seconds: float) -> AsyncIterator[str]:
        """Users who may have some; of those in Postgres one of all processes is told every so many seconds."""
        async for user_id in self.local.users_to_embed(space, seconds):
            if await self.homes.settle(user_id):
                yield user_id
        if not self.homes.everybody_is_local:
            async for user_id in self.postgres.users_to_embed(space, seconds):
                if not await self.homes.settle(user_id):
                    yield user_id

    async def spaces(self, user_id: str) -> Mapping[Space, int]:
        """Which vectors a user has, and how many of each kind."""
        return await (await self._place_of(user_id)).spaces(user_id)

    async def news(
        self, user_id: str, models: Sequence[str], incarnation: str | None, since: int, *, timeout: float | None = None
    ) -> NewVectors:
        """What changed since a version of an incarnation; everything of another one."""
        return await (await self._place_of(user_id)).news(user_id, models, incarnation, since, timeout=timeout)

    async def _place_of(self, user_id: str) -> VectorStorage:
        return self.local if await self.homes.settle(user_id) else self.postgres
