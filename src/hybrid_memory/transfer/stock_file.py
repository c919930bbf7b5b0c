"""A file of langgraph-checkpoint-sqlite, read and written through its `SqliteSaver`.

The file is opened by Python's SQLite, so it must not be one of ours, which apsw has open: see `refuse_our_own`.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from langgraph.checkpoint.base import CheckpointTuple, writes_sort_key
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.sqlite import SqliteSaver

from hybrid_memory import queries
from hybrid_memory.errors import InvalidInput, StorageUnavailable
from hybrid_memory.sqlite.files import CACHE, STATE
from hybrid_memory.transfer.moving import Key, Place

_LOCK_SECONDS = 10.0
_NEEDED = {
    "checkpoints": {"thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type", "checkpoint"},
    "writes": {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value"},
}


class StockFile:
    """One side of a transfer: an open file of the stock saver."""

    def __init__(self, connection: sqlite3.Connection, serde: SerializerProtocol, *, has_paths: bool) -> None:
        self.saver = SqliteSaver(connection, serde=serde)
        self._writes = _text("files.writes" if has_paths else "files.writes_without_paths")

    def keys(self) -> Sequence[Key]:
        """All checkpoints; those of a line together and oldest first."""
        with self.saver.cursor(transaction=False) as cursor:
            return [Key(*row) for row in cursor.execute(_text("files.checkpoints"))]

    def ids_of_line(self, key: Key) -> frozenset[str]:
        """The ids of the checkpoints in the line of this one."""
        with self.saver.cursor(transaction=False) as cursor:
            return frozenset(found for (found,) in cursor.execute(_text("files.checkpoints_of_line"), key._asdict()))

    def read(self, key: Key) -> CheckpointTuple | None:
        """A checkpoint."""
        return self.saver.get_tuple(key.config(key.checkpoint_id))

    def places(self, key: Key) -> Sequence[Place]:
        """The places of the writes of a checkpoint, in their order."""
        with self.saver.cursor(transaction=False) as cursor:
            found = [Place(*row) for row in cursor.execute(self._writes, key._asdict())]
        return sorted(found, key=lambda place: writes_sort_key(place.task_path, place.task_id, place.number))


@contextmanager
def reading(path: Path, serde: SerializerProtocol) -> Iterator[StockFile]:
    """Open a file for reading; nothing in it changes.

    Raises:
        InvalidInput: there is no such file, or it is none of langgraph-checkpoint-sqlite.
        StorageUnavailable: it is locked for too long, or damaged.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: there is no such file")
    with _opened(path, "ro") as connection:
        columns = _columns(connection)
        _require_tables(path, columns)
        yield StockFile(connection, serde, has_paths="task_path" in columns["writes"])


@contextmanager
def writing(path: Path, serde: SerializerProtocol) -> Iterator[StockFile]:
    """Open a file for writing, made when there is none; a database of something else is left alone.

    Raises:
        InvalidInput: the file is there and none of langgraph-checkpoint-sqlite, or its directory is not there.
        StorageUnavailable: it is locked for too long, or damaged.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise InvalidInput(f"{path}: no file can be made there")
    with _opened(path, "rwc") as connection:
        if columns := _columns(connection):
            _require_tables(path, columns)
        file = StockFile(connection, serde, has_paths=True)
        file.saver.setup()
        yield file


def refuse_our_own(path: Path, directory: Path) -> None:
    """Let no file of the data directory that apsw opens be opened by another SQLite.

    Raises:
        InvalidInput: it is one, under whatever name, or would be.
    """
    for ours in (directory / STATE.name, directory / CACHE.name):
        if path.resolve() == ours.resolve() or (path.exists() and ours.exists() and ours.samefile(path)):
            raise InvalidInput(f"{path} is {ours.name} of this library; it is no file of langgraph-checkpoint-sqlite")


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    address = f"file:{quote(str(path.absolute()))}?mode={mode}"
    try:
        connection = sqlite3.connect(address, uri=True, check_same_thread=False, timeout=_LOCK_SECONDS)
        with closing(connection):
            yield connection
    except sqlite3.OperationalError as error:
        raise StorageUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise InvalidInput(_is_none(path)) from error
        raise StorageUnavailable(f"{path} is damaged: {error}") from error


def _columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    columns: dict[str, set[str]] = {}
    for table, column in connection.execute(_text("files.columns")):
        columns.setdefault(table, set()).add(column)
    return columns


def _require_tables(path: Path, columns: dict[str, set[str]]) -> None:
    if not all(needed <= columns.get(table, set()) for table, needed in _NEEDED.items()):
        raise InvalidInput(_is_none(path))


def _is_none(path: Path) -> str:
    return f"{path} is no checkpoint file of langgraph-checkpoint-sqlite"


def _text(name: str) -> str:
    return queries.load("stock")[name].text
