"""The database is restored to an older state: that is noticed, and nobody is shown what is not in it any more."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, UserMemory
from hybrid_memory.postgres import permissions
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.recording import Recorded
from tests.support.servers import Server, administration, running_server
from tests.support.waiting import until

USERS = ("ann", "bob", "eve")
Make = Callable[..., HybridMemoryManager]


@pytest.fixture(scope="module")
def private() -> Iterator[Server]:
    """A server whose data directory may be exchanged."""
    with running_server(18, synchronous_commit="on") as started:
        yield started


@pytest.fixture
async def database(private: Server) -> AsyncIterator[Targets]:
    async with private.migrated_database() as targets:
        yield targets


@pytest.fixture
async def process(database: Targets, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes managers that compare rarely, each with a directory of its own unless it is named."""
    async with AsyncExitStack() as stack:

        def make(name: str, **keywords: Any) -> HybridMemoryManager:
            events = keywords.pop("events", None)
            often = {"max_staleness_seconds": 3600, "poll_interval_seconds": 3600}
            settings = settings_for(database, **(often | {"data_dir": tmp_path / name} | keywords))
            manager = HybridMemoryManager(settings, events=events)
            stack.push_async_callback(manager.aclose)
            return manager

        yield make


class Backups:
    """Keeps a state of the database, and puts it back."""

    def __init__(self, server: Server, targets: Targets, folder: Path) -> None:
        self._server = server
        self._name = str(targets.runtime.database)
        self._administration = server.targets
        self._file = folder / "dump"
        self._copy = server.embedded.directory / "copy"

    def keep(self) -> None:
        what = ("-Fc", "-n", "memory", "--exclude-table-data=memory.*_stats")
        self._program("pg_dump", *what, "-f", str(self._file), self._name)

    async def into_a_new_database(self) -> None:
        """A dump becomes another database, which takes the name of the first."""
        async with administration(self._administration) as connection:
            await connection.execute(f"create database {self._name}_new template template0")
        self._program("psql", "-qc", "create extension vector", f"{self._name}_new")
        self._restore(f"{self._name}_new")
        async with administration(self._administration) as connection:
            await connection.execute(f"alter database {self._name} with allow_connections false")
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", self._name
            )
            await until(lambda: self._nobody_there(connection), "nobody is connected")
            await connection.execute(f"alter database {self._name} rename to {self._name}_old")
            await connection.execute(f"alter database {self._name}_new rename to {self._name}")
            await connection.execute(f"drop database {self._name}_old")

    async def in_its_place(self) -> None:
        """The tables are dropped and made anew while everybody stays connected."""
        await asyncio.to_thread(self._restore, self._name)

    def keep_cold(self) -> None:
        self._server.embedded._run("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-w", "-t", "60")
        self._copied(self._data, self._copy)
        self._start()

    async def the_data_directory(self) -> None:
        """The files of the whole server are those of an earlier time."""
        await asyncio.to_thread(self.stop)
        await asyncio.to_thread(self.start_as_it_was)

    def stop(self) -> None:
        """End it as a crash would."""
        self._server.embedded._run("pg_ctl", "stop", "-D", str(self._data), "-m", "immediate", "-w", "-t", "60")

    def start_as_it_was(self) -> None:
        """Start the stopped server with the files of an earlier time."""
        shutil.rmtree(self._data)
        self._copied(self._copy, self._data)
        self._start()
        shutil.rmtree(self._copy)

    @staticmethod
    def _copied(source: Path, target: Path) -> None:
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)  # noqa: S607 - keeps owners and rights

    def _start(self) -> None:
        self._server.embedded._start(time.monotonic() + 60)

    @property
    def _data(self) -> Path:
        return self._server.embedded._data

    async def _nobody_there(self, connection: Any) -> bool:
        count = await connection.fetchval("select count(*) from pg_stat_activity where datname = $1", self._name)
        return bool(count == 0)

    def _restore(self, database: str) -> None:
        how = ("--clean", "--if-exists", "--single-transaction")
        self._program("pg_restore", *how, "-d", database, str(self._file))

    def _program(self, name: str, *arguments: str) -> None:
        target = self._administration.administration
        subprocess.run(
            [
                str(self._server.embedded.program(name)),
                *("-h", target.hosts[0], "-p", str(target.ports[0]), "-U", str(target.user)),
                *arguments,
            ],
            check=True,
            env=permissions.environment(),
        )


