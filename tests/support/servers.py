"""Real Postgres servers for the tests: one per version and run, and a fresh database per test."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import asyncpg

from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.embedded import EmbeddedServer
from hybrid_memory.postgres.target import Target, Targets
from hybrid_memory.settings import Settings

_ROOM = 2_000_000_000
# A test's data need not survive the machine.
_UNSAFE_AND_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

Filling = Callable[[Targets], Awaitable[None]]


async def _nothing(_: Targets) -> None:
    """What a database has in it that was only migrated."""


@dataclass
class Server:
    """A running server whose databases come and go."""

    version: int
    embedded: EmbeddedServer
    targets: Targets
    # Copied files cost less than pages that go through the log, unless each of them has to reach a disk.
    strategy: str
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _templates: dict[Filling, str] = field(default_factory=dict)

    @asynccontextmanager
    async def empty_database(self) -> AsyncIterator[Targets]:
        """A database with the extension and nothing else, owned by the migrating role."""
        async with self._database("template0") as targets:
            async with administration(targets) as connection:
                await connection.execute("create extension vector")
            yield targets

    @asynccontextmanager
    async def migrated_database(self) -> AsyncIterator[Targets]:
        """A database with the whole schema, copied from a template."""
        async with self.database_with(_nothing) as targets:
            yield targets

    @asynccontextmanager
    async def database_with(self, filling: Filling) -> AsyncIterator[Targets]:
        """A database with the whole schema and what `filling` puts in, which it does once, into a template."""
        if filling not in self._templates:
            self._templates[filling] = await self._template_with(filling)
        async with self._database(self._templates[filling]) as targets:
            yield targets

    async def _template_with(self, filling: Filling) -> str:
        name = f"template_{len(self._templates)}"
        async with administration(self.targets) as connection:
            await connection.execute(f"create database {name} owner hybrid_memory_owner template template0")
        targets = in_database(self.targets, name)
        async with administration(targets) as connection:
            await connection.execute("create extension vector")
        await schema.ensure(targets, Settings(), Events())
        await filling(targets)
        return name

    @asynccontextmanager
    async def _database(self, template: str) -> AsyncIterator[Targets]:
        name = f"test_{next(self._numbers)}"
        async with administration(self.targets) as connection:
            await connection.execute(
                f"create database {name} owner hybrid_memory_owner template {template} strategy {self.strategy}"
            )
        try:
            yield in_database(self.targets, name)
        finally:
            async with administration(self.targets) as connection:
                await connection.execute(f"drop database {name} with (force)")


@contextmanager
def running_server(version: int, **options: str) -> Iterator[Server]:
    """A server in a temporary directory, stopped and removed at the end; in memory unless it is to be durable."""
    durable = options.get("fsync") == "on"
    directory = Path(tempfile.mkdtemp(prefix=f"hm{version}-", dir=None if durable else memory()))
    embedded = EmbeddedServer(directory / "postgres", Events(), version=version, settings=_UNSAFE_AND_FAST | options)
    try:
        yield Server(version, embedded, embedded.start(), "wal_log" if durable else "file_copy")
    finally:
        embedded.leave()
        shutil.rmtree(directory, ignore_errors=True)


def memory() -> str | None:
    """A file system in memory, where making a database takes a tenth of the time; None where there is no room."""
    roomy = os.access("/dev/shm", os.W_OK | os.X_OK) and shutil.disk_usage("/dev/shm").free > _ROOM  # noqa: S108
    return "/dev/shm" if roomy else None  # noqa: S108 - mkdtemp makes a private directory below it


def in_database(targets: Targets, name: str) -> Targets:
    """The same roles in another database."""
    return replace(
        targets,
        runtime=targets.runtime.to_database(name),
        migration=targets.migration.to_database(name),
        direct=targets.direct.to_database(name),
        administration=targets.administration.to_database(name),
    )


@asynccontextmanager
async def connection_to(target: Target) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A bare connection, for looking at things from outside."""
    connection = await asyncpg.connect(**target.asyncpg_arguments())
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def administration(targets: Targets) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A superuser's connection."""
    async with connection_to(targets.administration) as connection:
        yield connection
