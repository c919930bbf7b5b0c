"""The link opens soon after the server is gone, makes nobody wait meanwhile, and closes soon after it is back."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import Settings
from hybrid_memory.errors import ConfigurationError, StorageUnavailable
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.probes import has_all_connections
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.servers import administration
from tests.support.waiting import Deadline, until

OPENS_WITHIN = 3.0
CLOSES_WITHIN = 10.0


def through(proxy: FaultProxy, targets: Targets, tmp_path: Path) -> Settings:
    reached = proxy.targets(targets)
    port = reached.runtime.ports[0]
    return settings_for(reached, postgres_port=port, command_timeout_seconds=20, data_dir=tmp_path)


@pytest.fixture
async def link(proxy: FaultProxy, targets: Targets, events: Recorded, tmp_path: Path) -> AsyncIterator[Link]:
    link = Link(through(proxy, targets, tmp_path), events)
    await link.start()
    yield link
    await link.close()


async def closes(link: Link) -> None:
    await until(lambda: link.breaker == "closed", "the link closes again", seconds=CLOSES_WITHIN)
    await link.call("server.ping")


@pytest.mark.parametrize("fault", ["black_hole", "reset", "one_way"])
async def test_it_opens_and_closes(link: Link, proxy: FaultProxy, events: Recorded, fault: str) -> None:
    await asyncio.gather(*(link.call("server.ping") for _ in range(5)))
    if fault == "black_hole":
        proxy.black_hole()
    elif fault == "reset":
        proxy.reset()
    else:
        proxy.black_hole("to_client")
    began = time.monotonic()
    with pytest.raises(StorageUnavailable):
        await link.call("server.ping")
    await until(lambda: link.breaker != "closed", "the link opens")
    assert time.monotonic() - began < OPENS_WITHIN
    with Deadline(0.05), pytest.raises(StorageUnavailable, match="away"):
        await link.call("server.ping")
    with Deadline(0.05), pytest.raises(StorageUnavailable, match="away"):
        async with link.transaction(["nick"]):
            pass
    proxy.heal()
    await closes(link)
    assert [len(events.named(name)) for name in ("postgres_unavailable", "postgres_recovered")] == [1, 1]


async def test_calls_under_way_end_when_it_opens(link: Link, proxy: FaultProxy) -> None:
    proxy.black_hole()
    with Deadline(OPENS_WITHIN):
        answers = await asyncio.gather(*(link.call("server.ping") for _ in range(10)), return_exceptions=True)
    assert all(isinstance(answer, StorageUnavailable) for answer in answers)
    proxy.heal()
    await closes(link)


async def test_a_call_that_fails_alone_opens_nothing(link: Link, targets: Targets, events: Recorded) -> None:
    async with administration(targets) as other:
        await other.execute("insert into memory.user_metadata (user_id) values ('nick')")
        async with other.transaction():
            await other.execute("select from memory.user_metadata where user_id = 'nick' for update")
            with pytest.raises(StorageUnavailable):
                async with link.transaction(["nick"], timeout=0.3) as transaction:
                    await transaction.fetchval("users.touch", user_id="nick")
            await link.call("server.ping")
            await until(lambda: link._checking is not None and link._checking.done(), "the probe ends")
    assert link.breaker == "closed"
    assert not events.named("postgres_unavailable")


async def test_a_connection_that_cannot_be_closed_holds_up_nobody(
    link: Link, proxy: FaultProxy, targets: Targets
) -> None:
    """It is not to be used again, and nobody hears its goodbye."""
    nobody: dict[str, Any] = {"owner": "nick", "nodes": [], "reads": [], "last": []}
    async with administration(targets) as other, administration(targets) as watching:
        await other.execute("insert into memory.user_metadata (user_id) values ('nick')")

        async def it_waits() -> bool:
            waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = $1"
            return bool(await watching.fetchval(waiting, targets.runtime.database))

        async with other.transaction():
            await other.execute("select from memory.user_metadata where user_id = 'nick' for update")
            call = asyncio.create_task(link.call("housekeeping.count_accesses", **nobody))
            await until(it_waits, "the call waits for the lock")
            assert link._database is not None
            await link._database._pool.expire_connections()
            proxy.black_hole("to_server")
        with Deadline(0):
            await call
    proxy.heal()
    await closes(link)
    database = link._database
    await until(lambda: has_all_connections(database), "nobody says goodbye any more")


async def test_a_server_without_room_is_not_away(link: Link, targets: Targets) -> None:
    async with administration(targets) as other:
        await other.execute(f"alter role {targets.runtime.user} connection limit 0")
        try:
            link._suspect()
            await until(lambda: link._checking is not None and link._checking.done(), "the probe ends")
            assert link.breaker == "closed"
            await link.call("server.ping")
        finally:
            await other.execute(f"alter role {targets.runtime.user} connection limit -1")


async def test_a_server_that_is_down_at_the_start_is_found_later(
    proxy: FaultProxy, targets: Targets, events: Recorded, tmp_path: Path
) -> None:
    proxy.reset()
    link = Link(through(proxy, targets, tmp_path), events)
    heard: list[str] = []
    link.on_recovery(lambda: heard.append("again"))
    await link.start()
    try:
        assert not link.answering
        with Deadline(0.05), pytest.raises(StorageUnavailable):
            await link.call("server.ping")
        proxy.heal()
        await closes(link)
        assert heard == ["again"]
    finally:
        await link.close()


async def test_a_wrong_role_is_said_at_the_start(targets: Targets, events: Recorded) -> None:
    link = Link(settings_for(targets, postgres_user="nobody_of_that_name"), events)
    with pytest.raises(ConfigurationError, match="role"):
        await link.start()
    await link.close()


async def test_closing_while_the_server_is_away_is_quick(targets: Targets, events: Recorded) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        link = Link(settings_for(targets, postgres_host="127.0.0.1", postgres_port=free.getsockname()[1]), events)
    await link.start()
    with Deadline(0.5):
        await link.close()
