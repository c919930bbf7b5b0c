"""No call outlives its deadline, whatever the network does, and the pool is there again when it is over."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Target, Targets
from hybrid_memory.settings import Settings
from tests.support.probes import probed, sessions, stored, write
from tests.support.proxy import CommitFault, FaultProxy, fault_proxy
from tests.support.servers import Server, administration, in_database
from tests.support.waiting import Deadline, until

SECONDS = 0.4


@pytest.fixture
async def targets(lasting_targets: Targets) -> Targets:
    async with administration(lasting_targets) as outside:
        await outside.execute("truncate memory.user_metadata, memory.erasures")
    return lasting_targets


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    return settings.model_copy(
        update={
            "command_timeout_seconds": SECONDS,
            "connect_timeout_seconds": SECONDS,
            "close_timeout_seconds": SECONDS,
            "postgres_pool_size": 4,
        }
    )


@pytest.fixture
async def through(proxy: FaultProxy, targets: Targets, hasty: Settings) -> AsyncIterator[Database]:
    async with probed(proxy.targets(targets), hasty) as database:
        yield database


async def works_at_once(database: Database) -> None:
    """Every connection of the pool, and more calls than it has."""
    with Deadline(1):
        await asyncio.gather(*(database.call("server.ping", timeout=2) for _ in range(8)))


def taken(database: Database) -> int:
    """How many connections are in use."""
    return database._pool.get_size() - database._pool.get_idle_size()


async def test_black_hole_before_the_transaction(through: Database, proxy: FaultProxy, targets: Targets) -> None:
    proxy.black_hole()
    with Deadline(SECONDS), pytest.raises(StorageUnavailable) as caught:
        await write(through, "nick")
    assert not caught.value.outcome_unknown
    with Deadline(SECONDS), pytest.raises(StorageUnavailable):
        await through.call("server.ping")
    proxy.heal()
    await works_at_once(through)
    assert await stored(targets) == set()


async def test_black_hole_inside_the_transaction(through: Database, proxy: FaultProxy, targets: Targets) -> None:
    with Deadline(SECONDS), pytest.raises(StorageUnavailable) as caught:
        async with through.transaction(["nick"]) as transaction:
            await transaction.execute("probe.ensure", user_id="nick")
            proxy.black_hole()
            await transaction.execute("probe.touch", user_id="nick")
    assert not caught.value.outcome_unknown
    proxy.heal()
    await works_at_once(through)
    assert await stored(targets) == set()


@pytest.mark.parametrize(
    ("fault", "reached"), [("swallow_reply", True), ("swallow", False), ("drop_reply", True), ("lose", False)]
)
async def test_commit_without_an_answer(
    through: Database, proxy: FaultProxy, targets: Targets, fault: CommitFault, *, reached: bool
) -> None:
    proxy.at_commit(fault)
    with Deadline(SECONDS), pytest.raises(StorageUnavailable) as caught:
        await write(through, "nick")
    assert caught.value.outcome_unknown
    proxy.heal()
    await works_at_once(through)
    assert await stored(targets) == ({"nick"} if reached else set())


@pytest.mark.parametrize("fault", ["reset", "cut"])
async def test_a_connection_lost_before_commit_wrote_nothing(
    through: Database, proxy: FaultProxy, targets: Targets, fault: str
) -> None:
    with Deadline(SECONDS), pytest.raises(StorageUnavailable) as caught:
        async with through.transaction(["nick"]) as transaction:
            await transaction.execute("probe.ensure", user_id="nick")
            if fault == "reset":
                proxy.reset()
            else:
                proxy.cut_after(20, "to_server")
            await transaction.execute("probe.touch", user_id="nick")
    assert not caught.value.outcome_unknown
    assert "InterfaceError" not in str(caught.value), "the error that the caller sees is about the lost connection"
    proxy.heal()
    await works_at_once(through)
    assert await stored(targets) == set()


async def test_a_connection_that_dies_while_it_is_prepared(
    proxy: FaultProxy, targets: Targets, hasty: Settings
) -> None:
    """The vector codec is looked up on every new connection; asyncpg waits for that one's goodbye without a limit."""
    async with probed(proxy.targets(targets), hasty.model_copy(update={"postgres_pool_min_size": 0})) as database:
        for count in (400, 900):
            proxy.swallow_after(count, "to_client")
            with Deadline(SECONDS), suppress(StorageUnavailable):
                await database.call("server.ping")
            with Deadline(SECONDS), suppress(StorageUnavailable):
                await Database.open(proxy.targets(targets), hasty, Events())
        proxy.heal()
        await works_at_once(database)