@pytest.fixture
def backups(private: Server, database: Targets, tmp_path: Path) -> Backups:
    return Backups(private, database, tmp_path)


async def restored(backups: Backups, way: str, between: Callable[[], Awaitable[None]]) -> None:
    """Keep a state, let something happen, and put the state back."""
    if way == "the_data_directory":
        await asyncio.to_thread(backups.keep_cold)
    else:
        await asyncio.to_thread(backups.keep)
    await between()
    await getattr(backups, way)()


def texts(memory: UserMemory) -> set[str]:
    return {str(node.text) for node in memory.get_all_nodes()}


WAYS = ("into_a_new_database", "in_its_place", "the_data_directory")


@pytest.mark.parametrize("way", WAYS)
async def test_a_running_process_notices(process: Make, backups: Backups, events: Recorded, way: str) -> None:
    """Held memories, opened ones, own writes and copies for the next process: all are of the database there is."""
    first, second = process("first", events=events), process("second")
    memories: dict[str, UserMemory] = {}

    async def before() -> None:
        for manager in (first, second):
            await until(lambda: manager.health().postgres == "up", "the server is back", seconds=20)  # noqa: B023
        for user in USERS:
            await first.store_persistent_memory(user, "kept")

    async def between() -> None:
        for user in USERS:
            for number in range(5):
                await second.store_persistent_memory(user, f"lost {number}")
            memories[user] = await first.ensure_user_memories(user)
            await until(lambda: len(texts(memories[user])) == 6, "all is shown")  # noqa: B023 - asked at once

    await first.start()
    await second.start()
    await before()
    await restored(backups, way, between)
    # The first does not get a word of it before it writes or asks; the other one has written past what was lost.
    await until(lambda: second.health().postgres == "up", "the server is back", seconds=20)
    for number in range(8):
        await second.store_persistent_memory("ann", f"new {number}")
    await first.store_persistent_memory("bob", "mine")
    expected = {"ann": {"kept", *(f"new {number}" for number in range(8))}, "bob": {"kept", "mine"}, "eve": {"kept"}}
    for user in USERS:
        await until(lambda: texts(memories[user]) == expected[user], f"{user} is as in Postgres")  # noqa: B023
        assert texts(await first.ensure_user_memories(user)) == expected[user]
    assert events.named("database_replaced")
    assert {one["user_id"] for one in events.named("user_cache_invalidated")} == set(USERS)
    await first.aclose()
    again = process("first")
    for user in USERS:
        assert texts(await again.ensure_user_memories(user)) == expected[user], "the copy was of the other database"
    assert await again.refresh_stats(), "a dump leaves the statistics empty"


@pytest.mark.parametrize("way", WAYS)
async def test_a_process_that_starts_afterwards_notices(process: Make, backups: Backups, way: str) -> None:
    """What is in `cache.db` is of a state that was lost, while nobody looked."""
    first = process("first")
    await first.store_persistent_memory("ann", "kept")

    async def between() -> None:
        await until(lambda: first.health().postgres == "up", "the server is back", seconds=20)
        for number in range(5):
            await first.store_persistent_memory("ann", f"lost {number}")
        await first.ensure_user_memories("ann")
        await first.aclose()

    await restored(backups, way, between)
    events = Recorded()
    again = process("first", events=events)
    assert texts(await again.ensure_user_memories("ann")) == {"kept"}


async def test_what_waited_is_sent_to_the_restored_database(process: Make, backups: Backups, database: Targets) -> None:
    """Acknowledged into the outbox while the server was away; it comes back as it was earlier."""
    manager = process("first")
    await manager.store_persistent_memory("ann", "kept")
    await asyncio.to_thread(backups.keep_cold)
    await until(lambda: manager.health().postgres == "up", "the server is back", seconds=20)
    memory = await manager.ensure_user_memories("ann")
    await manager.store_persistent_memory("ann", "lost")
    await asyncio.to_thread(backups.stop)
    for number in range(5):
        await manager.store_persistent_memory("ann", f"waits {number}")
    assert manager.health().outbox_depth == 5
    await asyncio.to_thread(backups.start_as_it_was)
    assert await manager.flush(30)
    expected = {"kept", *(f"waits {number}" for number in range(5))}
    await until(lambda: texts(memory) == expected, "the memory is as in Postgres")
    async with administration(database) as connection:
        rows = await connection.fetch("select content ->> 'text' from memory.nodes where user_id = 'ann'")
    assert sorted(row[0] for row in rows) == sorted(expected)
