"""Several processes on one data directory: one sends what waits, another takes over when it dies, all know the same."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.memory.delivery import OUTBOX
from hybrid_memory.observability import Events
from hybrid_memory.postgres.target import Targets
from hybrid_memory.sqlite.leases import Leases
from tests.support.children import Child
from tests.support.managers import run_job, settings_for
from tests.support.proxy import FaultProxy
from tests.support.servers import administration
from tests.support.waiting import until

USERS = 8
EACH = 40
MARK = "everything-waits"
TAKEN_OVER_WITHIN = 5.0


async def queue_and_send(events: Events, port: int, database: str, user: str, data_dir: str) -> int:
    """A process that finds the server away, is acknowledged by the outbox, and sends when the server is back."""
    settings = Settings(
        postgres_host="127.0.0.1", postgres_port=port, postgres_db=database, postgres_user=user, data_dir=Path(data_dir)
    )
    async with HybridMemoryManager(settings, events=events) as manager:
        for number in range(USERS):
            items = [{"content": f"{place}", "node_id": f"{place}"} for place in range(EACH)]
            await manager.store_many(f"user-{number}", items)
        await asyncio.to_thread((settings.data_dir / MARK).touch)
        await manager.flush(60)
    return USERS * EACH


@pytest.fixture
def shared(proxy: FaultProxy, targets: Targets, tmp_path: Path) -> Settings:
    return settings_for(
        targets,
        postgres_host="127.0.0.1",
        postgres_port=proxy.port,
        data_dir=tmp_path / "shared",
        max_staleness_seconds=60,
    )


def child_on(shared: Settings, stop_at: str) -> Child:
    arguments: dict[str, Any] = {
        "port": shared.postgres_port,
        "database": shared.postgres_db,
        "user": shared.postgres_user,
        "data_dir": str(shared.data_dir),
    }
    return Child(queue_and_send, arguments, stop_at=stop_at)


async def sent(targets: Targets) -> int:
    async with administration(targets) as connection:
        return int(await connection.fetchval("select count(*) from memory.nodes"))


@pytest.mark.parametrize("bug", [None, "shares a lease"])
async def test_when_the_sender_dies_another_process_goes_on_within_seconds(
    shared: Settings, proxy: FaultProxy, targets: Targets, monkeypatch: pytest.MonkeyPatch, bug: str | None
) -> None:
    proxy.reset()
    with child_on(shared, "outbox_replayed") as sender:
        await until((shared.data_dir / MARK).exists, "everything waits", seconds=30)
        proxy.heal()
        await asyncio.to_thread(sender.reached)
        # It stands in the middle of sending, with the lease.
        before = await sent(targets)
        assert 0 < before < USERS * EACH
        if bug is not None:
            # Whoever sends asks for it, and whoever hands out what is to be sent looks again.
            monkeypatch.setattr(Leases, "take", _taken)
            monkeypatch.setattr("hybrid_memory.sqlite.outbox.holds", lambda *_: True)
        async with HybridMemoryManager(shared) as manager:
            memory = await manager.ensure_user_memories("user-0")
            for _ in range(3):
                await run_job(manager, OUTBOX)
            beside = await sent(targets) > before + EACH
            assert beside == (bug is not None), "two send at a time"
            sender.kill()
            began = time.monotonic()
            assert await manager.flush(30)
            took = time.monotonic() - began
            assert took < TAKEN_OVER_WITHIN
            assert await sent(targets) == USERS * EACH
            await until(lambda: all(node.version for node in memory.get_all_nodes()), "all of it is confirmed")
            assert len(memory.get_all_nodes()) == EACH


async def _taken(*_: object) -> bool:
    return True


async def test_what_one_process_has_loaded_the_next_one_begins_with(shared: Settings) -> None:
    """Both keep their copies in one file, and neither spoils the other's."""
    async with HybridMemoryManager(shared) as first, HybridMemoryManager(shared) as second:
        memories = [await manager.ensure_user_memories("nick") for manager in (first, second)]
        for number in range(20):
            await (first, second)[number % 2].store_persistent_memory("nick", f"fact {number}")
        for memory in memories:
            await until(lambda: len(memory.get_all_nodes()) == 20, "both have everything")  # noqa: B023 - asked at once
    async with HybridMemoryManager(shared) as third:
        memory = await third.ensure_user_memories("nick")
        assert len(memory.get_all_nodes()) == 20
