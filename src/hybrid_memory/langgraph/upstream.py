"""LangGraph's own SQLite saver for whoever wants it, on a file of its own, which Python's SQLite has open, not apsw."""

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import aiosqlite
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from hybrid_memory.errors import ConfigurationError, StorageUnavailable
from hybrid_memory.langgraph.serialisation import AllowedType, strict
from hybrid_memory.observability import Events
from hybrid_memory.sqlite import files
from hybrid_memory.sqlite.version import is_vulnerable

FILE_NAME = "upstream.db"


class UpstreamCheckpointer:
    """An `AsyncSqliteSaver` between start and close. It belongs to the event loop that opened it."""

    def __init__(self, directory: Path, allowed_types: Iterable[AllowedType], events: Events) -> None:
        self._path = directory / FILE_NAME
        self._serde = strict(None, allowed_types)
        self._events = events
        self._opening = asyncio.Lock()
        self._saver: AsyncSqliteSaver | None = None

    @property
    def saver(self) -> AsyncSqliteSaver:
        """The saver.

        Raises:
            ConfigurationError: it is not open; it needs the running loop of `start()`.
        """
        if self._saver is None:
            raise ConfigurationError(
                "HYBRID_MEMORY_CHECKPOINTER=upstream: the stock saver needs a running event loop, so "
                "manager.checkpointer is there from `await manager.start()` on, until the manager is closed"
            )
        return self._saver

    async def open(self) -> None:
        """Open the file, made when it is missing. Opening an open one changes nothing.

        Raises:
            StorageUnavailable: it cannot be opened.
        """
        async with self._opening:
            if self._saver is None:
                self._saver = await self._opened()

    async def close(self) -> None:
        """Close the file."""
        saver, self._saver = self._saver, None
        self._opening = asyncio.Lock()  # the next start may have another loop
        if saver is not None:
            await saver.conn.close()

    async def _opened(self) -> AsyncSqliteSaver:
        if is_vulnerable(sqlite3.sqlite_version):
            self._events.warning("upstream_sqlite_is_old", sqlite_version=sqlite3.sqlite_version, file=FILE_NAME)
        try:
            files.secure_directory(self._path.parent)
            files.create(self._path)
            connection = await aiosqlite.connect(self._path)
        except (sqlite3.Error, OSError) as error:
            raise StorageUnavailable(f"{self._path} cannot be opened: {error}") from error
        saver = AsyncSqliteSaver(connection, serde=self._serde)
        try:
            await saver.setup()
        except sqlite3.Error as error:
            await connection.close()
            raise StorageUnavailable(f"{self._path} cannot be used: {error}") from error
        return saver
