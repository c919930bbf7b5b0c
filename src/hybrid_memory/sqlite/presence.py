"""Who uses a file: a lock beside it that every process holds while it has the database open.

Whoever finds nobody else may examine, repair and replace the database; the others wait until that is done. The lock
file also remembers two things over restarts: that the database was made (so an empty one is damage, not a beginning)
and that a process met damage in it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid_memory.errors import StorageUnavailable

_POLL_SECONDS = 0.01
_MADE = b"made"
_DAMAGED = b"damaged"


class Presence:
    """This process's hold on one database file, from `enter` to `leave`."""

    def __init__(self, database: Path, timeout: float) -> None:
        self._path = database.with_name(database.name + ".lock")
        self._timeout = timeout
        self._handle: int | None = None

    @contextmanager
    def enter(self) -> Iterator[bool]:
        """Come in; the block runs with the answer whether we are alone, and nobody else comes in before it ends.

        Raises:
            StorageUnavailable: another process has been examining the database for too long.
        """
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            alone = self._lock(handle)
            self._handle = handle
            yield alone
            if alone:
                fcntl.flock(handle, fcntl.LOCK_SH)
        except BaseException:
            self._handle = None
            os.close(handle)
            raise

    def leave(self) -> None:
        """Go, after the database is closed."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    @property
    def was_made(self) -> bool:
        """Whether the database was completely made once."""
        return self._note().startswith((_MADE, _DAMAGED))

    @property
    def met_damage(self) -> bool:
        """Whether a process met damage in it and nobody has repaired it since."""
        return self._note().startswith(_DAMAGED)

    def note_made(self) -> None:
        """Remember that the database is complete and good."""
        if self._note() != _MADE:
            self._write(_MADE)

    def note_damage(self) -> None:
        """Remember that it has to be repaired at the next start."""
        self._write(_DAMAGED)

    def _lock(self, handle: int) -> bool:
        deadline = time.monotonic() + self._timeout
        while True:
            for how in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                try:
                    fcntl.flock(handle, how | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                return how == fcntl.LOCK_EX
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"another process has been examining {self._path.stem} for more than {self._timeout:g} s"
                )
            time.sleep(_POLL_SECONDS)

    def _note(self) -> bytes:
        return b"" if self._handle is None else os.pread(self._handle, 16, 0)

    def _write(self, note: bytes) -> None:
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, note, 0)
            os.fsync(self._handle)