@pytest.mark.parametrize("busy", [False, True])
async def test_close_on_a_black_hole(through: Database, proxy: FaultProxy, *, busy: bool) -> None:
    async def call() -> None:
        with suppress(StorageUnavailable):
            await through.call("probe.wait", seconds=30.0, timeout=20)

    call_task = asyncio.create_task(call()) if busy else None
    if busy:
        await until(lambda: taken(through), "the call runs")
    proxy.black_hole()
    with Deadline(SECONDS):
        await through.close()
    if call_task is not None:
        with Deadline(0):
            await call_task
    leftover = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in leftover if "asyncpg" in str(task.get_coro())]


async def test_open_on_a_black_hole(proxy: FaultProxy, targets: Targets, hasty: Settings) -> None:
    proxy.black_hole()
    with Deadline(SECONDS), pytest.raises(StorageUnavailable):
        await Database.open(proxy.targets(targets), hasty, Events())
    with Deadline(SECONDS), pytest.raises(StorageUnavailable):
        await schema.ensure(proxy.targets(targets), hasty, Events())


async def test_black_hole_in_the_middle_of_a_migration(server: Server, hasty: Settings) -> None:
    async with server.empty_database() as targets, fault_proxy(targets.migration) as proxy:
        events = Events(lambda event: proxy.black_hole() if event.name == "migration_started" else None)
        patient_with_the_lock = hasty.model_copy(update={"migration_timeout_seconds": 30.0})
        with Deadline(SECONDS), pytest.raises(StorageUnavailable, match="no answer"):
            await schema.ensure(proxy.targets(targets), patient_with_the_lock, events)
        # The session that lost its client may hold the lock until the server notices; an administrator's hand here.
        async with administration(targets) as outside:
            await outside.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'hybrid-memory' "
                "and datname = current_database()"
            )
        await schema.ensure(targets, Settings(), Events())


async def test_no_connection_left_is_the_deadline_too(through: Database) -> None:
    blockers = [asyncio.create_task(through.call("probe.wait", seconds=0.8, timeout=5)) for _ in range(4)]
    await until(lambda: taken(through) == 4, "all connections are taken")
    with Deadline(SECONDS), pytest.raises(StorageUnavailable) as caught:
        await through.call("server.ping")
    assert not caught.value.outcome_unknown
    await asyncio.gather(*blockers)


async def sleeping(targets: Targets) -> set[int]:
    """Sessions that are in the middle of a long statement."""
    found = await sessions(targets)
    return {one["pid"] for one in found if "pg_sleep" in one["query"] and one["state"] == "active"}


async def test_the_server_stops_what_nobody_waits_for(through: Database, targets: Targets) -> None:
    """The statement of a call that ran out of time ends, and lets go of its locks."""
    await write(through, "nick")
    before = await sleeping(targets)
    with pytest.raises(StorageUnavailable):
        async with through.transaction(["nick"]) as transaction:
            await transaction.fetchval("probe.lock", user_id="nick")
            await transaction.execute("probe.wait", seconds=60.0)
    async with through.transaction(["nick"], timeout=2) as transaction:
        assert await transaction.fetchval("probe.lock", user_id="nick") == 0
    assert await sleeping(targets) <= before


