"""Figures about users: exact ones of one user, and the materialised views over all."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.database import Transaction

# The server gives up at the same time.
_LONG_SECONDS = 120.0


@asynccontextmanager
async def over_all_users(database: Access) -> AsyncIterator[Transaction]:
    """A transaction that may take longer than other calls."""
    async with database.transaction(timeout=_LONG_SECONDS) as transaction:
        await transaction.execute("housekeeping.allow_long_statements")
        yield transaction


class Statistics:
    """Reads and refreshes."""

    def __init__(self, database: Access) -> None:
        self._database = database

    async def of_user(self, user_id: str, at: datetime) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
        """What a user has at this moment, without what has expired at `at`: as a whole, and by type."""
        async with self._database.transaction([user_id], isolation="repeatable_read") as transaction:
            whole = await transaction.fetchrow("statistics.of_user", user_id=user_id, at=at)
            by_type = await transaction.fetch("statistics.by_type", user_id=user_id, at=at)
            views_age = await transaction.fetchval("statistics.views_age")
        return dict(whole or {}) | {"views_age": views_age}, [dict(row) for row in by_type]

    async def refresh(self) -> bool:
        """Refresh the views; False when another process is at it."""
        async with over_all_users(self._database) as transaction:
            return bool(await transaction.fetchval("statistics.refresh"))
