"""Leases in `state.db`: what only one of the processes that share a directory does at a time.

A lease ends at its time, or with its owner: while a process has leases it holds a lock on a file of its own beside the
database, and the system takes that lock away when the process dies. So the next one need not wait for the time.
"""

import fcntl
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

from hybrid_memory.errors import InvalidInput
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import identity
from hybrid_memory.sqlite.queued import microseconds, moment

LONGEST_SECONDS = 600.0
# A lease that ends later is of a clock that was set back; half of it is for callers whose `now` is a little old.
_FURTHEST = 2 * timedelta(seconds=LONGEST_SECONDS)


class Leases:
    """The leases of one `state.db`. An owner is named by its instance id and belongs to one process."""

    def __init__(self, state: Database) -> None:
        self._state = state
        self._directory = state.path.parent
        self._alive: dict[str, int] = {}

    async def take(self, name: str, owner: str, seconds: float, now: datetime) -> bool:
        """Have a lease from now on for `seconds`, or for longer when it is ours already; whether we have it.

        Raises:
            InvalidInput: more than `LONGEST_SECONDS`, or an owner that is no name for a file.
        """
        if not 0 < seconds <= LONGEST_SECONDS:
            raise InvalidInput(f"seconds: more than 0 and at most {LONGEST_SECONDS:g}")
        self._show_alive(owner)
        held = await self._state.read(lambda sql: sql.row("leases.holder", name=name))
        dead = None
        if held is not None and held[0] != owner and _lasts(moment(held[1]), now):
            dead = held[0]
            if not self._is_dead(self._file(dead)):
                return False

        def job(sql: Statements) -> bool:
            return bool(
                sql.run(
                    "leases.take",
                    name=name,
                    owner=owner,
                    dead=dead,
                    now=microseconds(now),
                    until=microseconds(now + timedelta(seconds=seconds)),
                    furthest=microseconds(now + _FURTHEST),
                )
            )

        taken = await self._state.write(job)
        if taken and (held is None or held[0] != owner):
            self._clear_up_after_the_dead()
        return taken

    async def release(self, name: str, owner: str) -> bool:
        """Give a lease back; whether we had it."""
        return bool(await self._state.write(lambda sql: sql.run("leases.release", name=name, owner=owner)))

    def close(self) -> None:
        """Show no owner of this process as alive any more. Leases that were not released are free from now on."""
        for owner, handle in self._alive.items():
            self._file(owner).unlink(missing_ok=True)
            os.close(handle)
        self._alive.clear()

    def _show_alive(self, owner: str) -> None:
        """Hold the lock of an owner of ours, on the file that is at its path."""
        path = self._file(owner)
        while owner not in self._alive:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Whoever asks whether we live has it for an instant, and removes a file that nobody has locked.
            fcntl.flock(handle, fcntl.LOCK_SH)
            if identity(path) == _identity_of(handle):
                self._alive[owner] = handle
            else:
                os.close(handle)

    def _is_dead(self, path: Path) -> bool:
        """Whether nobody holds this lock; then its file is gone."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        return True

    def _clear_up_after_the_dead(self) -> None:
        ours = {self._file(owner) for owner in self._alive}
        for path in self._directory.glob("owner-*.lock"):
            if path not in ours:
                self._is_dead(path)

    def _file(self, owner: str) -> Path:
        if not re.fullmatch(r"[\w-]{1,100}", owner, re.ASCII):
            raise InvalidInput("owner: letters, digits, - and _, at most 100")
        return self._directory / f"owner-{owner}.lock"


def holds(sql: Statements, name: str, owner: str, now: datetime) -> bool:
    """Whether an owner has a lease, inside a query or a job."""
    held = sql.row("leases.holder", name=name)
    return held is not None and held[0] == owner and _lasts(moment(held[1]), now)


def _identity_of(handle: int) -> tuple[int, int]:
    found = os.fstat(handle)
    return found.st_dev, found.st_ino


def _lasts(until: datetime, now: datetime) -> bool:
    return now < until <= now + _FURTHEST
