"""The database as its callers see it: jobs, groups, threads, loops, deadlines, the end."""

import asyncio
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import ClassVar, Self

import apsw
import pytest

from hybrid_memory.errors import ConfigurationError, SchemaMismatch, StorageRejected, StorageUnavailable
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import CACHE, STATE
from hybrid_memory.sqlite.groups import Joint
from hybrid_memory.sqlite.schema import shipped
from hybrid_memory.sqlite.status import status
from hybrid_memory.sqlite.writer import Writer
from tests.support.recording import Recorded
from tests.support.sqlite_files import ROOT, note_row, noting, state_in, stored_ids
from tests.support.waiting import until

DEADLINE = 10.0
Job = Callable[[Statements], object]


class Busy:
    """Keeps the writer occupied with a job until the block ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._begun, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: database.write_blocking(self._job))

    def _job(self, _: Statements) -> None:
        self._begun.set()
        assert self._end.wait(DEADLINE)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._begun.wait(DEADLINE)

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


async def taken(database: Database, jobs: int) -> None:
    """Wait until the writer's line holds as many."""
    await until(lambda: database.queued + database._inbox.in_line == jobs, f"{jobs} jobs in line")


def commits(database: Database) -> list[str]:
    """The transactions of the writer from now on."""
    seen: list[str] = []
    assert database._writer is not None

    def count() -> bool:
        seen.append("commit")
        return False

    database._writer._connection.set_commit_hook(count)
    return seen


async def test_a_write_is_read_back_from_every_side(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        await database.write(noting("t", "1"))
        database.write_blocking(noting("t", "2"))
        await asyncio.to_thread(database.write_blocking, noting("t", "3"))
        assert await database.read(stored_ids) == ["1", "2", "3"]
        assert database.read_blocking(stored_ids) == ["1", "2", "3"]


def test_one_database_serves_several_loops_one_after_the_other_and_at_once(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):

        async def some(name: str) -> None:
            await asyncio.gather(*(database.write(noting("t", f"{name}{i}")) for i in range(20)))

        asyncio.run(some("a"))
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(lambda name: asyncio.run(some(name)), "bcd"))
        assert sorted(database.read_blocking(stored_ids)) == sorted(f"{n}{i}" for n in "abcd" for i in range(20))


def as_if_commits_took(writer: Writer, seconds: float) -> None:
    """Have all commits that are remembered taken an event loop so long."""
    for _ in range(100):
        writer._pace.in_loop(seconds)


def test_jobs_that_write_nothing_say_nothing_of_the_disk(tmp_path: Path) -> None:
    def fail(sql: Statements) -> None:
        note_row(sql, "t", "1")
        raise ValueError("undone")

    with state_in(tmp_path) as (database, _):
        writer = database._check_usable()
        as_if_commits_took(writer, 10.0)
        for _ in range(50):
            database.write_blocking(stored_ids)
            with pytest.raises(ValueError, match="undone"):
                database.write_blocking(fail)
        assert not writer._pace.is_quick()


async def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        seen = commits(database)
        with Busy(database):
            tasks = [asyncio.create_task(database.write(noting("t", str(i)))) for i in range(50)]
            await taken(database, 50)
        await asyncio.gather(*tasks)
        assert len(seen) == 2