async def test_the_server_notices_that_a_client_is_gone(through: Database, proxy: FaultProxy, targets: Targets) -> None:
    """Also where no request to cancel gets through, as after SIGKILL."""
    await write(through, "nick")
    with pytest.raises(StorageUnavailable):
        async with through.transaction(["nick"], timeout=5) as transaction:
            await transaction.fetchval("probe.lock", user_id="nick")
            waiting = asyncio.create_task(transaction.execute("probe.wait", seconds=60.0))
            await until(lambda: sleeping(targets), "the server is at it")
            proxy.reset()
            await waiting
    proxy.heal()
    async with through.transaction(["nick"], timeout=3) as transaction:
        assert await transaction.fetchval("probe.lock", user_id="nick") == 0


async def test_the_deadline_of_a_slow_network(through: Database, proxy: FaultProxy) -> None:
    proxy.delay(0.1)
    with Deadline(2):
        assert await through.call("server.ping", timeout=3)
    with Deadline(0.15), pytest.raises(StorageUnavailable):
        await through.call("server.ping", timeout=0.15)


@asynccontextmanager
async def two_hosts(targets: Targets) -> AsyncIterator[tuple[FaultProxy, FaultProxy, Target]]:
    async with fault_proxy(targets.runtime) as first, fault_proxy(targets.runtime) as second:
        target = replace(first.target(targets.runtime), hosts=("127.0.0.1",) * 2, ports=(first.port, second.port))
        yield first, second, target


@pytest.mark.parametrize("fault", ["black_hole", "reset"])
async def test_the_next_host_is_asked(targets: Targets, hasty: Settings, fault: str) -> None:
    async with two_hosts(targets) as (first, second, target):
        getattr(first, fault)()
        async with probed(replace(targets, runtime=target), hasty) as database:
            await works_at_once(database)
            assert second.open_connections > 0
            first.heal()
            getattr(second, fault)()
            # A connection that fell silent is found out by a call that uses it; then the pool asks the other host.
            await asyncio.gather(*(database.call("server.ping") for _ in range(4)), return_exceptions=True)
            await works_at_once(database)
            assert first.open_connections > 0


async def test_the_writable_host_is_chosen(server: Server, server_of: Callable[[int], Server], hasty: Settings) -> None:
    """A server that takes no writes, as a standby before it is promoted, is passed over."""
    name, other = "failover", server_of(16)
    for one in (server, other):
        async with administration(one.targets) as outside:
            await outside.execute(f"create database {name}")
        async with administration(in_database(one.targets, name)) as outside:
            await outside.execute("create extension vector")
    async with administration(other.targets) as outside:
        await outside.execute(f"alter database {name} set default_transaction_read_only to on")
    targets = in_database(server.targets, name)
    async with fault_proxy(other.targets.runtime) as first, fault_proxy(server.targets.runtime) as second:
        target = replace(first.target(targets.runtime), hosts=("127.0.0.1",) * 2, ports=(first.port, second.port))
        async with probed(replace(targets, runtime=target), hasty) as database:
            await works_at_once(database)
            assert (first.open_connections, second.open_connections > 0) == (0, True)
        only_first = replace(target, ports=(first.port, first.port))
        with pytest.raises(StorageUnavailable, match="TargetServerAttributeNotMatched"):
            await Database.open(replace(targets, runtime=only_first), hasty, Events())
        reading = replace(target, options={"target_session_attrs": "prefer-standby"})
        async with probed(replace(targets, runtime=reading), hasty) as database:
            await works_at_once(database)
    for one in (server, other):
        async with administration(one.targets) as outside:
            await outside.execute(f"drop database {name} with (force)")


async def test_a_server_that_takes_no_writes_is_away(targets: Targets, hasty: Settings) -> None:
    async with administration(targets) as outside:
        await outside.execute(f"alter database {targets.runtime.database} set default_transaction_read_only to on")
    async with probed(targets, hasty) as database:
        with pytest.raises(StorageUnavailable, match="25006") as caught:
            await write(database, "nick")
        assert not caught.value.outcome_unknown
    async with administration(targets) as outside:
        await outside.execute("set default_transaction_read_only to off")
        await outside.execute(f"alter database {targets.runtime.database} reset default_transaction_read_only")
