"""Leases: one owner at a time, until its time or its process ends."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from hybrid_memory.errors import InvalidInput
from hybrid_memory.observability import Events
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.leases import LONGEST_SECONDS, Leases
from tests.support.outboxes import NOW, OTHER_RUN, RUN, SECOND, operation, outbox_in
from tests.support.sqlite_files import ROOT
from tests.support.waiting import until

DEADLINE = 30.0


@pytest.fixture
async def leases(tmp_path: Path) -> AsyncIterator[Leases]:
    with Database(STATE, tmp_path, Events()) as state, closing(Leases(state)) as opened:
        yield opened


def owners_in(directory: Path) -> list[str]:
    """Whose files are there."""
    return sorted(path.stem.removeprefix("owner-") for path in directory.glob("owner-*.lock"))


async def test_one_owner_at_a_time(leases: Leases) -> None:
    assert await leases.take("outbox", "a", 10, NOW)
    assert not await leases.take("outbox", "b", 10, NOW + 9 * SECOND)
    assert await leases.take("another", "b", 10, NOW)
    assert not await leases.release("outbox", "b")
    assert await leases.release("outbox", "a")
    assert await leases.take("outbox", "b", 10, NOW)


async def test_an_owner_may_have_it_longer_and_loses_it_in_time(leases: Leases) -> None:
    assert await leases.take("outbox", "a", 10, NOW)
    assert await leases.take("outbox", "a", 10, NOW + 8 * SECOND)
    assert not await leases.take("outbox", "b", 10, NOW + 17 * SECOND)
    assert await leases.take("outbox", "b", 10, NOW + 18 * SECOND), "its process lives, but its time is over"
    assert not await leases.take("outbox", "a", 10, NOW + 19 * SECOND)


async def test_all_at_once_and_one_gets_it(leases: Leases) -> None:
    names = [f"owner-{number}" for number in range(20)]
    taken = await asyncio.gather(*(leases.take("outbox", name, 10, NOW) for name in names))
    assert sum(taken) == 1


async def test_a_clock_set_back_does_not_make_it_eternal(leases: Leases) -> None:
    assert await leases.take("outbox", "a", 10, NOW)
    assert await leases.take("outbox", "b", 10, NOW - 2 * LONGEST_SECONDS * SECOND)


async def test_a_caller_that_was_slow_does_not_take_it_from_one_that_was_not(leases: Leases) -> None:
    """Its `now` is from before the other one's."""
    assert await leases.take("outbox", "a", LONGEST_SECONDS, NOW)
    assert not await leases.take("outbox", "b", LONGEST_SECONDS, NOW - SECOND)


@pytest.mark.parametrize("seconds", [0, -1, LONGEST_SECONDS + 1])
async def test_no_lease_is_longer_than_can_be_waited_for(leases: Leases, seconds: float) -> None:
    with pytest.raises(InvalidInput, match="seconds"):
        await leases.take("outbox", "a", seconds, NOW)


@pytest.mark.parametrize("owner", ["", "../a", "a b", "ä", "a" * 101])
async def test_an_owner_is_a_name_for_a_file(leases: Leases, owner: str) -> None:
    with pytest.raises(InvalidInput, match="owner"):
        await leases.take("outbox", owner, 10, NOW)


async def test_what_was_not_released_is_free_after_close(tmp_path: Path, leases: Leases) -> None:
    with closing(Leases(leases._state)) as first:
        assert await first.take("outbox", "a", 600, NOW)
        assert not await leases.take("outbox", "b", 10, NOW)
    assert await leases.take("outbox", "b", 10, NOW)
    assert owners_in(tmp_path) == ["b"]


async def test_without_the_lease_nothing_is_given_out(tmp_path: Path) -> None:
    async with outbox_in(tmp_path) as (_, outbox):
        await outbox.put([operation("nick", 1)])
        for owner, now in ((OTHER_RUN, NOW), (RUN, NOW + 601 * SECOND), (RUN, NOW - 601 * SECOND)):
            assert await outbox.next_batches(owner, most_users=1, most_operations=1, now=now) == []
        assert await outbox.next_batches(RUN, most_users=1, most_operations=1, now=NOW)


_TAKE_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from hybrid_memory.observability import Events
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.leases import Leases
from tests.support.outboxes import NOW
async def main():
    with Database(STATE, Path(sys.argv[1]), Events()) as state:
        print(await Leases(state).take("outbox", sys.argv[2], 600, NOW), flush=True)
        sys.stdin.read()
asyncio.run(main())
"""


@asynccontextmanager
async def process_with_the_lease(directory: Path, owner: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _TAKE_AND_WAIT, str(directory), owner, cwd=ROOT, stdin=pipe, stdout=pipe
    )
    try:
        async with asyncio.timeout(DEADLINE):
            assert process.stdout is not None
            assert await process.stdout.readline() == b"True\n"
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_lease_of_a_killed_process_is_free_at_once(tmp_path: Path, leases: Leases) -> None:
    async with process_with_the_lease(tmp_path, "child") as process:
        assert not await leases.take("outbox", "parent", 10, NOW)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert await leases.take("outbox", "parent", 10, NOW)
    assert owners_in(tmp_path) == ["parent"]


async def test_a_process_that_hangs_loses_its_lease_in_time_only(tmp_path: Path, leases: Leases) -> None:
    async with process_with_the_lease(tmp_path, "child") as process:
        process.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{process.pid}/stat")
        await until(lambda: state.read_text().split(") ")[1].startswith("T"), "the process stands still")
        assert not await leases.take("outbox", "parent", 10, NOW + 599 * SECOND)
        assert await leases.take("outbox", "parent", 10, NOW + 600 * SECOND)
        process.send_signal(signal.SIGCONT)
        assert (tmp_path / "owner-child.lock").exists(), "its process is alive"


async def test_a_file_that_was_removed_between_opening_and_locking_it_is_not_held(
    tmp_path: Path, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody looks for the dead just then, and removes what nobody has locked yet."""
    stolen: list[Path] = []
    open_file = os.open

    def and_remove(path: Path, flags: int, mode: int = 0o777) -> int:
        handle = open_file(path, flags, mode)
        if not stolen and Path(path).name == "owner-a.lock":
            stolen.append(path)
            Path(path).unlink()
        return handle

    monkeypatch.setattr(os, "open", and_remove)
    assert await leases.take("outbox", "a", 10, NOW)
    assert stolen
    assert (tmp_path / "owner-a.lock").exists()