async def test_what_comes_in_one_turn_of_a_loop_is_committed_together(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        seen = commits(database)
        await asyncio.gather(*(database.write(noting("t", str(i)), light=i % 2 == 0) for i in range(50)))
        assert len(seen) == 1


async def test_a_light_job_that_comes_alone_is_done_in_the_thread_of_its_loop(tmp_path: Path) -> None:
    def where(sql: Statements) -> int:
        note_row(sql, "t", str(time.monotonic_ns()))
        return threading.get_ident()

    with state_in(tmp_path) as (database, _):
        writer = database._writer
        assert writer is not None

        async def in_this_thread(seconds: float | None, *, light: bool = True) -> bool:
            await until(lambda: not writer._turn.locked(), "the writer is idle")
            if seconds is not None:
                as_if_commits_took(writer, seconds)
            return await database.write(where, light=light) == threading.get_ident()

        assert not await in_this_thread(None), "nobody knows yet whether it is quick"
        assert not await in_this_thread(0.0, light=False)
        assert await in_this_thread(0.0)
        assert not await in_this_thread(10.0), "a slow disk is for threads"
        with Busy(database):
            as_if_commits_took(writer, 0.0)
            waiting = asyncio.create_task(database.write(where, light=True))
            await taken(database, 1)
        assert await waiting != threading.get_ident()


async def test_what_an_event_loop_commits_is_copied_into_the_file_by_the_thread(tmp_path: Path) -> None:
    where: list[int] = []

    def job(sql: Statements) -> None:
        where.append(threading.get_ident())
        note_row(sql, "t", str(len(where)))

    with state_in(tmp_path) as (database, _):
        writer = database._writer
        assert writer is not None
        await database.write(noting("t", "first"))
        await until(lambda: not writer._turn.locked(), "the writer is idle")
        as_if_commits_took(writer, 0.0)
        writer._checkpoint_at = writer._wal_pages
        await database.write(job, light=True)
        assert where == [threading.get_ident()]
        await until(lambda: writer._wal_pages == 0, "the WAL is copied")


async def test_a_job_that_is_followed_by_another_shares_its_commit_in_the_thread_of_their_loop(tmp_path: Path) -> None:
    where: list[int] = []

    def job(sql: Statements) -> None:
        where.append(threading.get_ident())
        note_row(sql, "t", str(len(where)))

    async def quick(writer: Writer) -> None:
        await until(lambda: not writer._turn.locked(), "the writer is idle")
        as_if_commits_took(writer, 0.0)

    with state_in(tmp_path) as (database, _):
        writer = database._writer
        assert writer is not None
        await database.write(noting("t", "first"))
        seen = commits(database)
        await quick(writer)
        followed = asyncio.create_task(database.write(job, light=True, followed=True))
        await asyncio.sleep(0)
        await asyncio.gather(followed, database.write(job, light=True))
        assert len(seen) == 1
        await quick(writer)
        await database.write(job, light=True, followed=True)
        assert len(seen) == 2, "what follows need not come"
        assert where == [threading.get_ident()] * 3


async def test_an_event_loop_never_waits_for_the_lock_of_another_process(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        assert database._writer is not None
        as_if_commits_took(database._writer, 0.0)
        other = apsw.Connection(str(database.path))
        other.execute("begin immediate")
        waiting = asyncio.create_task(database.write(noting("t", "1"), light=True))
        begun = time.monotonic()
        await asyncio.sleep(0.05)
        assert time.monotonic() - begun < 1
        assert not waiting.done()
        other.execute("rollback")
        other.close()
        await waiting
        assert database.read_blocking(stored_ids) == ["1"]


async def test_jobs_that_need_a_transaction_each_wait_for_another_process_between_them(tmp_path: Path) -> None:
    """Small ones of one loop are committed in it together; where one breaks the transaction, that is for threads."""
    turns = count(1)
    with state_in(tmp_path) as (database, _), closing(apsw.Connection(str(database.path))) as other:

        def breaking(sql: Statements) -> None:
            sql.connection.execute("rollback")
            if next(turns) == 3:  # now one by one
                other.execute("begin immediate")
                threading.Timer(0.2, lambda: other.execute("rollback")).start()
            raise ValueError("broken")

        await database.write(noting("t", "first"))
        assert database._writer is not None
        as_if_commits_took(database._writer, 0.0)
        done = await asyncio.gather(
            database.write(breaking, light=True, followed=True),
            database.write(noting("t", "second"), light=True, followed=True),
            return_exceptions=True,
        )
        assert [type(one) for one in done] == [ValueError, type(None)], done
        assert database.read_blocking(stored_ids) == ["first", "second"]


async def test_jobs_that_are_handed_over_together_have_deadlines_of_their_own(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _), Busy(database):
        impatient, patient = (
            asyncio.ensure_future(database.write(noting("t", name), timeout=timeout))
            for name, timeout in (("soon", 0.05), ("late", DEADLINE))
        )
        with pytest.raises(StorageUnavailable, match="dropped"):
            await impatient
        assert not patient.done()
        patient.cancel()


def test_rows_in_another_order_than_their_query_are_refused(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _), pytest.raises(TypeError, match=r"outbox_payloads\.accept_damaged"):
        database.write_blocking(lambda sql: sql.run_many("outbox_payloads.accept_damaged", ["place"], [(1,)]))


async def test_a_light_job_that_fails_tells_its_caller(tmp_path: Path) -> None:
    def refused(sql: Statements) -> None:
        sql.connection.execute("insert into transient_memories (thread_id) values (null)")

    with state_in(tmp_path) as (database, _):
        assert database._writer is not None
        as_if_commits_took(database._writer, 0.0)
        with pytest.raises(StorageRejected):
            await database.write(refused, light=True)
        await database.write(noting("t", "1"), light=True)
        assert database.read_blocking(stored_ids) == ["1"]


async def test_what_was_asked_for_in_the_turn_of_the_end_is_refused(tmp_path: Path) -> None:
    database = Database(STATE, tmp_path, Recorded())
    database.open()
    late = [asyncio.create_task(database.write(noting("t", str(i)), light=True)) for i in range(2)]
    asyncio.get_running_loop().call_soon(database.close)
    answers = await asyncio.wait_for(asyncio.gather(*late, return_exceptions=True), DEADLINE)
    assert all(isinstance(answer, StorageUnavailable) for answer in answers)


async def test_a_failing_job_fails_alone(tmp_path: Path) -> None:
    class OwnError(Exception):
        pass

    def fails(sql: Statements) -> None:
        note_row(sql, "t", "never")
        raise OwnError

    def refused(sql: Statements) -> None:
        note_row(sql, "t", "never either")
        sql.connection.execute("insert into transient_memories (thread_id) values (null)")

    with state_in(tmp_path) as (database, _):
        with Busy(database):
            jobs = [noting("t", "1"), fails, refused, noting("t", "2")]
            tasks = [asyncio.create_task(database.write(job)) for job in jobs]
            await taken(database, len(jobs))
        first, own, rejected, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert (first, second) == (None, None)
        assert isinstance(own, OwnError)
        assert isinstance(rejected, StorageRejected)
        with pytest.raises(OwnError):
            database.write_blocking(fails)
        assert database.read_blocking(stored_ids) == ["1", "2"]


class Noted(Joint[str]):
    """A note that is written down with its neighbours; all the groups it came in."""

    groups: ClassVar[list[list[str]]] = []

    def __init__(self, node_id: str, fails: bool = False) -> None:  # noqa: FBT001, FBT002 - a test's own
        self.node_id, self.fails = node_id, fails

    def __call__(self, sql: Statements) -> str:
        note_row(sql, "t", self.node_id)
        if self.fails:
            raise LookupError(self.node_id)
        return f"alone {self.node_id}"

    @classmethod
    def together(cls, jobs: Sequence[Self], sql: Statements) -> Sequence[str]:
        cls.groups.append([job.node_id for job in jobs])
        for job in jobs:
            job(sql)
        return [f"together {job.node_id}" for job in jobs]


async def at_once(database: Database, jobs: Sequence[Job]) -> list[object]:
    """What becomes of jobs that wait together for the writer."""
    with Busy(database):
        tasks = [asyncio.create_task(database.write(job)) for job in jobs]
        await taken(database, len(jobs))
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_neighbours_of_a_kind_are_done_together_in_their_place(tmp_path: Path) -> None:
    Noted.groups.clear()
    with state_in(tmp_path) as (database, _):
        jobs: list[Job] = [Noted("1"), Noted("2"), noting("t", "3"), Noted("4"), noting("t", "5")]
        assert await at_once(database, jobs) == ["together 1", "together 2", None, "together 4", None]
        assert Noted.groups == [["1", "2"], ["4"]]
        assert database.write_blocking(Noted("6")) == "alone 6"
        assert database.read_blocking(stored_ids) == ["1", "2", "3", "4", "5", "6"]


async def test_one_of_those_done_together_fails_alone(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        one, never, two = await at_once(database, [Noted("1"), Noted("never", fails=True), Noted("2")])
        assert (one, two) == ("alone 1", "alone 2")
        assert isinstance(never, LookupError)
        assert database.read_blocking(stored_ids) == ["1", "2"]


async def test_a_job_that_ends_the_transaction_takes_nobody_along(tmp_path: Path) -> None:
    def gives_up(sql: Statements) -> None:
        sql.connection.execute("rollback")
        raise apsw.FullError("as SQLite does when it rolls back by itself")

    with state_in(tmp_path) as (database, _):
        with Busy(database):
            jobs = [noting("t", "1"), gives_up, noting("t", "2")]
            tasks = [asyncio.create_task(database.write(job)) for job in jobs]
            await taken(database, len(jobs))
        first, full, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert (first, second) == (None, None)
        assert isinstance(full, StorageUnavailable)
        assert database.read_blocking(stored_ids) == ["1", "2"]


async def test_the_queue_is_bounded_and_those_in_line_come_next(tmp_path: Path) -> None:
    with Database(STATE, tmp_path, Recorded(), queue_limit=5) as database:
        with Busy(database):
            tasks = [asyncio.create_task(database.write(noting("t", str(i)))) for i in range(12)]
            await taken(database, 12)
            assert (database.queued, database._inbox.in_line) == (5, 7)
            with pytest.raises(StorageUnavailable) as waiting:
                await database.write(noting("t", "late"), timeout=0.05)
            assert not waiting.value.outcome_unknown
            with pytest.raises(StorageUnavailable):
                database.write_blocking(noting("t", "late too"), timeout=0.05)
            assert (database.queued, database._inbox.in_line) == (5, 7)
        await asyncio.gather(*tasks)
        assert database.read_blocking(stored_ids) == [str(i) for i in range(12)]


async def test_each_wait_ends_when_it_should(tmp_path: Path) -> None:
    ended: list[float] = []

    async def wait(seconds: float) -> None:
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await database.write(noting("t", "late"), timeout=seconds)
        assert seconds <= time.monotonic() - begun
        ended.append(seconds)

    with state_in(tmp_path) as (database, _):
        with Busy(database):
            patient = asyncio.create_task(database.write(noting("t", "1")))
            await asyncio.gather(*(wait(seconds) for seconds in (0.3, 0.05, 0.6)))
            await wait(0.1)
        assert ended == [0.05, 0.3, 0.6, 0.1]
        await patient
        assert database.read_blocking(stored_ids) == ["1"]


def test_a_wait_ends_when_it_should_though_another_loop_ran_meanwhile(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _), Busy(database), closing(asyncio.new_event_loop()) as first:
        waiting = first.create_task(database.write(noting("t", "late"), timeout=0.1))
        first.run_until_complete(asyncio.sleep(0))
        with pytest.raises(StorageUnavailable):
            asyncio.run(database.write(noting("t", "late too"), timeout=0.05))
        with pytest.raises(StorageUnavailable):
            first.run_until_complete(asyncio.wait_for(waiting, DEADLINE / 2))


async def test_a_job_that_has_begun_is_of_unknown_outcome_at_the_deadline(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(sql: Statements) -> None:
        assert go_on.wait(DEADLINE)
        note_row(sql, "t", "1")

    with state_in(tmp_path) as (database, _):
        with pytest.raises(StorageUnavailable) as late:
            await database.write(slow, timeout=0.05)
        assert late.value.outcome_unknown
        go_on.set()
        await database.write(noting("t", "2"))
        assert database.read_blocking(stored_ids) == ["1", "2"]


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    database = Database(STATE, tmp_path, Recorded())
    database.open()
    with Busy(database):
        tasks = [asyncio.create_task(database.write(noting("t", str(i)))) for i in range(20)]
        await taken(database, 20)
        closing = asyncio.create_task(asyncio.to_thread(database.close))
        await asyncio.sleep(0)
    assert await closing
    await asyncio.gather(*tasks)
    for late in (database.write, database.read):
        with pytest.raises(StorageUnavailable, match="closed"):
            await late(stored_ids)
    assert not Path(f"{database.path}-wal").exists()  # noqa: ASYNC240 - the test has nothing else to do
    with state_in(tmp_path) as (again, _):
        assert len(again.read_blocking(stored_ids)) == 20


def test_a_job_that_waits_for_a_job_is_told_so(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _), pytest.raises(RuntimeError, match="must not wait"):
        database.write_blocking(lambda _: database.write_blocking(stored_ids))


def test_a_reader_sees_one_state_and_cannot_write(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        database.write_blocking(noting("t", "1"))

        def twice(sql: Statements) -> tuple[int, int]:
            before = len(stored_ids(sql))
            writing = threading.Thread(target=lambda: database.write_blocking(noting("t", "2")))
            writing.start()
            writing.join(DEADLINE)
            return before, len(stored_ids(sql))

        assert database.read_blocking(twice) == (1, 1)
        assert len(database.read_blocking(stored_ids)) == 2
        with pytest.raises(StorageUnavailable):
            database.read_blocking(noting("t", "3"))


def test_the_wal_stays_small_behind_a_long_reader_and_shrinks_after_it(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        content = '"' + "x" * 100_000 + '"'

        def write(number: int) -> None:
            database.write_blocking(noting("t", str(number), content))

        def hold(sql: Statements) -> int:
            stored_ids(sql)
            for number in range(250):
                write(number)
            return status(database).wal_bytes

        behind = database.read_blocking(hold)
        for number in range(60):
            write(number)
        after = status(database).wal_bytes
        assert behind > 20_000_000, "the reader held nothing back"
        assert after <= 17_000_000


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with state_in(directory), Database(CACHE, directory, Recorded()) as cache:
        cache.write_blocking(lambda _: None)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
        assert modes.keys() >= {"state.db", "state.db-wal", "state.db-shm", "cache.db", "cache.db-wal"}
        assert set(modes.values()) == {0o600}


def test_an_open_directory_is_closed_to_others_but_can_be_passed_through(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with state_in(directory):
        pass
    directory.chmod(0o755)
    (directory / "state.db").chmod(0o644)
    with state_in(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o711
        assert stat.S_IMODE((directory / "state.db").stat().st_mode) == 0o600


def test_the_settings_of_the_two_files(tmp_path: Path) -> None:
    names = ("synchronous", "journal_mode", "journal_size_limit", "foreign_keys")
    for kind, synchronous in ((STATE, 2), (CACHE, 1)):
        with Database(kind, tmp_path, Recorded()) as database:
            seen = database.write_blocking(lambda sql: [sql.connection.pragma(name) for name in names])
            assert seen == [synchronous, "wal", 16 * 1024 * 1024, 1]


def test_a_state_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, notes):
        notes.store("t", "kept")
        database.write_blocking(
            lambda sql: sql.run("schema.record", number=99, name="from_the_future", checksum="unknown") and None
        )
    with pytest.raises(SchemaMismatch, match=r"state\.db is at migration 99"), state_in(tmp_path):
        pass
    connection = apsw.Connection(str(tmp_path / "state.db"))
    assert connection.execute("select count(*) from transient_memories").get == 1
    connection.close()


def test_the_status_says_what_there_is(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, notes):
        notes.store("t", "x")
        seen = status(database)
        assert seen.file == str(tmp_path / "state.db")
        assert seen.sqlite_version == apsw.sqlite_lib_version()
        assert not seen.vulnerable
        assert seen.schema_version == len(shipped(STATE))
        assert seen.bytes > 0
        assert seen.wal_bytes > 0


def test_migrations_are_reported_once(tmp_path: Path) -> None:
    events = Recorded()
    for _ in range(2):
        with state_in(tmp_path, events):
            pass
    applied = events.named("migration_applied")
    assert all(one.pop("duration_ms") > 0 for one in applied)
    assert applied == [{"number": one.number, "migration": one.name, "file": "state.db"} for one in shipped(STATE)]


def test_a_deleted_state_file_takes_nothing_more(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, notes):
        notes.store("t", "1")
        (tmp_path / "state.db").unlink()
        database._looked_at = 0
        with pytest.raises(Exception, match="deleted or replaced"):
            notes.store("t", "2")


def test_a_vulnerable_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybrid_memory.sqlite.database.sqlite_version", lambda: "3.51.2")
    with pytest.raises(ConfigurationError, match="install apsw"), state_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_process_that_keeps_the_lock_delays_nobody_beyond_the_deadline(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        command = [sys.executable, "-c", _KEEP_THE_LOCK, str(database.path)]
        other = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        start = time.monotonic()
        with pytest.raises(StorageUnavailable):
            database.write_blocking(noting("t", "refused"), timeout=0.2)
        with pytest.raises(StorageUnavailable):
            asyncio.run(database.write(noting("t", "undecided"), timeout=0.2))
        assert database.read_blocking(stored_ids) == []
        assert time.monotonic() - start < 1.4
        other.communicate(timeout=DEADLINE)
        database.write_blocking(noting("t", "taken"))
        assert database.read_blocking(stored_ids) == ["undecided", "taken"]


_KEEP_THE_LOCK = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("begin immediate")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # that it is deprecated is why it is tested
@pytest.mark.parametrize("how", ["use", "open"])
def test_a_forked_child_is_told_and_does_not_hang(tmp_path: Path, how: str) -> None:
    with state_in(tmp_path) as (database, notes):
        notes.store("t", "1")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer = b"no error"
            try:
                if how == "use":
                    database.read_blocking(stored_ids)
                else:
                    Database(STATE, tmp_path, Recorded()).open()
            except ConfigurationError as error:
                answer = str(error).encode()
            finally:
                os.write(writing, answer)
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        assert b"fork" in answer
        notes.store("t", "2")
        assert len(database.read_blocking(stored_ids)) == 2


def test_a_query_is_planned_once_whatever_is_asked_for(tmp_path: Path) -> None:
    def planned(sql: Statements) -> int:
        asked: list[object] = []

        def note(*what: object) -> int:  # SQLite asks for every table and column while it plans
            asked.append(what)
            return apsw.SQLITE_OK

        sql.connection.authorizer = note
        found = []
        for line in (1, 2, 3):
            sql.rows("checkpoints.newest", line=line)
            found.append(len(asked))
        sql.connection.authorizer = None
        assert found[0]
        return found[-1] - found[0]

    with state_in(tmp_path) as (database, _):
        assert database.read_blocking(planned) == 0
        assert database.write_blocking(planned) == 0
