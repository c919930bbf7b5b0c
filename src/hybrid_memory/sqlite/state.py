"""`state.db`, opened once by whoever needs it first and shared by all who use it."""

from pathlib import Path
from threading import Lock

from hybrid_memory.observability import Events
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE


class StateFile:
    """The one open `state.db` of a data directory in this object's users. Calls work in any thread."""

    def __init__(self, directory: Path, events: Events) -> None:
        self._directory = directory
        self._events = events
        self._lock = Lock()
        self._database: Database | None = None

    @property
    def opened(self) -> Database | None:
        """The database, if it is open; asking does not wait."""
        return self._database

    @property
    def exists(self) -> bool:
        """Whether it is open, or has been made."""
        return self._database is not None or (self._directory / STATE.name).exists()

    def database(self) -> Database:
        """The database, opened by the first call.

        Raises:
            StateDamaged: it was damaged; what is intact was saved, and the next call goes on with it.
            SchemaMismatch: it was made by a newer version.
            ConfigurationError: this SQLite is not safe, or the process was forked with the file open.
            StorageUnavailable: it cannot be opened.
        """
        with self._lock:
            if self._database is None:
                database = Database(STATE, self._directory, self._events)
                database.open()
                self._database = database
            return self._database

    def close(self) -> None:
        """Commit what is queued and close the file; the next call opens it again."""
        with self._lock:
            database, self._database = self._database, None
        if database is not None:
            database.close()
