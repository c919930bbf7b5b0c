"""Telling other processes what has changed, and understanding what they tell.

A notification says who sent it and which version each of some users has now. Users go by a hash that only those can
make who may read this database; no id and nothing of a memory is in it. It is sent after the commit and in a
transaction of its own, because one with a notification makes all commits wait for each other; what changes within a
moment goes together. It is a hint: one that is lost costs freshness, so whoever relies on it compares versions too.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING

from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.continuity import Continuity

if TYPE_CHECKING:
    from uuid import UUID

_SECONDS_BETWEEN = 0.05
_SECONDS_TO_SEND = 5.0
_SECONDS_AFTER_FAILURE = 1.0
_SECONDS_TO_CLOSE = 1.0
# Postgres takes less than 8 000 bytes.
_USERS_PER_MESSAGE = 120
_RESTORED = "restored"
_CHANGE = re.compile(r"([0-9a-f]{24}):([0-9]{1,18})")


class Invalidation:
    """What one instance tells the others, and hears of them. Belongs to the manager's loop.

    Args:
        access: where to send; through the pool, as writes go.
        continuity: knows the database, whose epoch hides the users' ids.
        channel: where the others listen.
        origin: who we are; what we sent ourselves is passed over.
    """

    def __init__(self, access: Access, continuity: Continuity, channel: str, origin: str) -> None:
        self._access = access
        self._continuity = continuity
        self._channel = channel
        self._origin = origin
        self._news: dict[str, int] = {}
        self._restored = False
        self._sending: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._epoch: UUID | None = None
        self._users: set[str] = set()
        self._names: dict[str, str] = {}
        self.on_change: Callable[[str, int], None] = lambda _user, _version: None
        """Called with a user whom we know and the version that another process has brought him to."""
        self.on_restored: Callable[[], None] = lambda: None
        """Called when another process says that the database was restored."""

    def changed(self, user_id: str, version: int) -> None:
        """Tell the others, in a moment."""
        self._news[user_id] = max(version, self._news.get(user_id, 0))
        self._send_soon()

    def tell_restored(self) -> None:
        """Have the others look which database it is."""
        self._restored = True
        self._send_soon()

    def know(self, user_id: str) -> None:
        """Understand notifications about this user from now on."""
        self._users.add(user_id)
        if (name := self._hidden(user_id)) is not None:
            self._names[name] = user_id

    def know_only(self, users: Iterable[str]) -> None:
        """Understand notifications about these users and no others."""
        self._users, self._epoch = set(users), None

    @property
    def known(self) -> int:
        """How many users' notifications are understood."""
        return len(self._users)

    def received(self, payload: str) -> None:
        """Take in a notification; one that is none of ours is passed over."""
        origin, _, rest = payload.partition(" ")
        if origin == self._origin:
            return
        if rest == _RESTORED:
            self.on_restored()
            return
        names = self._current_names()
        for name, version in _CHANGE.findall(rest):
            if (user_id := names.get(name)) is not None:
                self.on_change(user_id, int(version))

    async def close(self) -> None:
        """Send what is left, unless that takes long."""
        self._closing.set()
        if self._sending is not None:
            _, late = await asyncio.wait([self._sending], timeout=_SECONDS_TO_CLOSE)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _send_soon(self) -> None:
        if self._sending is None and not self._closing.is_set():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._news or self._restored:
                if self._restored:
                    await self._settled()
                news, restored, payloads = self._news, self._restored, self._payloads()
                next_at = asyncio.get_running_loop().time() + _SECONDS_BETWEEN
                try:
                    await self._access.call(
                        "changes.notify", channel=self._channel, payloads=payloads, timeout=_SECONDS_TO_SEND
                    )
                except HybridMemoryError:
                    if self._closing.is_set():
                        return
                    self._keep(news, restored=restored)
                    next_at += _SECONDS_AFTER_FAILURE
                await self._pause_until(next_at)
        finally:
            self._sending = None

    async def _pause_until(self, moment: float) -> None:
        """Let more gather, unless this is the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(moment):
                await self._closing.wait()

    def _keep(self, news: Mapping[str, int], *, restored: bool) -> None:
        """What could not be told goes with what is told next."""
        self._restored = self._restored or restored
        for user_id, version in news.items():
            self._news[user_id] = max(version, self._news.get(user_id, 0))

    async def _settled(self) -> None:
        """Whoever is told of a restore looks for the new epoch."""
        with suppress(HybridMemoryError):
            await self._continuity.identity()

    def _payloads(self) -> list[str]:
        changes = [
            f"{name}:{version}" for user, version in self._news.items() if (name := self._hidden(user)) is not None
        ]
        words = [_RESTORED] if self._restored else []
        words += [
            ",".join(changes[start : start + _USERS_PER_MESSAGE])
            for start in range(0, len(changes), _USERS_PER_MESSAGE)
        ]
        self._news, self._restored = {}, False
        return [f"{self._origin} {one}" for one in words]

    def _current_names(self) -> dict[str, str]:
        """What the users are called by the present epoch."""
        standing = self._continuity.standing
        if standing is not None and standing.epoch != self._epoch:
            self._epoch = standing.epoch
            self._names = {name: user for user in self._users if (name := self._hidden(user)) is not None}
        return self._names

    def _hidden(self, user_id: str) -> str | None:
        standing = self._continuity.standing
        if standing is None:
            return None
        return blake2b(user_id.encode(), digest_size=12, key=standing.epoch.bytes).hexdigest()
