"""`MEMORY_TYPE=sqlite`: what is tested of the manager elsewhere, once more without Postgres, and what differs."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from hybrid_memory import HybridMemoryManager
from hybrid_memory.cli import app
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.postgres.target import Targets
from hybrid_memory.sqlite.connection import Statements
from tests.integration import test_agent_scenarios as scenarios, test_manager as usual, test_tool_outputs as outputs
from tests.support.embedders import Words
from tests.support.managers import run_job, settings_for
from tests.support.moving import fill, in_postgres, kept, local
from tests.support.recording import Recorded
from tests.support.waiting import until

TestWritingAndFinding = usual.TestWritingAndFinding
TestUsersApart = usual.TestUsersApart
TestEntities = usual.TestEntities
TestNotes = usual.TestNotes
TestPages = usual.TestPages
TestNames = outputs.TestNames


class TestTheSame(usual.TestTheSameAgain):
    test_an_identical_memory_gives_the_id_that_is_there_and_counts = None  # type: ignore[assignment] # asks Postgres


class TestScenarios(scenarios.TestConversations):
    pass


@pytest.fixture
async def instance() -> AsyncIterator[Callable[..., HybridMemoryManager]]:
    """Makes managers on one directory, closed at the end; each is an instance of its own."""
    async with AsyncExitStack() as stack:

        def make(**keywords: Any) -> HybridMemoryManager:
            events = keywords.pop("events", None)
            manager = HybridMemoryManager(local(**keywords), events=events)
            stack.push_async_callback(manager.aclose)
            return manager

        yield make


def age(manager: HybridMemoryManager, ids: Sequence[str], days: float) -> None:
    """As if these had been written earlier."""
    earlier = datetime.now(UTC) - timedelta(days=days)

    def job(sql: Statements) -> None:
        for node_id in ids:
            sql.connection.execute(
                "update local_nodes set updated_at = ?, checksum = row_checksum('local_nodes', user_id, node_id,"
                " context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,"
                " thread_id, seq, namespace, key, version, written_at, written_by, created_at, ?, last_accessed_at,"
                " access_count, expires_at, content_hash, field_clocks) where node_id = ?",
                (int(earlier.timestamp() * 1e6), int(earlier.timestamp() * 1e6), node_id),
            )

    manager._state.database().write_blocking(job)


async def test_everything_outlives_the_process(manager: HybridMemoryManager, other: HybridMemoryManager) -> None:
    await manager.start()
    ids = await fill(manager)
    await manager.aclose()
    memory = await other.ensure_user_memories("nick")
    assert (memory.stale, memory.get_node(ids["gone"])) == (False, None)
    assert [turn["content"] for turn in await other.get_context("nick", "t1")] == [
        "turn 0", "turn 1, corrected", "turn 2",
    ]  # fmt: skip
    stats = await other.user_stats("nick")
    assert stats.node_count == len(memory.get_all_nodes())
    assert stats.relationship_count == len(memory.get_all_edges())
    assert (stats.entity_count, stats.total_accesses, stats.views_age) == (2, 3, None)
    assert stats.by_context_type["conversation_message"] == 3
    assert not await other.refresh_stats()
    await manager.start()
    assert kept(await manager.ensure_user_memories("nick")) == kept(memory)


async def test_nothing_is_started_and_health_says_so(manager: HybridMemoryManager, events: Recorded) -> None:
    await manager.start()
    await manager.store_persistent_memory("nick", "a fact")
    health = manager.health()
    assert (health.postgres, health.mode, health.breaker, health.outbox_depth) == ("off", "sqlite", None, 0)
    assert await manager.flush()
    assert not [one.name for one in events.seen if "postgres" in one.name or "embedded" in one.name]
    with pytest.raises(ConfigurationError, match="MEMORY_TYPE=sqlite"):
        await manager.download()
    assert await manager.upload() == 0


async def test_what_is_old_goes_but_what_is_to_be_kept(
    manager: HybridMemoryManager, other: HybridMemoryManager
) -> None:
    ids = await manager.store_many("nick", [{"content": f"fact {number}"} for number in range(620)])
    kept_id = await manager.store_persistent_memory("nick", "kept", tags=["Important"], relates_to=[ids[0]])
    await manager.store_persistent_memory("nick", "young")
    theirs = await other.ensure_user_memories("nick")
    age(manager, [*ids, kept_id], days=10)
    done = await manager.cleanup(timedelta(days=5), user_id="nick")
    assert (done.memories, done.expired, done.relationships, done.users) == (620, 0, 1, 1)
    memory = await manager.ensure_user_memories("nick")
    assert {node.text for node in memory.get_all_nodes()} == {"kept", "young"}
    await other.ensure_user_memories("nick")
    assert kept(theirs)[0].keys() == kept(memory)[0].keys()
    stats = await manager.user_stats("nick")
    assert (stats.node_count, stats.relationship_count) == (2, 0)


async def test_what_has_expired_goes_by_itself(manager: HybridMemoryManager) -> None:
    soon = await manager.store_persistent_memory("nick", "soon", expires_in=timedelta(seconds=0.05))
    await manager.store_persistent_memory("nick", "later", expires_in=timedelta(days=1))
    memory = await manager.ensure_user_memories("nick")
    await until(lambda: memory.peek(soon) is None, "it has expired")
    assert await run_job(manager, "sweep")

    def rows(sql: Statements) -> set[str]:
        return {str(row[0]) for row in sql.connection.execute("select node_id from local_nodes")}

    there = manager._state.database().read_blocking(rows)
    assert len(there) == 1
    assert soon not in there


async def test_accesses_are_counted_by_all_processes(manager: HybridMemoryManager, other: HybridMemoryManager) -> None:
    node_id = await manager.store_persistent_memory("nick", "a fact")
    for _ in range(3):
        await manager.get_node("nick", node_id)
    await other.get_node("nick", node_id)
    assert await run_job(manager, "accesses")
    assert (await other.user_stats("nick")).total_accesses == 4


async def test_questions_are_answered_by_meaning_too(targets: Targets) -> None:
    async with HybridMemoryManager(local(), embedder=Words()) as manager:
        dog = await manager.store_persistent_memory("nick", "Rex is a dog")
        await manager.store_persistent_memory("nick", "the lorry is red")
        assert await manager.flush()
        assert [hit.node.text for hit in await manager.recall("nick", "puppy", limit=1)] == ["Rex is a dog"]
        await manager.update_memory("nick", dog, content="Rex is a bicycle")
        assert [hit.node.text for hit in await manager.recall("nick", "vehicle", limit=2)] != ["Rex is a dog"]
        assert await manager.flush()
    async with HybridMemoryManager(local(), embedder=(words := Words())) as manager:
        assert len(await manager.recall("nick", "lorry", limit=5)) == 2
        assert words.asked == ["lorry"], "what has its vector is not embedded again"
    async with HybridMemoryManager(settings_for(targets), embedder=(words := Words())) as manager:
        assert await manager.flush(20)
        assert len(await manager.recall("nick", "lorry", limit=5)) == 2
        assert words.asked == ["lorry"], "vectors come along"
    assert len(await in_postgres(targets, "embeddings")) == 2


async def test_a_store_is_there_too(manager: HybridMemoryManager, other: HybridMemoryManager) -> None:
    await manager.start()
    store = manager.store
    await store.aput(("memories", "nick"), "a", {"text": "likes tea"})
    await store.aput(("shared", "b"), "k", {"number": 1}, ttl=5)
    item = await other.store.aget(("memories", "nick"), "a")
    assert item is not None
    assert item.value == {"text": "likes tea"}
    assert [one.key for one in await other.store.asearch(("memories",), query="tea")] == ["a"]
    assert set(await other.store.alist_namespaces()) == {("memories", "nick"), ("shared", "b")}
    assert await other.store.aget(("shared", "b"), "k") is not None
    await store.adelete(("memories", "nick"), "a")
    assert await other.store.aget(("memories", "nick"), "a") is None


def test_the_command_says_where_everything_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_TYPE", "sqlite")
    with HybridMemoryManager(local()) as manager:
        manager.blocking.store_persistent_memory("nick", "a fact")
    done = CliRunner().invoke(app, ["status", "--json"])
    report = json.loads(done.output)
    assert (done.exit_code, report["mode"], report["postgres"]) == (0, "sqlite", {"state": "off"})
    assert "state.db" in report["local"]["files"]
    assert not list(manager.settings.data_dir.glob("postgres*"))
