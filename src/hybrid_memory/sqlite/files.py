"""The files on disk: which there are, who may read them, whether they are still the ones we opened.

Nothing here opens a database file: closing a second handle would drop the locks SQLite holds on it.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SIDE_FILES = ("", "-wal", "-shm")
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
# The x bits stay: an embedded Postgres run as root has to pass through the directory as another user.
_READ_AND_WRITE_BY_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Kind:
    """One of our two files: its name, its migrations, and what may be done with it.

    Every commit writes whole pages, and one of `state.db` changes little in several places: its pages are small.
    """

    name: str
    chain: str
    disposable: bool
    synchronous: str
    page_bytes: int


STATE = Kind("state.db", "state", disposable=False, synchronous="full", page_bytes=2048)
CACHE = Kind("cache.db", "cache", disposable=True, synchronous="normal", page_bytes=4096)


def secure_directory(directory: Path) -> None:
    """Make the directory, for us alone; an existing one loses what others may read and write."""
    if not directory.is_dir():
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        flush_directory(directory.parent)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & _READ_AND_WRITE_BY_OTHERS:
        directory.chmod(mode & ~_READ_AND_WRITE_BY_OTHERS)


def create(path: Path) -> None:
    """Make an empty file for us alone where there is none; one that is there is not touched, it may be in use."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE))
    except FileExistsError:
        return
    flush_directory(path.parent)


def secure_files(path: Path) -> None:
    """Take group and others off the database and its side files, and give ourselves what we need."""
    for file in existing(path):
        with suppress(FileNotFoundError, PermissionError):  # gone meanwhile, or another user's: opening it will tell
            if stat.S_IMODE(file.stat().st_mode) != _FILE_MODE:
                file.chmod(_FILE_MODE)


def existing(path: Path) -> Iterator[Path]:
    """The database file and the side files that are there."""
    for suffix in _SIDE_FILES:
        file = path.with_name(path.name + suffix)
        if file.exists():
            yield file


def size(path: Path) -> int:
    """Bytes of a file, 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at this path: a deleted or replaced one has another identity."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def remove(path: Path) -> None:
    """Delete a database that nobody has open."""
    for file in existing(path):
        file.unlink(missing_ok=True)
    flush_directory(path.parent)


def set_aside(path: Path, folder: Path) -> Path:
    """Move a database that nobody has open into `folder`, which is made for it."""
    folder.mkdir(mode=_DIRECTORY_MODE)
    for file in list(existing(path)):
        file.rename(folder / file.name)
    flush_directory(folder)
    flush_directory(path.parent)
    return folder / path.name


def flush_directory(directory: Path) -> None:
    """Make new and moved names durable; a file that survives a power failure without its name is lost."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
