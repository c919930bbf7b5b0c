"""A full disk, cancelled callers, many processes at once, a second library: what happens around the database."""

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.schema import shipped
from tests.support.recording import Recorded
from tests.support.sqlite_files import ROOT, Resources, integrity, noting, state_in, stored_ids
from tests.support.sqlite_guard import watched
from tests.support.sqlite_processes import crew
from tests.support.sqlite_tmpfs import fill, tmpfs

DEADLINE = 30.0


# A full disk


async def write_until_refused(database: Database, prefix: str, size: Callable[[], int]) -> set[str]:
    """Write until there is no space; what was acknowledged."""
    acknowledged: set[str] = set()
    for number in range(100_000):
        try:
            await database.write(noting("t", f"{prefix}-{number}", '"' + "x" * size() + '"'))
        except StorageUnavailable:
            return acknowledged
        acknowledged.add(f"{prefix}-{number}")
    pytest.fail("the disk was never full")


@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=pytest.mark.campaign)])
async def test_a_full_disk_refuses_and_recovers_without_a_restart(
    tmp_path: Path, rng: random.Random, rounds: int
) -> None:
    total = 0
    for number in range(rounds):
        with tmpfs(tmp_path / f"small {number}", rng.choice([6, 8, 12])) as disk, state_in(disk / "data") as (state, _):
            ballast = fill(disk, most=rng.randrange(1 << 20, 4 << 20))
            callers = (write_until_refused(state, str(one), lambda: rng.randrange(20_000)) for one in range(16))
            acknowledged = set[str]().union(*await asyncio.gather(*callers))
            rest = fill(disk)
            # What is free inside the files is used up now; from here on nothing can be taken.
            acknowledged |= await write_until_refused(state, "rest", lambda: 4000)
            with pytest.raises(StorageUnavailable, match="full"):
                await state.write(noting("t", "refused", '"' + "x" * 100_000 + '"'))
            ballast.unlink()
            rest.unlink()
            await state.write(noting("t", "after"))
            stored = await state.read(stored_ids)
            assert await state.read(integrity) == "ok"
        assert acknowledged | {"after"} <= set(stored)
        assert "refused" not in stored
        assert len(stored) == len(set(stored))
        total += len(stored)
    print(
        f"{rounds} disks full, 16 callers: {total} rows acknowledged, none missing, every one went on without a restart"
    )


# Cancelled callers


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.campaign)])
async def test_cancelled_callers_leave_nothing_behind(tmp_path: Path, rng: random.Random, count: int) -> None:
    with Database(STATE, tmp_path, Recorded(), queue_limit=20) as database:
        await database.write(noting("t", "first"))
        all_at_once = threading.Barrier(4)
        await asyncio.gather(*(database.read(lambda _: all_at_once.wait(DEADLINE)) for _ in range(4)))
        before = Resources.now()
        acknowledged: set[str] = set()
        loop = asyncio.get_running_loop()

        async def call(name: str) -> None:
            if rng.random() < 0.2:
                await database.read(lambda sql: sql.value("transient_memories.verify"))
            else:
                await database.write(noting("t", name))
                acknowledged.add(name)

        async def cancelled(name: str) -> bool:
            task = asyncio.create_task(call(name))
            loop.call_later(rng.choice([0, 0.002, 0.005, 0.01, 0.03]) * rng.random(), task.cancel)
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
            return outcome is not None

        hit = 0
        for start in range(0, count, 50):
            hit += sum(await asyncio.gather(*(cancelled(f"{start}-{number}") for number in range(50))))
        await database.write(noting("t", "last"))
        after = Resources.now()
        assert (database.queued, database._inbox.in_line) == (0, 0)
        assert after.threads == before.threads
        assert after.connections <= before.connections
        assert after.descriptors <= before.descriptors
        assert len(asyncio.all_tasks()) == 1
        stored = await database.read(stored_ids)
        assert acknowledged <= set(stored)
        assert len(stored) == len(set(stored))
        print(f"{count} callers, {hit} cancelled in time, {len(acknowledged)} acknowledged, nothing left behind")
        assert 0 < hit < count
        assert acknowledged


# Many processes


@pytest.mark.parametrize(
    ("processes", "rounds"), [(4, 5), pytest.param(16, 50, marks=[pytest.mark.campaign, pytest.mark.timeout(600)])]
)
def test_many_first_starts_at_once_make_one_schema(tmp_path: Path, processes: int, rounds: int) -> None:
    with crew(processes) as together:
        for number in range(rounds):
            directory = tmp_path / str(number)
            migrations = together.order("start", directory)
            assert sorted(map(str, migrations)) == ["0"] * (processes - 1) + [str(len(shipped(STATE)))]
            with state_in(directory) as (database, _):
                assert len(database.read_blocking(stored_ids)) == processes
    print(f"{rounds} x {processes} first starts at once, one migrates each time, no error")


@pytest.mark.parametrize("seconds", [2.0, pytest.param(20.0, marks=pytest.mark.campaign)])
def test_no_process_starves_another(tmp_path: Path, seconds: float) -> None:
    with crew(3) as together:
        answers = together.order("write", tmp_path, seconds=seconds)
    counts, longest = [count for count, _ in answers], max(wait for _, wait in answers)
    print(f"3 processes, {seconds} s: {counts} writes, longest wait {longest:.3f} s")
    assert min(counts) > sum(counts) / 20
    assert longest < 2


# A second library on one file


def other_process_can_write(path: Path) -> bool:
    """Whether a process of its own gets the write lock at once."""
    command = [sys.executable, "-c", _TRY_TO_WRITE, str(path)]
    return subprocess.run(command, cwd=ROOT, timeout=DEADLINE, capture_output=True, check=False).returncode == 0


_TRY_TO_WRITE = """
import sys, apsw
apsw.Connection(sys.argv[1]).execute("begin immediate")
"""


def test_a_second_library_on_a_file_in_use_is_noticed(tmp_path: Path) -> None:
    """The planted bug: the standard library's sqlite3 opens our file, and our locks are gone."""
    with state_in(tmp_path) as (database, _), watched() as watch:
        seen: SimpleQueue[tuple[bool, bool]] = SimpleQueue()

        def hold_the_lock(_: object) -> None:
            before = other_process_can_write(database.path)
            intruder = sqlite3.connect(database.path)
            intruder.execute("select count(*) from transient_memories").fetchone()
            intruder.close()
            seen.put((before, other_process_can_write(database.path)))

        writing = threading.Thread(target=lambda: database.write_blocking(hold_the_lock))
        writing.start()
        writing.join(DEADLINE)
        assert seen.get(timeout=DEADLINE) == (False, True), "the lock held, or was not there before"
        assert any(opening.startswith("sqlite3.connect") for opening in watch.seen)


def test_a_plain_open_of_a_file_in_use_is_noticed(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _), watched() as watch:
        database.path.read_bytes()
        assert watch.seen == [f"open of {database.path}"]
