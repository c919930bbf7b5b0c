"""What the parts that talk to Postgres need of it. `Database` offers it, and `Link` while the server answers."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from hybrid_memory.postgres.database import Isolation, Transaction

if TYPE_CHECKING:
    import asyncpg


class Access(Protocol):
    """Bound transactions and single calls; see `Database` for what they promise and raise."""

    def transaction(
        self,
        users: Sequence[str] = (),
        *,
        timeout: float | None = None,
        isolation: Isolation = "read_committed",
    ) -> AbstractAsyncContextManager[Transaction]:
        """A transaction bound to `users`."""

    async def call(self, name: str, /, *, timeout: float | None = None, **values: object) -> "list[asyncpg.Record]":
        """One statement in its own transaction."""
