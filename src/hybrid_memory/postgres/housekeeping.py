"""What keeps the tables small: naming the users there is something to do for, and doing it for one of them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import asyncpg

from hybrid_memory.models import Swept
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.database import Transaction
from hybrid_memory.postgres.statistics import over_all_users

Chore = Literal["statistics", "sweep", "trim"]
# How many rows leave under one hold of a user's lock.
MOST_ROWS = 500
_USERS_OF_A_PAGE = 1000
# The clocks of two processes, and a wait and its measure, differ a little.
_NEARLY = 0.9
_END = datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Reads:
    """How often one user's memories were read, and when last: three columns."""

    nodes: Sequence[UUID]
    reads: Sequence[int]
    last: Sequence[datetime]


class Upkeep:
    """The statements of housekeeping, each a transaction of its own."""

    def __init__(self, database: Access, *, changed: Callable[[str, int], None] = lambda _user, _version: None) -> None:
        self._database = database
        self._changed = changed

    async def claim(self, chore: Chore, seconds: float) -> bool:
        """Whether this process is to do a chore that one of all processes does every so many seconds."""
        rows = await self._database.call("housekeeping.claim", chore=chore, seconds=seconds * _NEARLY)
        return bool(rows[0][0])

    async def users_to_sweep(self, before: datetime | None, *, everybody: bool = True) -> AsyncIterator[str]:
        """Users with memories that have expired, or were not changed since `before`; here that is all or nobody."""
        if everybody:
            async for user_id in self._users(
                lambda transaction, after: transaction.fetch(
                    "housekeeping.users_to_sweep", after=after, before=before, most=_USERS_OF_A_PAGE
                )
            ):
                yield user_id

    def everybody(self) -> AsyncIterator[str]:
        """Users with memories."""
        return self.users_to_sweep(_END)

    def users_to_trim(self, before: datetime) -> AsyncIterator[str]:
        """Users with tombstones or watermarks from before."""
        return self._users(
            lambda transaction, after: transaction.fetch(
                "housekeeping.users_to_trim", after=after, before=before, most=_USERS_OF_A_PAGE
            )
        )

    async def sweep(self, user_id: str, before: datetime | None, keep_tags: Sequence[str]) -> AsyncIterator[Swept]:
        """Remove in batches what has expired, and what was not changed since `before` and has none of the tags."""
        while True:
            (row,) = await self._database.call(
                "housekeeping.sweep_user", owner=user_id, before=before, keep_tags=keep_tags, most=MOST_ROWS
            )
            swept = Swept(**dict(row))
            if swept.removed:
                self._changed(user_id, swept.version)
                yield swept
            if swept.removed < MOST_ROWS:
                return

    async def trim(self, user_id: str, before: datetime) -> tuple[int, int]:
        """Forget a user's tombstones and watermarks from before; how many of each."""
        tombstones = watermarks = 0
        while True:
            (row,) = await self._database.call("housekeeping.trim_user", owner=user_id, before=before, most=MOST_ROWS)
            tombstones += row["tombstones"]
            watermarks += row["watermarks"]
            if row["tombstones"] < MOST_ROWS:
                return tombstones, watermarks

    async def count_accesses(self, user_id: str, reads: Reads) -> None:
        """Add what was read; memories that are gone are passed over."""
        # In a transaction, before whose commit it is known that nothing was added.
        async with self._database.transaction() as transaction:
            await transaction.execute(
                "housekeeping.count_accesses", owner=user_id, nodes=reads.nodes, reads=reads.reads, last=reads.last
            )

    async def forget_watermarks(self, users: Sequence[str], instance_id: str) -> None:
        """Remove what says how far an instance is that will write no more."""
        for start in range(0, len(users), _USERS_OF_A_PAGE):
            page = users[start : start + _USERS_OF_A_PAGE]
            await self._database.call("housekeeping.forget_watermarks", users=page, instance=UUID(instance_id))

    async def _users(self, page: Callable[[Transaction, str], Awaitable[list[asyncpg.Record]]]) -> AsyncIterator[str]:
        after = ""
        while True:
            async with over_all_users(self._database) as transaction:
                rows = await page(transaction, after)
            for row in rows:
                yield row["user_id"]
            if len(rows) < _USERS_OF_A_PAGE:
                return
            after = rows[-1]["user_id"]
