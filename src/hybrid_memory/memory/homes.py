"""Where each user's memory is at home: in Postgres, or in `state.db` with those who are not persisted to it.

Who has a memory in `state.db` stays there until all of it is in Postgres, and who has one in Postgres stays there.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_rows import LocalRows
from hybrid_memory.sqlite.local_users import everybody

Persists = Callable[[str], bool]
_SHARES = 10_000


class Homes:
    """Who is at home where, for one manager. Belongs to its loop.

    Args:
        state: the file with the rows of those who are local.
        persists: who is, or is to be, persisted to Postgres.
        in_postgres: whether Postgres knows a user.
        settling: called once for each local user, before anything is read or written.
        everybody_is_local: whether there is no Postgres: then a copy that was fetched from it is the user's memory.
    """

    def __init__(
        self,
        state: Database,
        persists: Persists,
        *,
        in_postgres: Callable[[str], Awaitable[bool]],
        settling: Callable[[str], Awaitable[None]],
        everybody_is_local: bool,
    ) -> None:
        self._state = state
        self._persists = persists
        self._in_postgres = in_postgres
        self._settling = settling
        self.everybody_is_local = everybody_is_local
        self._local: set[str] = set()
        self._settled: set[str] = set()
        self._supposed: dict[str, asyncio.Lock] = {}

    async def open(self) -> None:
        """See who has a memory here."""
        self._local = {user_id for user_id, is_copy in (await everybody(self._state)).items() if not is_copy}

    def is_local(self, user_id: str) -> bool:
        """Whether a user's memory is in `state.db`, as far as this process knows; for sure once it is settled."""
        return self.everybody_is_local or user_id in self._local

    async def settle(self, user_id: str) -> bool:
        """Decide on a user who is new here; whether he is local. Where Postgres does not say, it is asked again."""
        if user_id not in self._settled:
            if not self.is_local(user_id) and not self._persists(user_id):
                knows = await self._is_in_postgres(user_id)
                if knows is None:
                    self._supposed.setdefault(user_id, asyncio.Lock())
                if not knows:
                    self._local.add(user_id)
            if self.is_local(user_id):
                await self._settling(user_id)
            self._settled.add(user_id)
        elif user_id in self._supposed:
            await self._look_again(user_id, self._supposed[user_id])
        return self.is_local(user_id)

    def may_begin(self, user_id: str) -> bool:
        """Whether a memory of his may begin in `state.db` when there is none."""
        return self.everybody_is_local or (user_id in self._local and not self._persists(user_id))

    def has_left(self, user_id: str) -> bool:
        """Whether a local user of whom nothing is here any more was moved to Postgres, by whatever process."""
        if self.is_local(user_id) and not self.may_begin(user_id):
            self.left(user_id)
        return not self.is_local(user_id)

    def left(self, user_id: str) -> None:
        """All of a user's memory is in Postgres from now on."""
        self._local.discard(user_id)
        self._supposed.pop(user_id, None)
        self._settled.add(user_id)

    async def to_be_moved(self) -> list[str]:
        """Users with a memory here who are to have it in Postgres."""
        if self.everybody_is_local:
            return []
        there = await everybody(self._state)
        return [user_id for user_id, is_copy in there.items() if not is_copy and self._persists(user_id)]

    async def _is_in_postgres(self, user_id: str) -> bool | None:
        """Whether Postgres knows a user; None when it does not say."""
        try:
            return await self._in_postgres(user_id)
        except StorageUnavailable:
            return None

    async def _look_again(self, user_id: str, asking: asyncio.Lock) -> None:
        """Where somebody is at home who was supposed to be local, unless Postgres still does not say.

        What was stored here meanwhile makes him local: it is merged with what Postgres has when he is moved there. Who
        comes while somebody asks waits until that is decided.
        """
        is_asked = asking.locked()
        async with asking:
            if is_asked:
                return
            knows = await self._is_in_postgres(user_id)
            if knows and user_id in self._supposed:
                await self._leave_unless_begun(user_id)
            if knows is not None:
                self._supposed.pop(user_id, None)

    async def _leave_unless_begun(self, user_id: str) -> None:
        # From now on nothing begins here, and what had begun before is looked for behind it.
        self._local.discard(user_id)
        may_have_begun = True
        try:
            may_have_begun = await self._state.write(lambda sql: _has_memory(sql, user_id))
        finally:
            if may_have_begun and user_id in self._supposed:
                self._local.add(user_id)


def _has_memory(sql: Statements, user_id: str) -> bool:
    state = LocalRows(sql, user_id).state()
    return state is not None and not state.is_copy


def within(percent: float) -> Persists:
    """The same share of all users in every process, growing with the percentage: nobody leaves it when it rises."""

    def is_within(user_id: str) -> bool:
        share = int.from_bytes(hashlib.sha256(user_id.encode()).digest()[:8], "big") % _SHARES
        return share < percent * _SHARES / 100

    return is_within


def who_persists(settings: Settings, chosen: Persists | None) -> Persists:
    """Who is persisted to Postgres: those whom a predicate chooses, or the share of the settings."""
    if settings.memory_type == "sqlite":
        return lambda _: False
    return chosen or within(settings.rollout_percent)
