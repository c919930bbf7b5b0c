"""What a place has to offer where users' memories are kept: to be read, tidied up and counted there.

There are two: Postgres, and `state.db` where there is none or for users who are not persisted to it.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from hybrid_memory.graph.delta import Delta
from hybrid_memory.models import MemoryNode, Swept
from hybrid_memory.postgres.housekeeping import Chore, Reads
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.writer import Answer

Arrived = Callable[[int, int], None]


class Source(Protocol):
    """Where graphs are filled from."""

    async def everything(self, user_id: str, arrived: Arrived) -> Delta:
        """All rows of a user."""

    async def changes(self, user_id: str, incarnation: str | None, since: int, *, counting: bool) -> Delta | None:
        """What changed since a version of one incarnation; None when only a load can tell."""

    async def node(self, user_id: str, node_id: str) -> MemoryNode | None:
        """One memory, expired or not."""


class Writing(Protocol):
    """Where memories are written."""

    async def write(self, user_id: str, writes: Sequence[Write]) -> Answer:
        """Write all of `writes` or none; returns when they are durable."""

    def would_queue(self, user_id: str) -> bool:
        """Whether a write of now would probably go into the outbox."""


class Tidying(Protocol):
    """What keeps a place small."""

    async def claim(self, chore: Chore, seconds: float) -> bool:
        """Whether this process is to do a chore that is done every so many seconds."""

    def users_to_sweep(self, before: datetime | None, *, everybody: bool = True) -> AsyncIterator[str]:
        """Users with memories that have expired, or were not changed since `before`.

        Without `everybody` only those whom nobody else looks after: they are at home in this directory.
        """

    def users_to_trim(self, before: datetime) -> AsyncIterator[str]:
        """Users of whom old deletions and finished processes are remembered."""

    def sweep(self, user_id: str, before: datetime | None, keep_tags: Sequence[str]) -> AsyncIterator[Swept]:
        """Remove in batches what has expired, and what was not changed since `before` and has none of the tags."""

    async def trim(self, user_id: str, before: datetime) -> tuple[int, int]:
        """Forget a user's deletions and finished processes from before; how many of each."""

    async def count_accesses(self, user_id: str, reads: Reads) -> None:
        """Add what was read; memories that are gone are passed over."""

    async def forget_watermarks(self, users: Sequence[str], instance_id: str) -> None:
        """Remove what says how far an instance is that will write no more."""


class Counting(Protocol):
    """Figures about a place."""

    async def of_user(self, user_id: str, at: datetime) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
        """What a user has at this moment, without what has expired at `at`: as a whole, and by type."""

    async def refresh(self) -> bool:
        """Refresh the views over all users; False when another process is at it, or there are none."""
