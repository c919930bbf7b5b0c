"""What a person wants to know about a file: for the `status` command and for health."""

from dataclasses import dataclass

from hybrid_memory.sqlite import files, schema
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.version import is_vulnerable, sqlite_version


@dataclass(frozen=True, slots=True)
class FileStatus:
    """One file, as it is now."""

    file: str
    sqlite_version: str
    vulnerable: bool
    bytes: int
    wal_bytes: int
    schema_version: int
    queued: int


def status(database: Database) -> FileStatus:
    """Look at an open file."""
    version = sqlite_version()
    applied = database.read_blocking(schema.applied)
    return FileStatus(
        file=str(database.path),
        sqlite_version=version,
        vulnerable=is_vulnerable(version),
        bytes=files.size(database.path),
        wal_bytes=files.size(database.path.with_name(database.path.name + "-wal")),
        schema_version=max((one.number for one in applied), default=0),
        queued=database.queued,
    )
