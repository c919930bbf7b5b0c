"""The fault proxy does what it says, so that the tests which rely on it prove something."""

import asyncio
import time

import asyncpg
import pytest

from hybrid_memory.postgres.target import Targets
from tests.support.proxy import Direction, FaultProxy
from tests.support.servers import administration, connection_to
from tests.support.waiting import until


@pytest.fixture
async def targets(lasting_targets: Targets) -> Targets:
    async with administration(lasting_targets) as outside:
        await outside.execute("truncate memory.user_metadata, memory.erasures")
    return lasting_targets


LOST = (OSError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError)


async def connect(proxy: FaultProxy, targets: Targets) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(**proxy.target(targets.administration).asyncpg_arguments(), timeout=5)


async def written(targets: Targets) -> int:
    async with administration(targets) as outside:
        return int(await outside.fetchval("select count(*) from memory.erasures"))


INSERT = "insert into memory.erasures values ('a', gen_random_uuid())"


async def test_passes_everything_on(proxy: FaultProxy, targets: Targets) -> None:
    connection = await connect(proxy, targets)
    text = "x" * 300_000
    assert await connection.fetchval("select $1::text", text) == text
    await connection.close()
    await until(lambda: proxy.open_connections == 0, "the proxy forgot the connection")


async def test_black_hole_swallows_and_heals_for_new_connections(proxy: FaultProxy, targets: Targets) -> None:
    connection = await connect(proxy, targets)
    proxy.black_hole()
    with pytest.raises(TimeoutError):
        await connection.execute(INSERT, timeout=0.3)
    with pytest.raises(TimeoutError):
        await asyncpg.connect(**proxy.target(targets.runtime).asyncpg_arguments(), timeout=0.3)
    assert proxy.swallowed > 0
    proxy.heal()
    fresh = await connect(proxy, targets)
    assert await fresh.fetchval("select 1") == 1
    assert await written(targets) == 0
    connection.terminate()
    await fresh.close()


@pytest.mark.parametrize(("direction", "reached"), [("to_server", 0), ("to_client", 1)])
async def test_black_hole_in_one_direction(
    proxy: FaultProxy, targets: Targets, direction: Direction, reached: int
) -> None:
    connection = await connect(proxy, targets)
    proxy.black_hole(direction)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await connection.execute(INSERT)
    assert await written(targets) == reached
    connection.terminate()


async def test_delay(proxy: FaultProxy, targets: Targets) -> None:
    connection = await connect(proxy, targets)
    proxy.delay(0.15)
    start = time.monotonic()
    await connection.execute("select 1")
    assert time.monotonic() - start >= 0.3
    proxy.heal()
    await connection.close()


async def test_reset_ends_open_and_new_connections(proxy: FaultProxy, targets: Targets) -> None:
    connection = await connect(proxy, targets)
    proxy.reset()
    with pytest.raises(LOST):
        await connection.execute("select 1")
    with pytest.raises(LOST):
        await asyncpg.connect(**proxy.target(targets.runtime).asyncpg_arguments(), timeout=5)
    proxy.heal()
    fresh = await connect(proxy, targets)
    await fresh.close()


@pytest.mark.parametrize(("direction", "reached"), [("to_server", 0), ("to_client", 1)])
async def test_cut_after_some_bytes(proxy: FaultProxy, targets: Targets, direction: Direction, reached: int) -> None:
    connection = await connect(proxy, targets)
    proxy.cut_after(10, direction)
    with pytest.raises(LOST):
        await connection.execute(INSERT)
    assert await written(targets) == reached


async def test_faults_at_commit(proxy: FaultProxy, targets: Targets) -> None:
    expected = 0
    for fault, reached in (("drop_reply", 1), ("lose", 0), ("swallow_reply", 1), ("swallow", 0)):
        connection = await connect(proxy, targets)
        proxy.at_commit(fault)  # type: ignore[arg-type]
        await connection.execute("begin")
        await connection.execute(INSERT)
        with pytest.raises((*LOST, TimeoutError)) as caught:
            async with asyncio.timeout(0.5):
                await connection.execute("commit")
        assert isinstance(caught.value, TimeoutError) == fault.startswith("swallow")
        connection.terminate()
        expected += reached
        assert await written(targets) == expected, fault
        proxy.heal()
    assert proxy.commits == 4


async def test_earlier_commits_pass(proxy: FaultProxy, targets: Targets) -> None:
    connection = await connect(proxy, targets)
    async with connection.transaction():
        await connection.execute(INSERT)
    proxy.at_commit("drop_reply")
    assert await connection.fetchval("select 1") == 1
    await connection.close()


async def test_bare_connections_see_no_proxy(targets: Targets) -> None:
    """The counts above are taken from outside, not through the proxy."""
    async with connection_to(targets.administration) as connection:
        assert await connection.fetchval("select inet_server_port()") is None
