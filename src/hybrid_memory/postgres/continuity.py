"""Whether the database goes on where it was: a backup that was restored is noticed, and everybody is told.

What a process has read of a database is only good for that database. Another one can take its place without a word: at
the same address, in the same process, behind connections that stay open. It is another one when its epoch or its server
are others, when it is not as far as it was, or when somebody finds a user's version or an own write missing. Whoever
finds that gives the database a new epoch, by which all others learn of it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

from hybrid_memory.errors import HybridMemoryError, SchemaMismatch, StorageUnavailable
from hybrid_memory.observability import Events

if TYPE_CHECKING:
    import asyncpg

_LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Which database it is, and how far its log is; the position is None where the server does not tell."""

    epoch: UUID
    server: str
    position: int | None = None

    @property
    def identity(self) -> str:
        """What tells the database from every other one, and from itself before a restore."""
        return f"{self.epoch}/{self.server}"


class Continuity:
    """What a process knows of the database it talks to. Belongs to the event loop of its connections.

    Args:
        renew: gives the database a new epoch unless it has another one than that given; the one it has then.
        events: where to report.
    """

    def __init__(self, renew: Callable[[UUID], Awaitable[UUID]], events: Events) -> None:
        self._renew = renew
        self._events = events
        self._standing: Standing | None = None
        self._disowned: Standing | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._replaced: list[Callable[[], None]] = []

    @property
    def standing(self) -> Standing | None:
        """Where the database stood when it was last looked at; None before it has answered."""
        return self._standing

    def on_replaced(self, call: Callable[[], None]) -> None:
        """Call this when what was read so far is not of this database any more."""
        self._replaced.append(call)

    async def identity(self) -> str | None:
        """What tells the database from every other one, once it is settled; None before it has answered.

        Raises:
            StorageUnavailable: it was restored, and could not be marked as such yet.
        """
        if self._renewing is not None:
            await asyncio.wait([self._renewing], timeout=_LONGEST_WAIT_SECONDS)
        if self._disowned is not None:
            raise StorageUnavailable("the database was restored, and is not marked as such yet")
        return None if self._standing is None else self._standing.identity

    async def check(self, look: Callable[[], Awaitable["asyncpg.Record | None"]]) -> None:
        """Look at where the database stands, and compare it with where it stood.

        Raises:
            SchemaMismatch: somebody emptied the table `deployment`.
        """
        known = self._standing
        row = await look()
        if row is None or row["epoch"] is None:
            raise SchemaMismatch("the table deployment is empty: run `hybrid-memory init --recreate`")
        self._compare(known, Standing(row["epoch"], row["server"], row["position"]))
        if self._disowned is not None:
            self._start_renewing()

    def resume(self, identity: str, position: int | None) -> None:
        """Where an earlier process has seen the database, to compare it with where it stands now."""
        standing = self._standing
        if standing is not None and standing.identity == identity and _is_behind(standing.position, position):
            self.broken("it is not as far as an earlier process saw it")

    def broken(self, reason: str) -> None:
        """Something that was committed is missing: the database was restored."""
        if self._disowned is not None or self._standing is None:
            return
        self._disowned = self._standing
        self._tell(reason)
        self._start_renewing()

    async def close(self) -> None:
        """End what is under way."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    def _compare(self, known: Standing | None, found: Standing) -> None:
        """`known` is what was known before `found` was asked for; something else may have been found meanwhile."""
        current = self._standing
        if current is None:
            self._standing = found
        elif found.identity != current.identity:
            if known is not None and known.identity == current.identity:
                awaited = self._disowned is not None and found.server == current.server
                self._standing, self._disowned = found, None
                if not awaited:
                    self._tell("it is another one than before")
        elif known is not None and known.identity == found.identity and _is_behind(found.position, known.position):
            self._standing = found
            self.broken("it is not as far as it was")
        else:
            self._standing = replace(found, position=max(found.position or 0, current.position or 0) or None)

    def _tell(self, reason: str) -> None:
        self._events.warning("database_replaced", reason=reason)
        for call in self._replaced:
            call()

    def _start_renewing(self) -> None:
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._give_new_epoch())

    async def _give_new_epoch(self) -> None:
        try:
            if (seen := self._disowned) is not None:
                epoch = await self._renew(seen.epoch)
                if self._disowned is seen and self._standing is not None:
                    self._standing, self._disowned = replace(self._standing, epoch=epoch), None
        except HybridMemoryError as error:
            # Every later look tries again.
            self._events.warning("postgres_unavailable", error=str(error))
        finally:
            self._renewing = None


def _is_behind(position: int | None, other: int | None) -> bool:
    return position is not None and other is not None and position < other
