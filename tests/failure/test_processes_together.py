"""Several processes on one data directory: one sends what waits, another takes over when it dies, all know the same."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.memory.delivery import OUTBOX
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Portion, QueuedBatches
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication import replay
from hybrid_memory.sqlite.leases import Leases
from hybrid_memory.sqlite.outbox import LEASE
from tests.support.children import Child
from tests.support.managers import as_json, run_job, settings_for
from tests.support.proxy import FaultProxy
from tests.support.servers import administration
from tests.support.waiting import until

USERS = 8
# More than go in one call.
EACH = 200
MARK = "everything-waits"
TAKEN_OVER_WITHIN = 5.0
IN_TURNS = 60
FEW_CALLS = 4
# A server on which each memory takes a tenth of a second.
SLOW = """
create function public.slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.1); return new; end $$;
create trigger slow before insert on memory.nodes for each row execute function public.slow();
"""


async def queue_and_send(events: Events, settings: dict[str, Any]) -> int:
    """A process that finds the server away, is acknowledged by the outbox, and sends when the server is back."""
    async with HybridMemoryManager(Settings(**settings), events=events) as manager:
        for number in range(USERS):
            # Not compared with a memory that is here, so none is, and no reply is longer than what nobody reads holds.
            items = [{"content": f"{place}", "node_id": f"{place}", "deduplicate": False} for place in range(EACH)]
            await manager.store_many(f"user-{number}", items)
        await asyncio.to_thread((Path(settings["data_dir"]) / MARK).touch)
        await manager.flush(60)
    return USERS * EACH


@pytest.fixture
def shared(proxy: FaultProxy, targets: Targets, tmp_path: Path) -> Settings:
    return settings_for(proxy.targets(targets), data_dir=tmp_path / "shared", max_staleness_seconds=60)


async def idle(targets: Targets) -> bool:
    """Whether every session waits for its client."""
    async with administration(targets) as connection:
        return not await connection.fetch(
            "select from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()"
            " and state = 'active' and wait_event_type is distinct from 'Client'",
            targets.runtime.database,
        )


async def sent(targets: Targets) -> int:
    async with administration(targets) as connection:
        return int(await connection.fetchval("select count(*) from memory.nodes"))


@pytest.mark.parametrize("bug", [None, "shares a lease"])
async def test_when_the_sender_dies_another_process_goes_on_within_seconds(
    shared: Settings, proxy: FaultProxy, targets: Targets, monkeypatch: pytest.MonkeyPatch, bug: str | None
) -> None:
    proxy.reset()
    with Child(queue_and_send, {"settings": as_json(shared)}, stop_at="outbox_replayed") as sender:
        await until((shared.data_dir / MARK).exists, "everything waits", seconds=30)
        proxy.heal()
        await asyncio.to_thread(sender.reached)
        # It stands in the middle of sending, with the lease; what Postgres has of it ends without it.
        await until(lambda: idle(targets), "Postgres has done what it was asked for")
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
            beside = await sent(targets) > before
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


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many portions each call carries from now on, refused or not."""
    calls: list[int] = []
    honest: Callable[..., Any] = QueuedBatches.apply

    async def apply(batches: QueuedBatches, user_id: str, portions: Sequence[Portion], **keywords: Any) -> Any:
        calls.append(len(portions))
        return await honest(batches, user_id, portions, **keywords)

    monkeypatch.setattr(QueuedBatches, "apply", apply)
    return calls


def by_run(honest: Callable[..., Iterator[Portion]]) -> Callable[..., Iterator[Portion]]:
    """A bug: the operations of one run are sent behind those of another, whatever their order was."""
    return lambda operations: honest(sorted(operations, key=lambda one: one.instance_id, reverse=True))


@pytest.mark.parametrize("bug", [None, "sends one run after the other"])
async def test_what_two_processes_have_queued_in_turns_is_sent_together_and_in_order(
    shared: Settings, proxy: FaultProxy, targets: Targets, monkeypatch: pytest.MonkeyPatch, bug: str | None
) -> None:
    """The second relates its memories to those of the first, which wait as well."""
    if bug is not None:
        monkeypatch.setattr(replay, "_portions", by_run(replay._portions))
    calls = count_calls(monkeypatch)
    proxy.reset()
    async with HybridMemoryManager(shared) as first:
        earlier = [await first.store_persistent_memory("nick", f"first {number}") for number in range(IN_TURNS)]
        async with HybridMemoryManager(shared) as second:
            for number, node_id in enumerate(earlier):
                await second.store_persistent_memory("nick", f"second {number}", relates_to=[node_id])
                await first.store_entity(
                    "nick", entity_id="1", entity_system="s", entity_type="account", entity_name="counter"
                )
            proxy.heal()
            assert await first.flush(30)
            assert not await first.quarantined()
            memories = [await manager.ensure_user_memories("nick") for manager in (first, second)]
            for memory, own in zip(memories, ("first", "second"), strict=True):
                assert {f"{own} {number}" for number in range(IN_TURNS)} <= {one.text for one in memory.get_all_nodes()}
                await until(lambda: len(memory.get_all_nodes()) == 2 * IN_TURNS + 1, "the others' come, too")  # noqa: B023 - asked at once
                assert len(memory.get_all_edges()) == IN_TURNS
    async with administration(targets) as connection:
        reports = "select content ->> 'update_count' from memory.nodes where context_type = 'domain_entity'"
        assert await connection.fetchval(reports) == str(IN_TURNS)
    assert (len(calls) <= FEW_CALLS) == (bug is None), f"so many in each call: {calls}"


async def test_what_another_process_sends_stays_in_sight(shared: Settings, proxy: FaultProxy) -> None:
    """Nobody tells the second process, and it does not ask by itself."""
    deaf = shared.model_copy(update={"listen": False, "poll_interval_seconds": 3600, "max_staleness_seconds": 3600})
    async with HybridMemoryManager(deaf) as first, HybridMemoryManager(deaf) as second:
        memory = await second.ensure_user_memories("nick")
        delivery = (await first._ready()).delivery
        assert await delivery._leases.take(LEASE, delivery._instance_id, 600, datetime.now(UTC))
        proxy.reset()
        await second.store_persistent_memory("nick", "mine")
        gone = await second.store_persistent_memory("nick", "gone")
        await first.store_persistent_memory("nick", "theirs")
        proxy.heal()
        for manager in (first, second):
            await until(lambda: manager.health().breaker == "closed", "the breaker closes")  # noqa: B023 - asked at once
        assert await first.flush(30)
        assert {"mine", "gone"} <= {node.text for node in memory.get_all_nodes()}
        # Nothing waits any more, so this one does not, either.
        assert await second.forget("nick", gone)
        assert "gone" not in {node.text for node in memory.get_all_nodes()}
        assert await run_job(second, OUTBOX)
        assert {node.text for node in memory.get_all_nodes()} == {"mine", "theirs"}
        assert all(node.version for node in memory.get_all_nodes())


async def test_what_takes_longer_than_a_deadline_is_sent_in_pieces(
    shared: Settings, proxy: FaultProxy, targets: Targets
) -> None:
    proxy.reset()
    async with HybridMemoryManager(shared.model_copy(update={"command_timeout_seconds": 1})) as manager:
        await manager.store_many("nick", [{"content": f"fact {number}"} for number in range(16)])
        async with administration(targets) as connection:
            await connection.execute(SLOW)
        proxy.heal()
        assert await manager.flush(60)
    assert await sent(targets) == 16


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
