"""Lends the connections of a pool. While there is work to do, the one that was used last is used next.

It has everything at hand; and through the pool it would not be there before the loop has come round several times,
which takes long where many tasks run.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

_SECONDS_AT_HAND = 0.01


class Lending:
    """Belongs to the event loop of its pool.

    Args:
        pool: whose connections they are.
        behind: makes a task of what nobody waits for.
    """

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        behind: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._pool = pool
        self._behind = behind
        # Each with what gives it back to the pool when nobody comes.
        self._at_hand: dict[Connection, asyncio.TimerHandle] = {}
        self._waiting = 0

    async def borrow(self) -> "Connection":
        """A connection for oneself alone. Who waits because there are no more is not overtaken."""
        while self._at_hand and not self._is_exhausted:
            connection, going_back = self._at_hand.popitem()
            # One that was lost meanwhile is out of the pool already, or goes back to be replaced.
            with suppress(asyncpg.InterfaceError):
                if not connection.is_closed():
                    going_back.cancel()
                    return connection
        self._waiting += 1
        try:
            return await self._pool.acquire()
        finally:
            self._waiting -= 1

    def take_back(self, connection: "Connection") -> None:
        """It is free again, and goes back to the pool unless the next call comes soon, or somebody waits."""
        if self._is_exhausted:
            self._give_back(connection)
        else:
            loop = asyncio.get_running_loop()
            self._at_hand[connection] = loop.call_later(_SECONDS_AT_HAND, self._give_back, connection)

    def forget(self) -> None:
        """Let everything go back to the pool that is free; what is still lent will have answered when it comes."""
        for connection in list(self._at_hand):
            self._give_back(connection)

    async def close(self) -> None:
        """Give everything back that is free."""
        while self._at_hand:
            connection, going_back = self._at_hand.popitem()
            going_back.cancel()
            await self._released(connection)

    @property
    def _is_exhausted(self) -> bool:
        """Whether somebody waits who opens none himself; while one is opened, others go on with what there is."""
        return bool(self._waiting) and self._waiting > self._pool.get_max_size() - self._pool.get_size()

    def _give_back(self, connection: "Connection") -> None:
        """In a task, whose turn comes after that of whoever has the answer."""
        if (going_back := self._at_hand.pop(connection, None)) is not None:
            going_back.cancel()
        self._behind(self._released(connection))

    async def _released(self, connection: "Connection") -> None:
        # One that was lost at the last moment is out of the pool already.
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._pool.release(connection)
