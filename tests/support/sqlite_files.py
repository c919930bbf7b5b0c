"""Databases for the SQLite tests: opened for a block, filled with known rows, copied while nobody has them open."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from hybrid_memory.observability import Events
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import CACHE, STATE
from hybrid_memory.sqlite.transient import TransientMemories
from hybrid_memory.sqlite.values import CachedValues

ROOT = Path(__file__).parents[2]


@contextmanager
def state_in(directory: Path, events: Events | None = None) -> Iterator[tuple[Database, TransientMemories]]:
    with Database(STATE, directory, events or Events()) as database:
        yield database, TransientMemories(database)


@contextmanager
def cache_in(directory: Path, events: Events | None = None) -> Iterator[tuple[Database, CachedValues]]:
    with Database(CACHE, directory, events or Events()) as database:
        yield database, CachedValues(database)


def note_row(sql: Statements, thread_id: str, node_id: str, content: str = '"x"') -> None:
    """Store a small note."""
    sql.run(
        "transient_memories.store",
        position=sql.value("transient_memories.place_of", thread_id=thread_id, node_id=node_id),
        thread_id=thread_id,
        node_id=node_id,
        context_type="temporary_state",
        content=content,
        content_kind="text",
        summary=None,
        tags="[]",
        metadata="{}",
        importance=0.5,
        confidence=1.0,
        relates_to="[]",
        depends_on="[]",
        created_at=1,
        expires_at=None,
    )


def noting(thread_id: str, node_id: str, content: str = '"x"') -> Callable[[Statements], None]:
    """A job that stores a small note."""
    return lambda sql: note_row(sql, thread_id, node_id, content)


def stored_ids(sql: Statements) -> list[str]:
    """The ids of all notes, once per row, in their order."""
    return [str(row[0]) for row in sql.connection.execute("select node_id from transient_memories order by position")]


def integrity(sql: Statements) -> str:
    return str(sql.connection.pragma("integrity_check"))


@dataclass(frozen=True)
class Resources:
    """What a process holds that could leak."""

    threads: int
    connections: int
    descriptors: int

    @classmethod
    def now(cls) -> "Resources":
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        return cls(threading.active_count(), len(apsw.connections()), descriptors)


def copy_directory(template: Path, to: Path) -> Path:
    shutil.copytree(template, to)
    return to
