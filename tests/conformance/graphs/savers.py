"""The savers that are compared; every file is opened by one SQLite library only."""

import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Literal

import aiosqlite
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from hybrid_memory import HybridCheckpointer

Saver = BaseCheckpointSaver[str]
Calls = Literal["sync", "async"]
REFERENCE = "memory"
OTHERS: list[tuple[str, Calls]] = [("sqlite", "async"), ("hybrid", "sync"), ("hybrid", "async")]
# The stock saver keeps a task's first `__resume__` when the later one comes among ordinary writes.
IGNORED_WRITES = {"sqlite": ("__resume__",), "hybrid": ()}


@asynccontextmanager
async def opened_saver(name: str, calls: Calls, directory: Path, types: Iterable[type]) -> AsyncIterator[Saver]:
    """A saver by its name, for graphs whose state holds `types` of their own."""
    serde: Any = JsonPlusSerializer(allowed_msgpack_modules=[(one.__module__, one.__name__) for one in types])
    if name == "memory":
        yield InMemorySaver(serde=serde)
    elif name == "sqlite" and calls == "sync":
        with closing(sqlite3.connect(directory / "stock.db", check_same_thread=False)) as plain:
            yield SqliteSaver(plain, serde=serde)
    elif name == "sqlite":
        async with aiosqlite.connect(directory / "stock.db") as connection:
            yield AsyncSqliteSaver(connection, serde=serde)
    else:
        async with HybridCheckpointer(directory, allowed_types=types) as ours:
            yield ours
