"""Postgres goes away and comes back: what was acknowledged is there, once, and nobody missed his own writes."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, MemoryNode, Settings
from hybrid_memory.errors import OutboxFull, StorageUnavailable, UnknownMemory
from hybrid_memory.memory import delivery
from hybrid_memory.memory.delivery import OUTBOX
from hybrid_memory.memory.loading import Loader
from hybrid_memory.postgres.batches import QueuedBatches
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.queue import Queue
from hybrid_memory.replication.writer import Writer
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.outbox import LEASE, Outbox
from tests.support.managers import run_job, settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.repeats import recognise_no_repeat
from tests.support.servers import administration
from tests.support.waiting import Deadline, until


@pytest.fixture
def through(proxy: FaultProxy, targets: Targets, tmp_path: Path) -> Settings:
    reached = proxy.targets(targets)
    return settings_for(reached, postgres_port=reached.runtime.ports[0], data_dir=tmp_path, max_staleness_seconds=60)


@pytest.fixture
async def manager(through: Settings, events: Recorded) -> AsyncIterator[HybridMemoryManager]:
    async with HybridMemoryManager(through, events=events) as manager:
        yield manager


async def away(proxy: FaultProxy, *managers: HybridMemoryManager) -> None:
    """Postgres is gone, and everybody has noticed."""
    proxy.reset()
    for manager in managers:
        await manager.store_persistent_memory("whoever notices", "it is away")
        await until(partial(lambda one: one.health().breaker == "open", manager), "the breaker opens")


async def stored(targets: Targets, user_id: str = "nick") -> Counter[str]:
    async with administration(targets) as connection:
        rows = await connection.fetch(
            "select coalesce(content ->> 'text', content ->> 'entity_name') as text from memory.nodes"
            " where user_id = $1",
            user_id,
        )
    return Counter(row["text"] for row in rows)


def shown(nodes: list[MemoryNode]) -> list[tuple[Any, bool]]:
    """Texts, and whether Postgres has them."""
    return [(node.text, node.version is not None) for node in nodes]


class TestAcknowledging:
    async def test_own_writes_show_at_once_and_arrive_in_order(
        self, manager: HybridMemoryManager, proxy: FaultProxy, targets: Targets, events: Recorded
    ) -> None:
        first = await manager.store_persistent_memory("nick", "first")
        memory = await manager.ensure_user_memories("nick")
        await away(proxy, manager)
        second = await manager.store_persistent_memory("nick", "second", relates_to=[first])
        await manager.update_memory("nick", second, content="second, corrected")
        entity = await manager.store_entity(
            "nick", entity_id="1", entity_system="s", entity_type="account", entity_name="GenePoint"
        )
        await manager.relate("nick", second, entity, "mentions")
        third = await manager.store_persistent_memory("nick", "third")
        assert await manager.forget("nick", third)
        assert await manager.forget("nick", first)
        turn = await manager.add_message("nick", "t", "user", "hello")
        assert [one["content"] for one in await manager.get_context("nick", "t")] == ["hello"]
        assert Counter(shown(memory.get_all_nodes())) == {("second, corrected", False): 1, (None, False): 2}
        assert [edge.relationship_type for edge in memory.get_all_edges()] == ["mentions"]
        assert (await manager.get_node("nick", turn)) is not None
        proxy.heal()
        assert await manager.flush(20)
        assert await stored(targets) == {"second, corrected": 1, "GenePoint": 1, None: 1}
        assert all(version for _, version in shown(memory.get_all_nodes()))
        assert [edge.relationship_type for edge in memory.get_all_edges()] == ["mentions"]
        assert not events.named("outbox_operation_quarantined")

    async def test_what_waits_outlives_the_process(
        self, through: Settings, proxy: FaultProxy, targets: Targets
    ) -> None:
        async with HybridMemoryManager(through) as first:
            kept = await first.store_persistent_memory("nick", "kept")
            await first.ensure_user_memories("nick")
            await away(proxy, first)
            waiting = await first.store_persistent_memory("nick", "waiting", relates_to=[kept])
            await first.store_persistent_memory("new", "never heard of in Postgres")
        async with HybridMemoryManager(through) as second:
            memory = await second.ensure_user_memories("nick")
            assert shown(memory.get_all_nodes()) == [("kept", True), ("waiting", False)]
            assert (await second.ensure_user_memories("new")).stale
            assert shown((await second.ensure_user_memories("new")).get_all_nodes()) == [
                ("never heard of in Postgres", False)
            ]
            found = await second.get_node("nick", waiting)
            assert found is not None
            await second.store_persistent_memory("nick", "later", relates_to=[waiting])
            proxy.heal()
            assert await second.flush(20)
            assert shown(memory.get_all_nodes()) == [("kept", True), ("waiting", True), ("later", True)]
            assert not (await second.ensure_user_memories("new")).stale
        assert await stored(targets) == {"kept": 1, "waiting": 1, "later": 1}

    async def test_who_was_met_while_postgres_was_away_is_at_home_where_his_memory_is(
        self, through: Settings, proxy: FaultProxy, targets: Targets, tmp_path: Path
    ) -> None:
        async with HybridMemoryManager(through) as first:
            for user in ("nick", "ann"):
                await first.store_persistent_memory(user, "known")
        nobody = through.model_copy(update={"data_dir": tmp_path / "another", "rollout_percent": 0.0})
        async with HybridMemoryManager(nobody) as second:
            proxy.reset()
            for user in ("nick", "eve"):
                assert (await second.ensure_user_memories(user)).get_all_nodes() == []
            await second.store_persistent_memory("ann", "kept here")
            proxy.heal()
            await until(lambda: second.health().breaker == "closed", "the breaker closes")
            for user in ("nick", "eve"):
                await second.store_persistent_memory(user, "new")
            for user, there in (("nick", ["known", "new"]), ("eve", ["new"]), ("ann", ["kept here"])):
                assert [node.text for node in (await second.ensure_user_memories(user)).get_all_nodes()] == there
        assert await stored(targets) == {"known": 1, "new": 1}
        assert await stored(targets, "eve") == {}

    @pytest.mark.parametrize("state", ["is slow", "does not answer"])
    async def test_who_has_begun_a_memory_here_meanwhile_keeps_it_whoever_asks_together(
        self, through: Settings, proxy: FaultProxy, targets: Targets, monkeypatch: pytest.MonkeyPatch, state: str
    ) -> None:
        async with HybridMemoryManager(through) as first:
            await first.store_persistent_memory("nick", "known")
        another = {"data_dir": through.data_dir / "another", "rollout_percent": 0.0}

        async def fail(*_: object) -> Any:
            raise StorageUnavailable("state.db does not answer")

        async with HybridMemoryManager(through.model_copy(update=another)) as second:
            proxy.reset()
            await second.store_persistent_memory("nick", "kept here")
            proxy.heal()
            await until(lambda: second.health().breaker == "closed", "the breaker closes")
            if state == "is slow":
                go_on = threading.Event()
                asyncio.get_running_loop().call_later(0.5, go_on.set)
                busy = asyncio.create_task(second._state.database().write(lambda _: go_on.wait(10)))
            else:
                with monkeypatch.context() as patch:
                    patch.setattr(Database, "write", fail)
                    with pytest.raises(StorageUnavailable):
                        await second.store_persistent_memory("nick", "not kept")
                busy = asyncio.create_task(asyncio.sleep(0, result=True))
            await asyncio.gather(busy, *(second.store_persistent_memory("nick", f"{number}") for number in range(5)))
            there = {node.text for node in (await second.ensure_user_memories("nick")).get_all_nodes()}
            assert there == {"kept here", *map(str, range(5))}
        assert await stored(targets) == {"known": 1}

    async def test_what_waits_for_somebody_who_is_taken_for_local_is_taken_in_before_he_is_read(
        self, through: Settings, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with HybridMemoryManager(through) as first:
            await away(proxy, first)
            waiting = await first.store_persistent_memory("nick", "waiting")

        async def fail(*_: object) -> Any:
            raise StorageUnavailable("state.db does not answer")

        async with HybridMemoryManager(through.model_copy(update={"rollout_percent": 0.0})) as second:
            with monkeypatch.context() as patch:
                patch.setattr(Queue, "of_user", fail)
                with pytest.raises(StorageUnavailable):
                    await second.get_node("nick", waiting)
            assert await second.get_node("nick", waiting) is not None

    async def test_what_waits_shows_though_it_could_not_be_read_the_first_time(
        self, through: Settings, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with HybridMemoryManager(through) as first:
            await away(proxy, first)
            await first.store_persistent_memory("nick", "waiting")

        async def fail(*_: object) -> Any:
            raise StorageUnavailable("state.db does not answer")

        async with HybridMemoryManager(through) as second:
            with monkeypatch.context() as patch:
                patch.setattr(Queue, "of_user", fail)
                assert (await second.ensure_user_memories("nick")).get_all_nodes() == []
            memory = await second.ensure_user_memories("nick")
            assert shown(memory.get_all_nodes()) == [("waiting", False)]

    async def test_what_is_kept_for_a_caller_who_has_given_up_shows_at_once(
        self, manager: HybridMemoryManager, proxy: FaultProxy
    ) -> None:
        memory = await manager.ensure_user_memories("nick")
        await away(proxy, manager)
        users, go_on = (await manager._ready()).writer.postgres._users, threading.Event()
        busy = asyncio.create_task(manager._state.database().write(lambda _: go_on.wait(10)))
        given_up = asyncio.create_task(manager.store_persistent_memory("nick", "kept", deduplicate=False))
        await until(lambda: "nick" in users and users["nick"].under_way, "it is on its way into the outbox")
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        go_on.set()
        await busy
        await until(lambda: shown(memory.get_all_nodes()) == [("kept", False)], "what waits is shown")

    async def test_an_identical_memory_is_known_without_postgres(
        self, manager: HybridMemoryManager, proxy: FaultProxy, targets: Targets
    ) -> None:
        known = await manager.store_persistent_memory("nick", "the same")
        await manager.ensure_user_memories("nick")
        await away(proxy, manager)
        assert await manager.store_persistent_memory("nick", "the same") == known
        waiting = await manager.store_persistent_memory("nick", "new")
        assert await manager.store_many("nick", [{"content": "new"}, {"content": "the same"}]) == [waiting, known]
        proxy.heal()
        assert await manager.flush(20)
        assert await stored(targets) == {"the same": 1, "new": 1}

    async def test_a_memory_that_is_not_there_is_said_at_once(
        self, manager: HybridMemoryManager, proxy: FaultProxy
    ) -> None:
        known = await manager.store_persistent_memory("nick", "known")
        nowhere = "0198c0de-0000-7000-8000-000000000000"
        await manager.ensure_user_memories("nick")
        await away(proxy, manager)
        with pytest.raises(UnknownMemory, match=f"relate to by the id '{nowhere}'"):
            await manager.relate("nick", known, nowhere, "relates_to")
        with pytest.raises(UnknownMemory, match=nowhere):
            await manager.update_memory("nick", nowhere, content="x")

    async def test_a_full_outbox_says_so(self, through: Settings, proxy: FaultProxy) -> None:
        small = through.model_copy(update={"max_outbox_operations": 5})
        async with HybridMemoryManager(small) as manager:
            await away(proxy, manager)
            others = manager.health().outbox_depth or 0
            with pytest.raises(OutboxFull):
                for number in range(6):
                    await manager.store_persistent_memory("nick", f"fact {number}")
            assert manager.health().outbox_depth == 5
            memory = await manager.ensure_user_memories("nick")
            assert len(memory.get_all_nodes()) == 5 - others, "what was refused is not shown"


class TestDelivering:
    @pytest.mark.parametrize("bug", [None, "sends under another name"])
    async def test_replies_that_are_lost(
        self,
        manager: HybridMemoryManager,
        proxy: FaultProxy,
        rng: random.Random,
        monkeypatch: pytest.MonkeyPatch,
        bug: str | None,
    ) -> None:
        """Postgres has committed and nobody knows: once in the end, under the id that was acknowledged."""
        if bug is not None:
            recognise_no_repeat(monkeypatch.setattr)
        twin = await manager.store_persistent_memory("nick", "twin")
        proxy.commits_itself = b'"oldest"'
        for turn in range(8):

            def lose_a_reply(turn: int = turn) -> None:
                """All of one reply, or what follows after some bytes."""
                if turn % 2:
                    proxy.at_commit("drop_reply")
                else:
                    proxy.cut_after(rng.randrange(60), "to_client")

            lose_a_reply()
            entity = await manager.store_entity(
                "nick", entity_id="1", entity_system="s", entity_type="counter", entity_name="counter"
            )
            proxy.heal()
            assert await manager.flush(20)
            # Postgres finds the twin and stores nothing, and nobody hears its name.
            lose_a_reply()
            again = await manager.store_persistent_memory("nick", "twin")
            proxy.heal()
            assert await manager.flush(20)
            assert await manager.get_node("nick", again) is not None
        counter = await manager.get_node("nick", entity)
        assert counter is not None
        assert (counter.content["update_count"] == 8) == (bug is None)
        assert await manager.get_node("nick", twin) is not None

    async def test_what_was_sent_stays_in_sight_until_it_can_be_read(
        self, manager: HybridMemoryManager, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Postgres says that it has it already, without saying what it has, and does not answer the next question."""
        memory = await manager.ensure_user_memories("nick")
        await away(proxy, manager)
        await manager.store_persistent_memory("nick", "sent")
        apply: Callable[..., Any] = QueuedBatches.apply

        async def twice(*sent: Any, **keywords: Any) -> Any:
            await apply(*sent, **keywords)
            return await apply(*sent, **keywords)

        async def refused(*_: Any, **__: Any) -> Any:
            raise StorageUnavailable("no answer")

        with monkeypatch.context() as faults:
            faults.setattr(QueuedBatches, "apply", twice)
            faults.setattr(Loader, "changes", refused)
            faults.setattr(Loader, "everything", refused)
            proxy.heal()
            assert await manager.flush(20)
            assert await run_job(manager, OUTBOX)
            assert shown(memory.get_all_nodes()) == [("sent", False)]
        assert await run_job(manager, OUTBOX)
        assert shown(memory.get_all_nodes()) == [("sent", True)]

    @pytest.mark.parametrize("bug", [None, "jumps the queue"])
    async def test_a_later_write_goes_behind_an_earlier_one(
        self,
        manager: HybridMemoryManager,
        proxy: FaultProxy,
        targets: Targets,
        monkeypatch: pytest.MonkeyPatch,
        bug: str | None,
    ) -> None:
        """Postgres takes numbers in their order only: an earlier one that comes later counts as a repeat."""
        await away(proxy, manager)
        await manager.store_persistent_memory("nick", "earlier")
        leases = (await manager._ready()).delivery._leases
        assert await leases.take(LEASE, "somebody-else", 60, datetime.now(UTC) + timedelta(seconds=60))
        proxy.heal()
        await until(lambda: manager.health().breaker == "closed", "the breaker closes")
        if bug is not None:
            monkeypatch.setattr(Writer, "_waits", _never)
        await manager.store_persistent_memory("nick", "later")
        assert await leases.release(LEASE, "somebody-else")
        assert await manager.flush(20)
        assert (await stored(targets) == {"earlier": 1, "later": 1}) == (bug is None)

    async def test_a_write_that_goes_behind_others_waits_for_no_answer(
        self, manager: HybridMemoryManager, proxy: FaultProxy
    ) -> None:
        """It looks for what it relates to, and for twins, but not for longer than a moment."""
        first = await manager.store_persistent_memory("nick", "first")
        await away(proxy, manager)
        await manager.store_persistent_memory("nick", "earlier")
        leases = (await manager._ready()).delivery._leases
        assert await leases.take(LEASE, "somebody-else", 60, datetime.now(UTC) + timedelta(seconds=60))
        proxy.heal()
        await until(lambda: manager.health().breaker == "closed", "the breaker closes")
        proxy.black_hole()
        with Deadline(0.5):
            await manager.store_persistent_memory("nick", "later", relates_to=[first])
        proxy.heal()
        assert await leases.release(LEASE, "somebody-else")
        assert await manager.flush(20)

    async def test_a_user_who_is_stuck_holds_up_nobody(
        self, through: Settings, targets: Targets, events: Recorded
    ) -> None:
        hasty = through.model_copy(update={"command_timeout_seconds": 0.3})
        async with HybridMemoryManager(hasty, events=events) as manager, administration(targets) as other:
            await manager.store_persistent_memory("stuck", "before")
            async with other.transaction():
                await other.execute("select from memory.user_metadata where user_id = 'stuck' for update")
                await manager.store_persistent_memory("stuck", "one")
                with Deadline(0.2):
                    await manager.store_persistent_memory("stuck", "two")
                for number in range(5):
                    with Deadline(0.2):
                        await manager.store_persistent_memory("nick", f"fact {number}")
                assert manager.health().breaker == "closed"
                assert len(await stored(targets)) == 5
            assert await manager.flush(20)
            assert await stored(targets, "stuck") == {"before": 1, "one": 1, "two": 1}

    async def test_poison_is_set_aside_and_can_be_sent_again(
        self, manager: HybridMemoryManager, proxy: FaultProxy, targets: Targets, events: Recorded
    ) -> None:
        await manager.ensure_user_memories("nick")
        await away(proxy, manager)
        ids = await manager.store_many("nick", [{"content": f"fact {number}"} for number in range(20)])
        async with administration(targets) as connection:
            await connection.execute(
                "alter table memory.nodes add constraint poison check (content ->> 'text' <> 'fact 7')"
            )
            proxy.heal()
            assert await manager.flush(20)
            there = await stored(targets)
            assert there == {f"fact {number}": 1 for number in range(20) if number != 7}
            (refused,) = await manager.quarantined("nick")
            assert (refused.row["node_id"], refused.reason and "23514" in refused.reason) == (ids[7], True)
            assert manager.health().quarantined == 1
            assert [fields["number"] for fields in events.named("outbox_operation_quarantined")] == [refused.n]
            assert await manager.get_node("nick", ids[7]) is None, "it is not there, and is not shown as if it were"
            await connection.execute("alter table memory.nodes drop constraint poison")
        assert await manager.requeue(user_id="nick") == 1
        await manager.store_persistent_memory("nick", "after")
        assert await manager.flush(20)
        assert await stored(targets) == {"after": 1} | {f"fact {number}": 1 for number in range(20)}
        assert await manager.quarantined() == []

    async def test_two_processes_share_one_outbox(self, through: Settings, proxy: FaultProxy, targets: Targets) -> None:
        async with HybridMemoryManager(through) as first, HybridMemoryManager(through) as second:
            memory = await first.ensure_user_memories("nick")
            await away(proxy, first, second)
            for number in range(10):
                await (first, second)[number % 2].store_persistent_memory("nick", f"fact {number}")
            proxy.heal()
            for manager in (first, second):
                await until(lambda: manager.health().breaker == "closed", "the breaker closes")  # noqa: B023 - asked at once
            assert await first.flush(30)
            assert await second.flush(30)
            assert await stored(targets) == {f"fact {number}": 1 for number in range(10)}
            await run_job(first, OUTBOX)
            await first.ensure_user_memories("nick")
            assert {version for _, version in shown(memory.get_all_nodes())} == {True}
            assert len(memory.get_all_nodes()) == 10

    async def test_what_waits_is_sent_when_postgres_is_there_again(
        self, through: Settings, proxy: FaultProxy, targets: Targets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not only now and then, and not only when somebody writes."""
        monkeypatch.setattr(delivery, "_EVERY_SECONDS", 3600.0)
        async with HybridMemoryManager(through) as manager:
            await away(proxy, manager)
            await manager.store_persistent_memory("nick", "waiting")
            proxy.heal()
            await until(lambda: manager.health().outbox_depth == 0, "all is sent")
        assert await stored(targets) == {"waiting": 1}

    async def test_a_server_that_is_down_at_the_start(
        self, through: Settings, proxy: FaultProxy, targets: Targets
    ) -> None:
        proxy.reset()
        async with HybridMemoryManager(through) as manager:
            assert manager.health().postgres == "down"
            await manager.store_persistent_memory("nick", "early")
            proxy.heal()
            assert await manager.flush(20)
            assert manager.health().postgres == "up"
        assert await stored(targets) == {"early": 1}


async def _never(*_: object) -> bool:
    return False


BUGS = ("queues all but the last", "forgets what it cannot send")


@pytest.mark.parametrize("bug", [None, *BUGS])
async def test_random_outages(  # noqa: PLR0913, PLR0917 - fixtures
    through: Settings,
    proxy: FaultProxy,
    targets: Targets,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    bug: str | None,
) -> None:
    """Writes, outages, lost replies and restarts in random order; a bug that was planted is found."""
    plant(bug, monkeypatch)
    found = False
    try:
        await outages(through, proxy, targets, rng, rounds=12 if bug else 8)
    except (AssertionError, UnknownMemory):
        found = True
        if bug is None:
            raise
    assert found == (bug is not None), f"nobody noticed: {bug}"


@pytest.mark.campaign
async def test_many_random_outages(through: Settings, proxy: FaultProxy, targets: Targets, rng: random.Random) -> None:
    await outages(through, proxy, targets, rng, rounds=200)


async def outages(through: Settings, proxy: FaultProxy, targets: Targets, rng: random.Random, rounds: int) -> None:
    expected: dict[str, dict[str, str]] = {user: {} for user in ("ann", "bob", "eve")}
    counts: Counter[str] = Counter()
    number = 0
    for _ in range(rounds):
        proxy.heal()
        async with HybridMemoryManager(through) as manager:
            for _ in range(rng.randrange(1, 4)):
                faults: list[Callable[[], None]] = [
                    proxy.heal,
                    proxy.reset,
                    partial(proxy.cut_after, rng.randrange(600), "to_client"),
                    partial(proxy.cut_after, rng.randrange(3000), "to_server"),
                ]
                rng.choice(faults)()
                users = rng.choices(list(expected), k=rng.randrange(1, 6))

                async def work(user: str, number: int, name: str) -> None:
                    node_id = await manager.store_persistent_memory(user, f"{name}, {number}", node_id=name)
                    expected[user][node_id] = f"{name}, {number}"
                    await manager.store_entity(
                        user, entity_id="1", entity_system="s", entity_type="counter", entity_name="counter"
                    )
                    counts[user] += 1

                await asyncio.gather(
                    *(work(user, number + place, f"name {number} {place}") for place, user in enumerate(users))
                )
                number += len(users)
                for user in set(users):
                    memory = await manager.ensure_user_memories(user)
                    seen = {node.node_id: node.text for node in memory.get_all_nodes() if node.text}
                    if not memory.stale:
                        assert seen == expected[user]
    proxy.heal()
    async with HybridMemoryManager(through) as manager:
        assert await manager.flush(60)
        assert await manager.quarantined() == []
        for user, memories in expected.items():
            memory = await manager.ensure_user_memories(user)
            assert {node.node_id: node.text for node in memory.get_all_nodes() if node.text} == memories
            entities = [node for node in memory.get_all_nodes() if node.context_type == "domain_entity"]
            assert [node.content["update_count"] for node in entities] == ([counts[user]] if counts[user] else [])
            assert await stored(targets, user) == Counter(memories.values()) + Counter(
                {"counter": 1} if counts[user] else {}
            )


def plant(bug: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "queues all but the last":
        honest = Outbox.put

        async def put(outbox: Outbox, operations: Any) -> None:
            await honest(outbox, operations[:-1])

        monkeypatch.setattr(Outbox, "put", put)
    elif bug == "forgets what it cannot send":

        async def forgets(queue: Queue, operations: Any) -> None:
            """The writes are acknowledged and dropped."""

        monkeypatch.setattr(Queue, "put", forgets)
