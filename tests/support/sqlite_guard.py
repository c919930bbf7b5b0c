"""Watches for what drops SQLite's locks: a database in use that is opened by anything but our SQLite (D4 of DESIGN).

Closing any handle of a file takes away all POSIX locks this process holds on it, so a second SQLite library, or a plain
`open()`, lets another process write in the middle of our transaction. Python reports both to audit hooks. A hook cannot
be removed, so one is installed once per process and asks the watches that are active.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import apsw

_SIDE_FILES = ("", "-wal", "-shm")
_NAMES = tuple(f".db{suffix}" for suffix in _SIDE_FILES)


class Watch:
    """The forbidden openings seen so far."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def look(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("open", "sqlite3.connect") or not arguments:
            return
        path = arguments[0]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        # Connections are asked only where it matters: one that works in another thread does not answer.
        name = os.fsdecode(path)
        if name.endswith(_NAMES) and os.path.realpath(name) in _in_use():
            self.seen.append(f"{event} of {name}")


@contextmanager
def watched() -> Iterator[Watch]:
    """Collect forbidden openings for the time of the block."""
    watch, active = Watch(), _active()
    active.append(watch)
    try:
        yield watch
    finally:
        active.remove(watch)


@cache
def _active() -> list[Watch]:
    active: list[Watch] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        for watch in tuple(active):
            watch.look(event, arguments)

    sys.addaudithook(hook)
    return active


def _in_use() -> set[str]:
    names = [_name_of(connection) for connection in apsw.connections()]
    return {os.path.realpath(name) + suffix for name in filter(None, names) for suffix in _SIDE_FILES}


def _name_of(connection: apsw.Connection) -> str:
    """Asked again while another thread works with it, for up to ten seconds."""
    for _ in range(10_000):
        with suppress(apsw.ThreadingViolationError):
            return connection.filename
        time.sleep(0.001)
    return connection.filename
