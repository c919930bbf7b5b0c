"""The manager on real Postgres: what one instance stores another finds, at once, complete, and for its user alone."""

import asyncio
import gc
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hybrid_memory import HybridMemoryManager, Settings, default
from hybrid_memory.errors import ConfigurationError, InvalidInput, StorageUnavailable, UnknownMemory, WrongThread
from hybrid_memory.observability import Event, Events
from hybrid_memory.postgres.embedded import EmbeddedServer
from hybrid_memory.postgres.target import Targets
from tests.support.managers import KNOWN_TYPES, settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.servers import administration, memory
from tests.support.waiting import until


def statements(events: Recorded) -> list[str]:
    """The statements that read users' tables; beginning, binding and committing read none."""
    others = ("users.bind", "deployment.", "changes.")
    return [one["query"] for one in events.named("postgres_statement") if not one["query"].startswith(others)]


class TestWritingAndFinding:
    async def test_another_instance_finds_everything_as_it_was_stored(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        fact = await manager.store_persistent_memory(
            "nick", "likes tea", tags=["drinks"], metadata={"source": "chat"}, importance=0.9, thread_id="t1"
        )
        output = await manager.store_persistent_memory("nick", {"rows": [1, 2], "tool": "crm"}, "tool_output")
        entity = await manager.store_entity(
            "nick", entity_id="1", entity_system="crm", entity_type="account", entity_name="GenePoint", data={"a": 1}
        )
        for kind in (*KNOWN_TYPES, "a_type_of_my_own"):
            await manager.relate("nick", fact, entity, kind, strength=0.5, metadata={"why": kind})
        mine, theirs = await manager.ensure_user_memories("nick"), await other.ensure_user_memories("nick")
        assert mine.get_all_nodes() == theirs.get_all_nodes()
        assert mine.get_all_edges() == theirs.get_all_edges()
        assert {edge.relationship_type for edge in theirs.get_all_edges()} == {*KNOWN_TYPES, "a_type_of_my_own"}
        found = theirs.get_node(fact)
        assert found is not None
        assert (found.text, found.tags, found.metadata, found.importance) == (
            "likes tea", ("drinks",), {"source": "chat"}, 0.9,
        )  # fmt: skip
        assert theirs.get_node(output).content == {"rows": [1, 2], "tool": "crm"}  # type: ignore[union-attr]
        assert mine.find_important_memories(5) == theirs.find_important_memories(5)
        assert mine.find_memory_clusters() == theirs.find_memory_clusters()
        assert mine.find_bridge_memories(3) == theirs.find_bridge_memories(3)
        assert mine.get_related_nodes(fact) == theirs.get_related_nodes(fact)

    async def test_own_writes_show_at_once_in_a_memory_that_is_held(self, manager: HybridMemoryManager) -> None:
        memory = await manager.ensure_user_memories("nick")
        for number in range(5):
            node_id = await manager.store_persistent_memory("nick", f"fact {number}")
            assert memory.get_node(node_id) is not None
            assert memory.version == number + 1

    async def test_touching_a_user_before_the_session_hides_nothing(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        await other.store_persistent_memory("nick", "an old fact")
        await manager.store_persistent_memory("nick", "a new one")
        await manager.get_node("nick", str(uuid4()))
        assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 2

    async def test_other_instances_changes_and_deletions_arrive(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        memory = await manager.ensure_user_memories("nick")
        one = await other.store_persistent_memory("nick", "one")
        two = await other.store_persistent_memory("nick", "two", relates_to=[one])
        await manager.ensure_user_memories("nick")
        assert {node.node_id for node in memory.get_all_nodes()} == {one, two}
        await other.update_memory("nick", one, content="one, changed")
        assert await other.forget("nick", two)
        await manager.ensure_user_memories("nick")
        assert [node.text for node in memory.get_all_nodes()] == ["one, changed"]
        assert memory.get_all_edges() == []

    async def test_an_unknown_user_has_an_empty_memory_and_leaves_no_row(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        memory = await manager.ensure_user_memories("nobody")
        assert memory.get_all_nodes() == []
        async with administration(targets) as connection:
            assert await connection.fetchval("select count(*) from memory.user_metadata") == 0

    async def test_fields_that_are_not_named_stay_as_they_are(self, manager: HybridMemoryManager) -> None:
        expires = timedelta(days=1)
        node_id = await manager.store_persistent_memory(
            "nick", "x", summary="mine", tags=["a"], metadata={"k": 1}, node_id="my-name", expires_in=expires
        )
        updated = await manager.update_memory("nick", "my-name", importance=0.1)
        assert (updated.node_id, updated.external_id, updated.summary) == (node_id, "my-name", "mine")
        assert (updated.tags, updated.metadata, updated.importance) == (("a",), {"k": 1}, 0.1)
        assert updated.expires_at is not None
        assert (await manager.update_memory("nick", node_id, content="y")).summary == "y"

    async def test_fields_that_others_change_meanwhile_stay_as_they_are(
        self, manager: HybridMemoryManager, instance: Callable[..., HybridMemoryManager]
    ) -> None:
        behind = instance(max_staleness_seconds=3600, poll_interval_seconds=3600, listen=False)
        node_id = await manager.store_persistent_memory("nick", "x", summary="old")
        await behind.ensure_user_memories("nick")
        await manager.update_memory("nick", node_id, content="y")
        await asyncio.gather(
            behind.update_memory("nick", node_id, importance=0.1),
            behind.update_memory("nick", node_id, tags=(tag for tag in "ab")),
            behind.update_memory("nick", node_id, metadata={"k": 1}),
        )
        for one in (manager, behind):
            node = await one.get_node("nick", node_id)
            assert node is not None
            assert (node.text, node.importance, node.tags, node.metadata) == ("y", 0.1, ("a", "b"), {"k": 1})

    @pytest.mark.parametrize("version", [7, "7.1"])
    async def test_metadata_that_looks_like_that_of_an_item_is_like_any_other(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, version: object
    ) -> None:
        kept = {"store": {"version": version}}
        node_id = await manager.store_persistent_memory("nick", "x", metadata=kept)
        await other.ensure_user_memories("nick")
        await asyncio.gather(
            manager.update_memory("nick", node_id, importance=0.1), other.update_memory("nick", node_id, tags=["a"])
        )
        updated = await manager.update_memory("nick", node_id, confidence=0.2)
        assert (updated.importance, updated.tags, updated.confidence, updated.metadata) == (0.1, ("a",), 0.2, kept)

    async def test_what_has_expired_is_hidden(self, manager: HybridMemoryManager, other: HybridMemoryManager) -> None:
        node_id = await manager.store_persistent_memory("nick", "soon gone", expires_in=0.2)
        memory = await manager.ensure_user_memories("nick")
        deadline = asyncio.get_running_loop().time() + 5
        while memory.get_node(node_id) is not None:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        assert await other.get_node("nick", node_id) is None

    async def test_many_at_once_with_progress(self, manager: HybridMemoryManager) -> None:
        steps: list[tuple[int, int]] = []
        items = [{"content": f"fact {number}", "tags": [str(number)]} for number in range(250)]
        ids = await manager.store_many("nick", items, progress=lambda done, of: steps.append((done, of)))
        assert steps == [(100, 250), (200, 250), (250, 250)]
        nodes = {node.node_id: node.text for node in (await manager.ensure_user_memories("nick")).get_all_nodes()}
        assert [nodes[node_id] for node_id in ids] == [item["content"] for item in items]

    async def test_one_bad_item_of_many_leaves_nothing(self, manager: HybridMemoryManager) -> None:
        items: list[dict[str, Any]] = [{"content": "fine"}, {"content": "bad", "importance": 7}, {"context_type": "x"}]
        with pytest.raises(InvalidInput, match="item 1: importance"):
            await manager.store_many("nick", items)
        with pytest.raises(InvalidInput, match="item 0 has no content"):
            await manager.store_many("nick", items[2:])
        with pytest.raises(InvalidInput, match=r"item 0.*colour"):
            await manager.store_many("nick", [{"content": "x", "colour": "red"}])
        assert (await manager.ensure_user_memories("nick")).get_all_nodes() == []


class TestTheSameAgain:
    async def test_an_identical_memory_gives_the_id_that_is_there_and_counts(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        target = await manager.store_persistent_memory("nick", "target")
        first = await manager.store_persistent_memory("nick", "likes tea")
        assert await other.store_persistent_memory("nick", "likes tea", relates_to=[target]) == first
        assert await manager.store_persistent_memory("eve", "likes tea") != first
        assert await manager.store_persistent_memory("nick", "likes tea", "user_selection") != first
        assert await manager.store_persistent_memory("nick", {"text": "likes tea"}) != first
        assert await manager.store_persistent_memory("nick", "likes tea", deduplicate=False) != first
        memory = await manager.ensure_user_memories("nick")
        assert [(edge.from_node_id, edge.to_node_id) for edge in memory.get_all_edges()] == [(first, target)]
        async with administration(targets) as connection:
            counted = await connection.fetchval("select access_count from memory.nodes where node_id = $1", first)
            assert counted == 1

    async def test_many_callers_at_once_store_it_once(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        writers = [(manager, other)[number % 2] for number in range(30)]
        ids = await asyncio.gather(*(writer.store_persistent_memory("nick", "the same") for writer in writers))
        assert len(set(ids)) == 1
        assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 1

    async def test_among_many_given_together(self, manager: HybridMemoryManager) -> None:
        target = await manager.store_persistent_memory("nick", "target")
        items: list[dict[str, Any]] = [
            {"content": "a"},
            {"content": "b"},
            {"content": "a", "relates_to": [target]},
            {"content": "target"},
        ]
        one, two, three, four = await manager.store_many("nick", items)
        assert (one, four) == (three, target)
        memory = await manager.ensure_user_memories("nick")
        assert {node.node_id for node in memory.get_all_nodes()} == {one, two, target}
        assert [edge.from_node_id for edge in memory.get_all_edges()] == [one]

    async def test_what_has_expired_or_was_deleted_is_stored_anew(self, manager: HybridMemoryManager) -> None:
        first = await manager.store_persistent_memory("nick", "x")
        await manager.forget("nick", first)
        second = await manager.store_persistent_memory("nick", "x", expires_in=0.05)
        assert second != first
        deadline = asyncio.get_running_loop().time() + 5
        while await manager.get_node("nick", second) is not None:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        assert await manager.store_persistent_memory("nick", "x") != second

    async def test_saying_the_same_twice_is_two_turns(self, manager: HybridMemoryManager) -> None:
        at = datetime(2026, 5, 1, tzinfo=UTC)
        for _ in range(2):
            await manager.add_message("nick", "t", "user", "ok", at=at)
        assert len(await manager.get_context("nick", "t")) == 2


class TestUsersApart:
    async def test_ids_of_another_user_mean_nothing(self, manager: HybridMemoryManager) -> None:
        secret = await manager.store_persistent_memory("nick", "secret", node_id="plan")
        own = await manager.store_persistent_memory("eve", "mine")
        assert await manager.get_node("eve", secret) is None
        assert await manager.get_node("eve", "plan") is None
        assert await manager.forget("eve", secret) is False
        for call in (
            manager.update_memory("eve", secret, content="taken"),
            manager.relate("eve", own, secret, "owns"),
            manager.store_persistent_memory("eve", "x", relates_to=[secret]),
        ):
            with pytest.raises(UnknownMemory, match=secret):
                await call
        assert len((await manager.ensure_user_memories("eve")).get_all_nodes()) == 1
        assert (await manager.ensure_user_memories("nick")).get_node("plan") is not None

    async def test_a_thread_is_its_users_alone(self, manager: HybridMemoryManager) -> None:
        await manager.add_message("nick", "t", "user", "secret")
        assert await manager.get_context("eve", "t") == []


class TestEntities:
    async def test_two_instances_merge_into_one(self, manager: HybridMemoryManager, other: HybridMemoryManager) -> None:
        def reports(number: int) -> Any:
            writer = (manager, other)[number % 2]
            return writer.store_entity(
                "nick",
                entity_id="1",
                entity_system="crm",
                entity_type="account",
                entity_name="GenePoint",
                data={f"key{number}": number},
                aliases=[f"alias{number % 3}"],
            )

        ids = await asyncio.gather(*(reports(number) for number in range(50)))
        assert len(set(ids)) == 1
        (node,) = (await manager.ensure_user_memories("nick")).get_all_nodes()
        assert node.content["entity_data"] == {f"key{number}": number for number in range(50)}
        assert node.content["aliases"] == ["alias0", "alias1", "alias2"]
        assert (node.content["update_count"], node.confidence) == (50, 1.0)

    async def test_a_relation_given_twice_is_there_once(self, manager: HybridMemoryManager) -> None:
        fact = await manager.store_persistent_memory("nick", "x", node_id="fact")
        node_id = await manager.store_entity(
            "nick",
            entity_system="s",
            entity_type="t",
            entity_name="n",
            relations=[("owns", fact), ("owns", "fact"), ("has", fact)],
        )
        edges = (await manager.ensure_user_memories("nick")).get_all_edges()
        assert [(edge.from_node_id, edge.relationship_type) for edge in edges] == [(node_id, "has"), (node_id, "owns")]

    async def test_without_an_id_its_name_is_its_identity(self, manager: HybridMemoryManager) -> None:
        def store(name: str) -> Any:
            return manager.store_entity("nick", entity_system="mail", entity_type="Person", entity_name=name)

        assert await store("Ann  Lee") == await store("ann lee") != await store("Ann Bee")

    async def test_an_entity_is_merged_not_overwritten(self, manager: HybridMemoryManager) -> None:
        node_id = await manager.store_entity("nick", entity_id="1", entity_system="s", entity_type="t", entity_name="n")
        with pytest.raises(InvalidInput, match="store_entity"):
            await manager.update_memory("nick", node_id, content="x")


class TestConversations:
    async def test_turns_come_in_order_and_a_larger_limit_gives_more(self, manager: HybridMemoryManager) -> None:
        for number in range(12):
            await manager.add_message("nick", "t", "user" if number % 2 == 0 else "assistant", f"turn {number}")
        assert [turn["content"] for turn in await manager.get_context("nick", "t", limit=3)] == [
            "turn 9", "turn 10", "turn 11",
        ]  # fmt: skip
        assert len(await manager.get_context("nick", "t")) == 10
        assert len(await manager.get_context("nick", "t", limit=50)) == 12

    async def test_a_turn_with_an_id_is_there_once_and_keeps_its_place(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        at = datetime(2026, 5, 1, tzinfo=UTC)
        await manager.add_message("nick", "t", "user", "hello", message_id="m1", at=at, name="Nick", metadata={"k": 1})
        await other.add_message("nick", "t", "assistant", "hi", message_id="m2")
        await other.add_message("nick", "t", "user", "hello!", message_id="m1", at=at)
        first, second = await manager.get_context("nick", "t")
        assert (first["content"], first["message_id"], first["at"]) == ("hello!", "m1", at.isoformat())
        assert (second["role"], second["content"]) == ("assistant", "hi")
        by_uuid = str(uuid4())
        await manager.add_message("nick", "u", "user", "x", message_id=by_uuid)
        assert [turn["message_id"] for turn in await manager.get_context("nick", "u")] == [by_uuid]
        assert await manager.forget("nick", "m2")
        assert len(await other.get_context("nick", "t")) == 1

    async def test_a_turn_that_was_stored_like_any_other_memory_is_read_all_the_same(
        self, manager: HybridMemoryManager
    ) -> None:
        for content in ("tea", ["tea", "milk"], 5):
            await manager.store_persistent_memory("nick", content, "conversation_message", thread_id="t")
        await manager.add_message("nick", "t", "user", "more tea")
        turns = await manager.get_context("nick", "t")
        assert [turn["content"] for turn in turns] == ["tea", ["tea", "milk"], 5, "more tea"]
        for query in ("tea", ""):
            assert "user: more tea" in await manager.context_for("nick", query, max_tokens=500)

    async def test_a_turn_that_comes_into_another_thread_comes_last_there(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        for thread in ("t", "u"):
            for number in range(3):
                await manager.add_message("nick", thread, "user", f"{thread}{number}", message_id=f"{thread}{number}")
        await manager.add_message("nick", "u", "user", "moved", message_id="t0")
        alone = await manager.store_persistent_memory("nick", {"content": "alone"}, "conversation_message")
        await manager.update_memory("nick", alone, thread_id="u")
        await manager.add_message("nick", "u", "user", "after")
        for one in (manager, other):
            assert [turn["content"] for turn in await one.get_context("nick", "t")] == ["t1", "t2"]
            assert [turn["content"] for turn in await one.get_context("nick", "u")] == [
                "u0", "u1", "u2", "moved", "alone", "after",
            ]  # fmt: skip

    async def test_fifty_callers_share_one_load_and_an_empty_thread_is_remembered(
        self, instance: Callable[..., HybridMemoryManager], events: Recorded
    ) -> None:
        manager = instance(events=events, max_staleness_seconds=60)
        await manager.start()
        answers = await asyncio.gather(*(manager.get_context("nick", "nothing") for _ in range(50)))
        assert answers == [[]] * 50
        await manager.get_context("nick", "nothing")
        assert statements(events) == ["users.state", "nodes.changed_since", "relationships.changed_since"]


class TestLoading:
    async def test_a_large_memory_loads_in_three_statements_and_without_a_cap(
        self, manager: HybridMemoryManager, targets: Targets, events: Recorded
    ) -> None:
        async with administration(targets) as connection:
            await connection.execute(
                "insert into memory.nodes (user_id, node_id, content) select 'nick', md5(i::text)::uuid, '{}'"
                " from generate_series(1, 10000) i"
            )
            await connection.execute(
                "insert into memory.relationships (user_id, from_node_id, to_node_id, relationship_type) select"
                " 'nick', md5(i::text)::uuid, md5((1 + (i + j * 37) % 10000)::text)::uuid, 'led_to'"
                " from generate_series(1, 10000) i, generate_series(1, 5) j"
            )
            await connection.execute("select memory.touch_user('nick')")
        memory = await manager.ensure_user_memories("nick")
        assert len(memory.get_all_nodes()) == 10_000
        assert len(memory.get_all_edges()) == 50_000
        assert statements(events) == ["users.state", "nodes.changed_since", "relationships.changed_since"]
        (report,) = events.named("user_memories_loaded")
        assert (report["nodes"], report["relationships"], report["user_id"]) == (10_000, 50_000, "nick")

    async def test_within_the_staleness_bound_postgres_is_not_asked(
        self, instance: Callable[..., HybridMemoryManager], events: Recorded
    ) -> None:
        manager = instance(events=events, max_staleness_seconds=60)
        await manager.ensure_user_memories("nick")
        asked = len(statements(events))
        for _ in range(10):
            await manager.ensure_user_memories("nick")
        assert len(statements(events)) == asked

    @pytest.mark.parametrize(
        "statement",
        [
            "insert into memory.nodes (user_id, content) values ('nick', '{\"text\": \"by hand\"}')",
            "delete from memory.nodes where user_id = 'nick'",
            "truncate memory.nodes cascade",
            "truncate memory.nodes cascade; truncate memory.user_metadata",
            "update memory.nodes set summary = 'by hand'; select memory.touch_user('nick')",
        ],
    )
    async def test_what_is_done_by_hand_is_noticed(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets, statement: str
    ) -> None:
        await manager.store_persistent_memory("nick", "by the library")
        memory = await manager.ensure_user_memories("nick")
        async with administration(targets) as connection:
            await connection.execute(statement)
            rows = await connection.fetch("select summary, content->>'text' as text from memory.nodes")
        await manager.ensure_user_memories("nick")
        there = sorted((row["summary"], row["text"]) for row in rows)
        assert sorted((node.summary, node.content["text"]) for node in memory.get_all_nodes()) == there
        fresh = await other.ensure_user_memories("nick")
        assert sorted((node.summary, node.content["text"]) for node in fresh.get_all_nodes()) == there

    async def test_an_own_write_counts_no_rows_and_the_next_session_does(
        self, manager: HybridMemoryManager, targets: Targets, events: Recorded
    ) -> None:
        await manager.store_persistent_memory("nick", "one")
        memory = await manager.ensure_user_memories("nick")
        asked = len(statements(events))
        await manager.store_persistent_memory("nick", "two")
        assert statements(events)[asked:] == ["batches.apply"]
        async with administration(targets) as connection:
            await connection.execute("insert into memory.nodes (user_id, content) values ('nick', '{}')")
        await manager.store_persistent_memory("nick", "three")
        assert len(memory.get_all_nodes()) == 3
        await manager.ensure_user_memories("nick")
        assert len(memory.get_all_nodes()) == 4

    async def test_users_not_used_lately_leave(self, instance: Callable[..., HybridMemoryManager]) -> None:
        manager = instance(max_loaded_users=3, max_staleness_seconds=60)
        await manager.start()
        for number in range(10):
            await manager.store_persistent_memory(f"user{number}", "x")
            await manager.ensure_user_memories(f"user{number}")
        sessions = (await manager._ready()).sessions
        assert [sessions.loaded(f"user{number}") is not None for number in range(10)] == [False] * 7 + [True] * 3
        assert len((await manager.ensure_user_memories("user0")).get_all_nodes()) == 1


class TestWithoutPostgres:
    async def test_a_loaded_memory_stays_readable_and_writes_wait(
        self, targets: Targets, proxy: FaultProxy, events: Recorded
    ) -> None:
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], command_timeout_seconds=0.5)
        async with HybridMemoryManager(settings, events=events) as manager:
            await manager.store_persistent_memory("nick", "kept")
            memory = await manager.ensure_user_memories("nick")
            seen = [memory.stale]
            proxy.black_hole()
            await manager.ensure_user_memories("nick")
            seen.append(memory.stale)
            assert [node.text for node in memory.get_all_nodes()] == ["kept"]
            node_id = await manager.store_persistent_memory("nick", "waits")
            assert [(node.text, node.version) for node in memory.get_all_nodes()] == [("kept", 1), ("waits", None)]
            assert (await manager.ensure_user_memories("never loaded")).stale
            assert events.named("postgres_unavailable")
            assert events.named("outbox_operation_queued")
            assert not [fields for fields in events.named("node_persisted_to_postgres") if fields["node_id"] == node_id]
            proxy.heal()
            assert await manager.flush()
            await manager.ensure_user_memories("nick")
            assert [(node.text, node.version) for node in memory.get_all_nodes()] == [("kept", 1), ("waits", 2)]
            assert [*seen, memory.stale] == [False, True, False]


class TestNotes:
    async def test_a_note_needs_no_postgres_and_can_become_a_memory(self, manager: HybridMemoryManager) -> None:
        known = await manager.store_persistent_memory("nick", "known")
        note = manager.store_transient_memory("t", {"step": 3}, tags=["plan"], relates_to=[known, str(uuid4())])
        manager.store_transient_memory("t", "stays a note")
        assert [one.content for one in manager.transient_memories("t")] == [{"step": 3}, "stays a note"]
        stored = await manager.promote("t", note, "nick")
        assert [one.content for one in manager.transient_memories("t")] == ["stays a note"]
        memory = await manager.ensure_user_memories("nick")
        node = memory.get_node(stored)
        assert node is not None
        assert (node.content, node.tags, node.thread_id) == ({"step": 3}, ("plan",), "t")
        assert [edge.to_node_id for edge in memory.get_all_edges()] == [known]
        with pytest.raises(UnknownMemory, match="no note"):
            await manager.promote("t", note, "nick")

    def test_notes_outlive_the_process_and_are_checked_like_memories(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path / "data")
        node_id = HybridMemoryManager(settings).store_transient_memory("t", "kept")
        assert [one.node_id for one in HybridMemoryManager(settings).transient_memories("t")] == [node_id]
        with pytest.raises(InvalidInput, match=r"content\.a holds a NUL"):
            HybridMemoryManager(settings).store_transient_memory("t", {"a": "\x00"})
        with pytest.raises(InvalidInput, match="importance"):
            HybridMemoryManager(settings).store_transient_memory("t", "x", importance=2)


class TestPages:
    async def test_every_memory_is_on_one_page(self, manager: HybridMemoryManager) -> None:
        ids = await manager.store_many("nick", [{"content": str(number)} for number in range(25)])
        pages, after = [], None
        while found := await manager.list_memories("nick", limit=10, after=after):
            pages.append([node.node_id for node in found])
            after = pages[-1][-1]
        assert [len(one) for one in pages] == [10, 10, 5]
        assert {node_id for one in pages for node_id in one} == set(ids)

    async def test_only_what_fits(self, manager: HybridMemoryManager) -> None:
        await manager.store_many(
            "nick",
            [
                {"content": "a", "tags": ["x", "y"], "metadata": {"k": 1}, "thread_id": "t"},
                {"content": "b", "tags": ["x"], "context_type": "tool_output"},
                {"content": "c", "metadata": {"k": None}},
            ],
        )

        async def texts(**wanted: Any) -> set[str | None]:
            return {node.text for node in await manager.list_memories("nick", **wanted)}

        assert await texts(tags=["x"]) == await texts(tags="x") == {"a", "b"}
        assert await texts(tags=["x", "y"]) == {"a"}
        assert await texts(context_types=["tool_output"]) == await texts(context_types="tool_output") == {"b"}
        assert await texts(context_types="tool_output", tags="x") == {"b"}, "one name, as with recall"
        assert await texts(tags="xy") == set(), "one tag, not its letters"
        assert await texts(thread_id="t") == {"a"}
        assert await texts(metadata={"k": None}) == {"c"}, "null is a value, not the absence of one"
        with pytest.raises(UnknownMemory):
            await texts(after=str(uuid4()))


class TestLifecycle:
    def test_a_directory_is_no_settings(self) -> None:
        not_settings: Any = "data"
        with pytest.raises(ConfigurationError, match=r"must be a Settings, .* not 'data'"):
            HybridMemoryManager(not_settings)

    async def test_health_says_whether_postgres_answers(self, targets: Targets, proxy: FaultProxy) -> None:
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], command_timeout_seconds=0.5)
        manager = HybridMemoryManager(settings)
        seen = [manager.health().postgres]
        async with manager:
            seen.append(manager.health().postgres)
            proxy.black_hole()
            await manager.store_persistent_memory("nick", "x")
            await until(lambda: manager.health().postgres == "down", "the breaker opens")
            seen.append(manager.health().postgres)
            waiting = manager.health()
            proxy.heal()
            await until(lambda: manager.health().postgres == "up", "the breaker closes")
            await manager.store_persistent_memory("nick", "x")
            seen.append(manager.health().postgres)
            assert await manager.flush()
            assert manager.health().outbox_depth == 0
        assert seen == ["down", "up", "down", "up"]
        assert waiting.outbox_depth
        assert waiting.outbox_oldest_seconds is not None
        assert (waiting.breaker, waiting.quarantined) == ("open", 0)
        assert manager.health().outbox_depth is None

    async def test_the_first_call_starts_it_once(self, manager: HybridMemoryManager) -> None:
        await asyncio.gather(*(manager.store_persistent_memory("nick", str(number)) for number in range(20)))
        assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 20

    async def test_a_closed_manager_says_so_and_can_be_started_again(self, manager: HybridMemoryManager) -> None:
        await manager.start()
        await manager.aclose()
        with pytest.raises(StorageUnavailable, match="closed"):
            await manager.ensure_user_memories("nick")
        await manager.start()
        assert await manager.flush()

    async def test_one_that_is_closed_while_it_opens_stays_closed(
        self, manager: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closing: list[asyncio.Task[None]] = []

        def close_it(event: Event) -> None:
            if event.name == "unknown_setting":
                closing.append(asyncio.create_task(manager.aclose()))

        monkeypatch.setenv("HYBRID_MEMORY_NONSENSE", "told of when it begins to open")
        manager.events.add_hook(close_it)
        with pytest.raises(StorageUnavailable, match="closed"):
            await manager.start()
        await closing[0]
        assert manager.health().postgres == "down"
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("hybrid-memory")] == []

    async def test_one_that_is_started_again_while_it_opens_is_opened_once(
        self, manager: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again: list[asyncio.Task[None]] = []

        async def start_again() -> None:
            await manager.aclose(0)
            await manager.start()

        def begin(event: Event) -> None:
            if event.name == "unknown_setting" and not again:
                again.append(asyncio.create_task(start_again()))

        monkeypatch.setenv("HYBRID_MEMORY_NONSENSE", "told of when it begins to open")
        manager.events.add_hook(begin)
        with pytest.raises(StorageUnavailable, match="closed"):
            await manager.start()
        await again[0]
        assert await manager.flush()
        await manager.aclose()
        assert [task for task in asyncio.all_tasks() if task.get_name().startswith("hybrid-memory")] == []

    async def test_blocking_calls_on_its_own_loop_are_refused(self, manager: HybridMemoryManager) -> None:
        await manager.start()
        with pytest.raises(WrongThread):
            manager.blocking.ensure_user_memories("nick")
        answer = await asyncio.to_thread(manager.blocking.store_persistent_memory, "nick", "from a thread")
        assert await manager.get_node("nick", answer) is not None


@pytest.fixture
def plain(targets_outside: Targets) -> Iterator[HybridMemoryManager]:
    with HybridMemoryManager(settings_for(targets_outside)) as manager:
        yield manager


class TestWithoutAnEventLoop:
    def test_a_call_that_opens_it_is_answered_when_it_is_closed_meanwhile(
        self, targets_outside: Targets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opening = threading.Event()
        events = Events(lambda event: opening.set() if event.name == "unknown_setting" else None)
        monkeypatch.setenv("HYBRID_MEMORY_NONSENSE", "told of when it begins to open")
        manager = HybridMemoryManager(settings_for(targets_outside), events=events)
        with ThreadPoolExecutor(1) as other:
            asked = other.submit(manager.blocking.get_node, "nick", "x")
            assert opening.wait(10)
            asyncio.run(manager.aclose())
            with pytest.raises(StorageUnavailable, match="closed"):
                asked.result(10)

    def test_plain_code(self, plain: HybridMemoryManager) -> None:
        node_id = plain.blocking.store_persistent_memory("nick", "plain")
        assert plain.blocking.ensure_user_memories("nick").get_node(node_id).text == "plain"

    def test_several_loops_one_after_the_other(self, plain: HybridMemoryManager) -> None:
        ids = [asyncio.run(plain.store_persistent_memory("nick", str(number))) for number in range(3)]
        memory = asyncio.run(plain.ensure_user_memories("nick"))
        assert {node.node_id for node in memory.get_all_nodes()} == set(ids)

    # The connections of the ended loop are what this is about; Python complains when they go.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_loop_that_ended_without_closing_is_named(self, targets_outside: Targets) -> None:
        manager = HybridMemoryManager(settings_for(targets_outside))
        asyncio.run(manager.start())
        with pytest.raises(StorageUnavailable, match="the event loop that started this manager has ended"):
            manager.blocking.get_node("nick", "x")
        asyncio.run(manager.aclose())
        with manager:
            assert manager.blocking.get_node("nick", "x") is None
        gc.collect()

    def test_threads_together(self, plain: HybridMemoryManager) -> None:
        threads = [
            threading.Thread(target=plain.blocking.store_persistent_memory, args=("nick", f"from {number}"))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(plain.blocking.ensure_user_memories("nick").get_all_nodes()) == 8


def test_the_default_manager_closes_itself_at_the_end_of_the_process() -> None:
    """With the embedded server, which is gone after its last user."""
    program = """
import asyncio
from hybrid_memory import close_manager, ensure_user_memories, get_manager
async def session():
    await ensure_user_memories("nick")
    return await get_manager().store_persistent_memory("nick", "from the first loop")
node_id = asyncio.run(session())
assert asyncio.run(get_manager().get_node("nick", node_id)).text == "from the first loop"
assert get_manager() is get_manager()
first = get_manager()
asyncio.run(close_manager())
assert get_manager() is not first
assert asyncio.run(get_manager().get_node("nick", node_id)).text == "from the first loop"
print("done")
"""
    with tempfile.TemporaryDirectory(prefix="hm-", dir=memory()) as place:
        environment = {"HYBRID_MEMORY_DATA_DIR": place, "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
        server = EmbeddedServer(Path(place) / "postgres", Recorded())
        assert server.socket_directory() is None


def test_the_default_manager_is_closed_where_no_thread_can_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12 gives none at the end of a process."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setenv("HYBRID_MEMORY_DATA_DIR", str(tmp_path))
    manager = default.get_manager()
    manager.store_transient_memory("t", "noted")
    monkeypatch.setattr(threading.Thread, "start", refused)
    default._close_at_exit()
    assert manager._state.opened is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"thread_id": ""}, "thread_id"),
        ({"thread_id": "a\0b"}, "thread_id"),
        ({"thread_id": 7}, "thread_id"),
        ({"content": math.nan}, "content"),
        ({"content": {"deep": [object()]}}, "content"),
        ({"content": "half of a pair: \ud800"}, "content"),
        ({"metadata": {"x": math.inf}}, "metadata"),
        ({"importance": 1.5}, "importance"),
        ({"importance": math.nan}, "importance"),
        ({"confidence": -0.1}, "confidence"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": 1e300}, "expires_in"),
        ({"node_id": ""}, "node_id"),
        ({"summary": "\ud800"}, "summary"),
        ({"relates_to": [""]}, "relates_to"),
        ({"depends_on": ["a\0b"]}, "depends_on"),
    ],
)
def test_a_note_that_cannot_be_stored_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], named: str) -> None:
    manager = HybridMemoryManager(Settings.without_environment(data_dir=tmp_path))
    with pytest.raises(InvalidInput, match=f"^{named}\\b"):
        manager.store_transient_memory(**{"thread_id": "t", "content": "x"} | arguments)
    assert manager.transient_memories("t") == []
    asyncio.run(manager.aclose())
