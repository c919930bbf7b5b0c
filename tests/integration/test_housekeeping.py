"""Housekeeping: what goes, what stays, who notices, and who does it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from hybrid_memory import EntityRef, HybridMemoryManager
from hybrid_memory.errors import InvalidInput, StorageRejected, UnknownMemory
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import Cleanup
from hybrid_memory.postgres import housekeeping
from hybrid_memory.postgres.batches import Batches, Operation
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.batching import Write
from tests.support.managers import run_job, settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.rows import fact_row
from tests.support.servers import administration, connection_to
from tests.support.waiting import until

AGE = timedelta(days=90)


async def outside(targets: Targets, statement: str, *values: object) -> list[Any]:
    async with administration(targets) as connection:
        return [tuple(row) for row in await connection.fetch(statement, *values)]


async def age(targets: Targets) -> None:
    """Let a long time pass for every memory there is."""
    await outside(targets, "update memory.nodes set updated_at = updated_at - interval '100 days'")


async def expire(targets: Targets, *node_ids: str) -> None:
    """Let the time of these memories be over, as far as Postgres knows."""
    await outside(
        targets,
        "update memory.nodes set expires_at = now() - interval '1 second' where node_id = any ($1)",
        [UUID(one) for one in node_ids],
    )


async def let_all_chores_be_due(targets: Targets) -> None:
    await outside(targets, "update memory.deployment set chores = '{}'")


def texts(memory: UserMemory) -> set[str | None]:
    return {node.text for node in memory.get_all_nodes()}


async def counters_are_counts(targets: Targets) -> None:
    wrong = await outside(
        targets,
        "select m.user_id from memory.user_metadata m where (node_count, relationship_count, entity_count) is distinct"
        " from ((select count(*) from memory.nodes n where n.user_id = m.user_id),"
        " (select count(*) from memory.relationships r where r.user_id = m.user_id),"
        " (select count(*) from memory.nodes n where n.user_id = m.user_id and n.context_type = 'domain_entity'))",
    )
    assert wrong == []


class TestCleanup:
    async def test_what_was_not_changed_for_long_goes(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets, events: Recorded
    ) -> None:
        store = manager.store_persistent_memory
        old = await store("nick", "old", embedding=[1.0, 2.0])
        await store("nick", "older", relates_to=[old])
        await manager.store_entity("nick", entity_id="1", entity_system="s", entity_type="t", entity_name="n")
        kept = [await store("nick", tag, tags=[tag]) for tag in ("important", "preserve", "PRESERVE")]
        await manager.relate("nick", kept[0], old, "led_to")
        touched = await store("nick", "old and changed")
        await store("eve", "hers")
        theirs = await other.ensure_user_memories("nick")
        await age(targets)
        await manager.update_memory("nick", touched, importance=0.9)
        young = await store("nick", "young", relates_to=[kept[0]])
        mine = await manager.ensure_user_memories("nick")
        before = mine.version
        done = await manager.cleanup(AGE, user_id="nick")
        assert done == Cleanup(memories=3, relationships=2, users=1)
        left = {*kept, touched, young}
        assert {node.node_id for node in mine.get_all_nodes()} == left, "a memory that is held follows"
        assert (mine.version, len(mine.get_all_edges())) == (before + 1, 1)
        await other.ensure_user_memories("nick")
        assert {node.node_id for node in theirs.get_all_nodes()} == left, "another instance's copy follows"
        assert texts(await other.ensure_user_memories("eve")) == {"hers"}
        await counters_are_counts(targets)
        assert await outside(targets, "select count(*) from memory.embeddings") == [(0,)]
        assert await outside(targets, "select count(*) from memory.tombstones where version = $1", before + 1) == [(3,)]
        (report,) = events.named("memories_cleaned_up")
        assert report == {"user_id": "nick", "memories": 3, "expired": 0, "relationships": 2}

    async def test_of_all_users_in_any_order_of_names(
        self,
        manager: HybridMemoryManager,
        other: HybridMemoryManager,
        targets: Targets,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(housekeeping, "_USERS_OF_A_PAGE", 2)
        users = ["nick", "Nick", "nick ", "%", "Ünï", "'", "eve"]
        for user in users:
            await manager.store_many(user, [{"content": str(number)} for number in range(3)])
        await age(targets)
        await manager.store_persistent_memory("young", "stays")
        done = await other.cleanup(AGE.total_seconds())
        assert done == Cleanup(memories=21, users=7)
        assert await outside(targets, "select user_id from memory.nodes") == [("young",)]
        await counters_are_counts(targets)
        assert await manager.cleanup(AGE) == Cleanup()

    async def test_in_batches_each_a_version(
        self, manager: HybridMemoryManager, targets: Targets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(housekeeping, "MOST_ROWS", 10)
        await manager.store_many("nick", [{"content": str(number)} for number in range(35)])
        memory = await manager.ensure_user_memories("nick")
        version = memory.version
        await age(targets)
        assert (await manager.cleanup(AGE, user_id="nick")).memories == 35
        assert (memory.version, memory.get_all_nodes()) == (version + 4, [])

    async def test_nothing_to_do_is_no_change(self, manager: HybridMemoryManager, targets: Targets) -> None:
        await manager.store_persistent_memory("nick", "young")
        assert await manager.cleanup(AGE, user_id="nick") == Cleanup()
        assert await manager.cleanup(AGE, user_id="nobody") == Cleanup()
        assert await outside(targets, "select user_id, version from memory.user_metadata") == [("nick", 1)]

    async def test_items_of_a_store_have_no_age(self, manager: HybridMemoryManager, targets: Targets) -> None:
        await manager.start()
        assert manager._parts is not None
        items = [{"namespace": ["memories", "nick"], "key": key, "context_type": "store_item"} for key in "ab"]
        rows = [fact_row(str(uuid4()), f"item {item['key']}") | item for item in items]
        await manager._parts.writer.write("nick", [Write("nodes", row) for row in rows])
        await age(targets)
        await expire(targets, rows[0]["node_id"])
        assert await manager.cleanup(AGE) == Cleanup(expired=1, users=1)
        assert texts(await manager.ensure_user_memories("nick")) == {"item b"}

    async def test_a_place_is_held_for_an_entity_while_anything_points_at_it(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        await manager.store_entity(
            "nick",
            entity_id="1",
            entity_system="crm",
            entity_type="contact",
            entity_name="Ann",
            relations=[("belongs_to", EntityRef("crm", "2"))],
        )
        await age(targets)
        assert await manager.cleanup(AGE) == Cleanup(memories=1, relationships=1, users=1)
        assert await outside(targets, "select entity_id from memory.nodes") == [("2",)]
        assert await manager.cleanup(AGE) == Cleanup(users=1)
        assert await outside(targets, "select entity_id from memory.nodes") == []
        await counters_are_counts(targets)

    async def test_tags_to_keep_are_the_callers(self, manager: HybridMemoryManager, targets: Targets) -> None:
        await manager.store_persistent_memory("nick", "mine", tags=["Zürich", "x"])
        await manager.store_persistent_memory("nick", "important", tags=["important"])
        await age(targets)
        await manager.cleanup(AGE, user_id="nick", keep_tags=["Zürich"])
        memory = await manager.ensure_user_memories("nick")
        assert texts(memory) == {"mine"}
        await manager.cleanup(AGE, user_id="nick", keep_tags=())
        assert texts(memory) == set()

    @pytest.mark.parametrize("max_age", [0, -1, timedelta(0), "a week", None, float("nan")])
    async def test_an_age_that_is_none(self, manager: HybridMemoryManager, max_age: Any) -> None:
        with pytest.raises(InvalidInput, match="max_age"):
            await manager.cleanup(max_age)
        with pytest.raises(InvalidInput, match="tags"):
            await manager.cleanup(1, keep_tags="important")

    async def test_nothing_is_older_than_the_calendar(self, manager: HybridMemoryManager) -> None:
        await manager.store_persistent_memory("nick", "x")
        assert await manager.cleanup(timedelta.max) == Cleanup()

    async def test_rows_by_hand_go_too(self, manager: HybridMemoryManager, targets: Targets) -> None:
        await outside(
            targets,
            "insert into memory.nodes (user_id, content, updated_at)"
            " select 'nick', '{\"text\": \"by hand\"}', now() - n * interval '1 day' from generate_series(1, 200) n",
        )
        assert (await manager.cleanup(AGE)).memories == 111
        await counters_are_counts(targets)
        assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 89

    async def test_notes_of_quiet_threads_go_with_all_users_and_not_with_one(
        self, manager: HybridMemoryManager
    ) -> None:
        manager.store_transient_memory("t", "a note")
        await until_later()
        assert await manager.cleanup(timedelta(microseconds=1), user_id="nick") == Cleanup()
        assert await manager.cleanup(AGE) == Cleanup()
        assert len(manager.transient_memories("t")) == 1
        assert await manager.cleanup(timedelta(microseconds=1)) == Cleanup(notes=1)
        assert manager.transient_memories("t") == []

    async def test_a_user_at_fault_does_not_stop_the_others(
        self, manager: HybridMemoryManager, targets: Targets, events: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for user in ("anna", "bob", "carl"):
            await manager.store_persistent_memory(user, "old")
        await age(targets)
        await outside(
            targets, "alter table memory.tombstones add constraint fault check (user_id not in ('anna', 'bob'))"
        )
        assert await manager.cleanup(AGE) == Cleanup(memories=1, users=1)
        assert [one["user_id"] for one in events.named("cleanup_failed")] == ["anna", "bob"]
        monkeypatch.setattr("hybrid_memory.memory.housekeeping._MOST_FAILURES", 2)
        with pytest.raises(StorageRejected):
            await manager.cleanup(AGE)


async def until_later() -> None:
    """Until the clock has moved on."""
    start = datetime.now(UTC)
    await until(lambda: datetime.now(UTC) > start + timedelta(microseconds=1), "a later time")


class TestExpiry:
    async def test_what_has_expired_is_removed_by_one_of_all(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        kept = await manager.store_persistent_memory("nick", "stays", expires_in=AGE)
        gone = await manager.store_persistent_memory("nick", "goes", relates_to=[kept], expires_in=0.05)
        memory = await other.ensure_user_memories("nick")
        await until(lambda: memory.peek(gone) is None, "it is hidden")
        assert (await other.user_stats("nick")).node_count == 1, "what is hidden is not counted"
        assert (await other.user_stats("nick")).relationship_count == 0
        assert all(await asyncio.gather(run_job(manager, "sweep"), run_job(other, "sweep")))
        assert await outside(targets, "select node_id from memory.nodes") == [(UUID(kept),)]
        assert await outside(targets, "select node_id, version from memory.tombstones") == [(UUID(gone), 3)]
        await counters_are_counts(targets)
        assert (await other.ensure_user_memories("nick")).version == 3

    async def test_cleanup_takes_what_has_expired_whatever_its_tags(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        node_id = await manager.store_persistent_memory("nick", "x", tags=["important"], expires_in=AGE)
        await expire(targets, node_id)
        assert await manager.cleanup(AGE, user_id="nick") == Cleanup(expired=1, users=1)

    async def test_a_life_prolonged_in_the_meantime_is_kept(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        """The sweep judges what there is once it has the user's lock, not what it was told of before."""
        node_id = await manager.store_persistent_memory("nick", "x", expires_in=AGE)
        gone = await manager.store_persistent_memory("nick", "y", expires_in=AGE)
        await expire(targets, node_id, gone)
        async with administration(targets) as writing:
            transaction = writing.transaction()
            await transaction.start()
            await writing.execute("select 1 from memory.user_metadata where user_id = 'nick' for update")
            sweeping = asyncio.create_task(run_job(other, "sweep"))
            await until(lambda: waits_for_a_lock(targets), "the sweep waits for the user")
            await writing.execute(
                "update memory.nodes set expires_at = now() + interval '1 day' where node_id = $1", UUID(node_id)
            )
            await transaction.commit()
            assert await sweeping
        assert await outside(targets, "select node_id from memory.nodes") == [(UUID(node_id),)]

    async def test_a_change_made_later_elsewhere_and_arriving_after_the_sweep_counts(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        """As it would if it had come first; a repeat of what was removed does not."""
        node_id = await manager.store_persistent_memory("nick", "first", node_id="plan", expires_in=AGE)
        await other.start()
        assert other._parts is not None
        row = fact_row(node_id, "second")
        late = other._parts.writer.postgres._clock.stamp()
        (written,) = await outside(targets, "select written_at, written_by from memory.nodes")
        await expire(targets, node_id)
        assert await run_job(manager, "sweep")
        await resend(other, row, written[0], str(written[1]))
        assert await outside(targets, "select 1 from memory.nodes") == []
        await resend(other, row, late, other._parts.instance_id)
        assert texts(await manager.ensure_user_memories("nick")) == {"second"}
        await counters_are_counts(targets)

    async def test_nothing_is_written_while_nothing_expires(
        self, manager: HybridMemoryManager, targets: Targets, events: Recorded
    ) -> None:
        await manager.store_persistent_memory("nick", "x", expires_in=AGE)
        await run_job(manager, "sweep")
        assert await outside(targets, "select version from memory.user_metadata") == [(1,)]
        assert events.named("memories_cleaned_up") == []


async def waits_for_a_lock(targets: Targets) -> bool:
    waiting = await outside(
        targets, "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    )
    return bool(waiting)


async def resend(manager: HybridMemoryManager, row: dict[str, Any], written_at: datetime, written_by: str) -> None:
    """What was written elsewhere at that time arrives now, through a process of its own."""
    operation = Operation(1, "nodes", {**row, "written_at": written_at.isoformat(), "written_by": written_by})
    await manager._on_home(lambda parts: Batches(parts.link, str(uuid4())).apply({"nick": [operation]}))


class TestAccesses:
    async def counts(self, targets: Targets) -> dict[str, int]:
        rows = await outside(targets, "select content->>'text', access_count from memory.nodes")
        return dict(rows)

    async def test_one_access_counts_one(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        tea = await manager.store_persistent_memory("nick", "likes green tea")
        coffee = await manager.store_persistent_memory("nick", "likes coffee", relates_to=[tea])
        await manager.store_persistent_memory("nick", "unrelated")
        await manager.get_node("nick", tea)
        memory = await manager.ensure_user_memories("nick")
        memory.get_node(tea)
        await manager.get_node("nick", coffee)
        memory.retrieve_relevant("green tea", max_results=1)
        await other.get_node("nick", tea)
        # None of these asks for a memory or finds one.
        memory.get_all_nodes()
        memory.get_related_nodes(tea)
        memory.find_important_memories()
        memory.retrieve_relevant("zebra")
        memory.peek(tea)
        await manager.list_memories("nick")
        await manager.get_context("nick", "t")
        await manager.get_node("nick", str(uuid4()))
        await manager.get_node("eve", tea)
        await manager.update_memory("nick", coffee, importance=0.1)
        assert set((await self.counts(targets)).values()) == {0}, "not before it is written down"
        for _ in range(2):
            assert await run_job(manager, "accesses")
            assert await run_job(other, "accesses")
        assert await self.counts(targets) == {"likes green tea": 4, "likes coffee": 1, "unrelated": 0}
        (moment,) = await outside(
            targets, "select last_accessed_at > updated_at from memory.nodes where node_id = $1", UUID(tea)
        )
        assert moment == (True,)

    async def test_reading_makes_no_version(self, manager: HybridMemoryManager, other: HybridMemoryManager) -> None:
        node_id = await manager.store_persistent_memory("nick", "x")
        memory = await other.ensure_user_memories("nick")
        await manager.get_node("nick", node_id)
        await run_job(manager, "accesses")
        await other.ensure_user_memories("nick")
        assert memory.version == 1

    async def test_a_users_statistics_know_this_process_own_accesses(self, manager: HybridMemoryManager) -> None:
        node_id = await manager.store_persistent_memory("nick", "x")
        await manager.get_node("nick", node_id)
        await manager.get_node("nick", node_id)
        assert (await manager.user_stats("nick")).total_accesses == 2

    async def test_closing_writes_them(self, targets: Targets) -> None:
        async with HybridMemoryManager(settings_for(targets)) as manager:
            node_id = await manager.store_persistent_memory("nick", "x")
            await manager.get_node("nick", node_id)
        assert await self.counts(targets) == {"x": 1}

    async def test_threads_count_too(self, manager: HybridMemoryManager, targets: Targets) -> None:
        node_id = await manager.store_persistent_memory("nick", "x")
        memory = await manager.ensure_user_memories("nick")

        def read() -> None:
            for _ in range(500):
                memory.get_node(node_id)

        await asyncio.gather(*(asyncio.to_thread(read) for _ in range(8)), *(
            run_job(manager, "accesses") for _ in range(3)
        ))  # fmt: skip
        await run_job(manager, "accesses")
        assert await self.counts(targets) == {"x": 4000}

    async def test_readers_and_writers_of_one_user_do_not_block_each_other_for_good(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        """Both touch the same rows, in another order."""
        ids = [await manager.store_persistent_memory("nick", str(number), node_id=str(number)) for number in range(40)]
        items = [{"content": f"{number} again", "node_id": str(number)} for number in reversed(range(40))]
        memory = await other.ensure_user_memories("nick")
        for _ in range(10):
            for node_id in ids:
                memory.get_node(node_id)
            await asyncio.gather(run_job(other, "accesses"), manager.store_many("nick", items))
        assert set((await self.counts(targets)).values()) == {10}

    async def test_what_cannot_be_written_is_counted_on(self, targets: Targets, proxy: FaultProxy) -> None:
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], command_timeout_seconds=0.5)
        events = Recorded()
        async with HybridMemoryManager(settings, events=events) as manager:
            node_id = await manager.store_persistent_memory("nick", "x")
            memory = await manager.ensure_user_memories("nick")
            memory.get_node(node_id)
            for fault in (proxy.reset, proxy.black_hole):
                fault()
                assert await run_job(manager, "accesses") is False
                memory.get_node(node_id)
            proxy.heal()
            await until(lambda: run_job(manager, "accesses"), "they are written")
            assert await self.counts(targets) == {"x": 3}
            # Where it is not known whether they were written, rather once too few than once too often.
            proxy.at_commit("drop_reply")
            memory.get_node(node_id)
            assert await run_job(manager, "accesses") is False
            proxy.heal()
            await until(lambda: run_job(manager, "accesses"), "there is nothing left to write")
            assert await self.counts(targets) == {"x": 4}
        assert {one["job"] for one in events.named("background_job_failed")} == {"accesses"}

    async def test_there_is_a_bound(self, manager: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("hybrid_memory.memory.accesses.MOST_MEMORIES", 3)
        ids = await manager.store_many("nick", [{"content": str(number)} for number in range(5)])
        for node_id in [*ids, *ids]:
            await manager.get_node("nick", node_id)
        assert (await manager.user_stats("nick")).total_accesses == 6
        await manager.get_node("nick", ids[4])
        assert (await manager.user_stats("nick")).total_accesses == 7


class TestOldMarks:
    async def test_below_the_floor_a_copy_is_loaded_afresh(
        self, instance: Callable[..., HybridMemoryManager], targets: Targets
    ) -> None:
        seen, writer = Recorded(), instance()
        reader = instance(events=seen, listen=False, poll_interval_seconds=3600)
        ids = [await writer.store_persistent_memory("nick", str(number)) for number in range(4)]
        memory = await reader.ensure_user_memories("nick")
        await writer.forget("nick", ids[0])
        await writer.forget("nick", ids[1])
        await outside(targets, "update memory.tombstones set deleted_at = now() - interval '31 days' where version = 5")
        await run_job(writer, "trim")
        assert await outside(targets, "select version from memory.tombstones") == [(6,)]
        assert await outside(targets, "select tombstone_floor from memory.user_metadata") == [(5,)]
        await reader.ensure_user_memories("nick")
        assert texts(memory) == {"2", "3"}
        assert len(seen.named("user_cache_invalidated")) == 1
        # At the floor or above nothing has to be loaded again.
        await writer.forget("nick", ids[2])
        await let_all_chores_be_due(targets)
        await outside(targets, "update memory.tombstones set deleted_at = now() - interval '31 days' where version = 6")
        await run_job(writer, "trim")
        await reader.ensure_user_memories("nick")
        assert texts(memory) == {"3"}
        assert len(seen.named("user_cache_invalidated")) == 1
        assert (await reader.ensure_user_memories("nick")).version == 7

    async def test_nothing_younger_is_forgotten_and_all_users_are_looked_at(
        self, manager: HybridMemoryManager, targets: Targets, events: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(housekeeping, "_USERS_OF_A_PAGE", 2)
        monkeypatch.setattr(housekeeping, "MOST_ROWS", 2)
        for user in ("anna", "bob", "carl", "dora", "eve"):
            ids = await manager.store_many(user, [{"content": str(number)} for number in range(5)])
            for node_id in ids:
                await manager.forget(user, node_id)
        await run_job(manager, "trim")
        assert await outside(targets, "select count(*) from memory.tombstones") == [(25,)]
        old = "interval '31 days'"
        await outside(targets, f"update memory.tombstones set deleted_at = deleted_at - {old} where user_id <> 'eve'")
        await outside(targets, f"update memory.applied_watermarks set updated_at = now() - {old} where user_id = 'eve'")
        await run_job(manager, "trim")
        assert events.named("old_marks_forgotten") == [], "one of all processes, once an hour"
        await let_all_chores_be_due(targets)
        await run_job(manager, "trim")
        assert events.named("old_marks_forgotten") == [{"tombstones": 20, "watermarks": 1}]
        assert await outside(targets, "select distinct user_id from memory.tombstones") == [("eve",)]
        assert await outside(targets, "select count(*) from memory.applied_watermarks") == [(4,)]

    async def test_a_process_writes_on_after_its_watermark_was_forgotten(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        await manager.store_persistent_memory("nick", "one")
        await outside(targets, "update memory.applied_watermarks set updated_at = now() - interval '31 days'")
        await run_job(manager, "trim")
        await manager.store_persistent_memory("nick", "two")
        assert texts(await manager.ensure_user_memories("nick")) == {"one", "two"}
        assert await outside(targets, "select seq from memory.applied_watermarks") == [(2,)]

    async def test_a_process_takes_its_watermarks_with_it(self, manager: HybridMemoryManager, targets: Targets) -> None:
        await manager.store_persistent_memory("nick", "stays open")
        async with HybridMemoryManager(settings_for(targets)) as leaving:
            for user in ("nick", "eve"):
                await leaving.store_persistent_memory(user, "x")
            assert await outside(targets, "select count(*) from memory.applied_watermarks") == [(3,)]
        (row,) = await outside(targets, "select user_id, instance_id::text from memory.applied_watermarks")
        assert manager._parts is not None
        assert row == ("nick", manager._parts.instance_id)


class TestTheJobs:
    async def test_a_manager_has_them_and_ends_them(self, manager: HybridMemoryManager) -> None:
        await manager.start()
        assert manager._parts is not None
        background = manager._parts.background
        for job in ("statistics", "sweep", "accesses", "trim", "notes"):
            assert await run_job(manager, job) is True, job
        assert background.idle
        await manager.aclose()
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("hybrid-memory")] == []

    async def test_each_server_with_an_owner_and_a_runtime_role(self, each_targets: Targets) -> None:
        events = Recorded()
        async with HybridMemoryManager(settings_for(each_targets), events=events) as manager:
            ids = await manager.store_many("nick", [{"content": text, "expires_in": AGE} for text in "abc"])
            memory = await manager.ensure_user_memories("nick")
            memory.get_node(ids[0])
            await expire(each_targets, ids[1])
            for job in ("accesses", "sweep", "statistics"):
                assert await run_job(manager, job), events.named("background_job_failed")
            assert texts(memory) == {"a", "c"}
            await age(each_targets)
            assert await manager.cleanup(AGE) == Cleanup(memories=2, users=1)
            await outside(each_targets, "update memory.tombstones set deleted_at = now() - interval '31 days'")
            assert await run_job(manager, "trim")
            assert events.named("old_marks_forgotten") == [{"tombstones": 3, "watermarks": 0}]
        assert await outside(each_targets, "select count(*) from memory.applied_watermarks") == [(0,)]
        (views,) = await outside(each_targets, "select node_count, total_accesses from memory.user_stats")
        assert views == (2, 1)

    async def test_they_come_by_themselves(
        self, instance: Callable[..., HybridMemoryManager], targets: Targets
    ) -> None:
        manager = instance(stats_interval_seconds=0.05, sweep_interval_seconds=0.05, access_interval_seconds=0.05)
        node_id = await manager.store_persistent_memory("nick", "x", expires_in=AGE)
        await manager.get_node("nick", node_id)
        await until(lambda: outside(targets, "select 1 from memory.nodes where access_count = 1"), "the count is there")
        await expire(targets, node_id)

        async def swept() -> bool:
            return not await outside(targets, "select 1 from memory.nodes")

        await until(swept, "what has expired is gone")
        await until(
            lambda: outside(targets, "select 1 from memory.deployment where stats_refreshed_at is not null"),
            "statistics were refreshed",
        )

    async def test_notes_of_threads_that_are_open_here(self, instance: Callable[..., HybridMemoryManager]) -> None:
        manager = instance(note_retention_days=1e-9)
        manager.store_transient_memory("t", "a note")
        await until_later()
        assert await run_job(manager, "notes")
        assert manager.transient_memories("t") == []

    async def test_a_postgres_that_is_away_is_reported_and_nothing_ends(
        self, targets: Targets, proxy: FaultProxy
    ) -> None:
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], command_timeout_seconds=0.3)
        events = Recorded()
        async with HybridMemoryManager(settings, events=events) as manager:
            await manager.store_persistent_memory("nick", "x")
            proxy.black_hole()
            for job in ("statistics", "sweep", "trim"):
                assert await run_job(manager, job) is False
            proxy.heal()
            for job in ("statistics", "sweep", "trim"):
                await until(partial(run_job, manager, job), f"{job} goes on")
        assert {one["job"] for one in events.named("background_job_failed")} == {"statistics", "sweep", "trim"}

    async def test_the_runtime_role_names_users_and_reaches_nothing_of_them(self, targets: Targets) -> None:
        async with HybridMemoryManager(settings_for(targets)) as manager:
            gone = await manager.store_persistent_memory("nick", "x", expires_in=AGE)
            await expire(targets, gone)
        async with connection_to(targets.runtime) as connection, connection.transaction():
            rows = await connection.fetch("select * from memory.users_to_sweep('', null, 10)")
            assert [tuple(row) for row in rows] == [("nick",)]
            assert await connection.fetch("select * from memory.nodes") == []
            assert await connection.execute("delete from memory.nodes") == "DELETE 0"

    @pytest.mark.parametrize("call", ["update", "forget"])
    async def test_a_memory_that_was_swept_is_unknown(
        self, manager: HybridMemoryManager, targets: Targets, call: str
    ) -> None:
        node_id = await manager.store_persistent_memory("nick", "x", expires_in=AGE)
        await expire(targets, node_id)
        await run_job(manager, "sweep")
        if call == "forget":
            assert await manager.forget("nick", node_id) is False
            return
        with pytest.raises(UnknownMemory):
            await manager.update_memory("nick", node_id, content="y")
