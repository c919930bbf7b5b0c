"""Users move from `state.db` to Postgres: exactly, however often it is tried, and shown all the time."""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hybrid_memory import HybridMemoryManager, Settings, UserMemory
from hybrid_memory.cli import app
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.memory.homes import within
from hybrid_memory.postgres.target import Targets
from tests.support.managers import environment_of, run_job, settings_for
from tests.support.moving import fill, in_postgres, kept, local
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.waiting import until


@pytest.fixture
def through(proxy: FaultProxy, targets: Targets) -> Settings:
    """The way to Postgres that fails on command."""
    reached = proxy.targets(targets)
    return settings_for(reached, postgres_port=reached.runtime.ports[0])


async def test_everything_is_there_afterwards_as_it_was(targets: Targets, events: Recorded) -> None:
    async with HybridMemoryManager(local()) as manager:
        ids = await fill(manager)
    async with HybridMemoryManager(local()) as manager:
        before = kept(await manager.ensure_user_memories("nick"))
        stats = await manager.user_stats("nick")
    async with HybridMemoryManager(settings_for(targets), events=events) as manager:
        assert kept(await manager.ensure_user_memories("nick")) == before
        assert await manager.flush(20)
        assert manager.health().outbox_depth == 0
        memory = await manager.ensure_user_memories("nick")
        assert kept(memory) == before
        assert await manager.get_node("nick", ids["gone"]) is None
    assert len(await in_postgres(targets)) == len(memory.get_all_nodes()) + 1  # with the stub
    assert events.named("local_memories_uploaded")
    async with HybridMemoryManager(settings_for(targets, data_dir="elsewhere")) as elsewhere:
        assert kept(await elsewhere.ensure_user_memories("nick")) == before
        again = await elsewhere.user_stats("nick")
        assert (again.by_context_type, again.total_accesses) == (stats.by_context_type, stats.total_accesses)
    (vector,) = await in_postgres(targets, "embeddings")
    assert str(vector["node_id"]) == ids["tea"]
    assert (vector["model"], vector["dimensions"]) == ("given", 3)
    assert ids["gone"] in {str(row["node_id"]) for row in await in_postgres(targets, "tombstones")}


async def test_there_and_back_and_there_again_counts_everything_once(targets: Targets) -> None:
    async with HybridMemoryManager(local()) as manager:
        ids = await fill(manager)
    async with HybridMemoryManager(settings_for(targets)) as manager:
        assert await manager.flush(20)
        await manager.store_persistent_memory("eve", "somebody else")
        await manager.get_node("nick", ids["plan"])
        account = await manager.store_entity(
            "nick", entity_id="1", entity_system="crm", entity_type="account", entity_name="GenePoint", data={"c": 4}
        )
        await manager.user_stats("nick")
        assert await manager.download() == 2
    async with HybridMemoryManager(settings_for(targets, data_dir="elsewhere")) as elsewhere:
        there = kept(await elsewhere.ensure_user_memories("nick"))
    async with HybridMemoryManager(local()) as manager:
        memory = await manager.ensure_user_memories("nick")
        assert kept(memory) == there
        assert [node.text for node in (await manager.ensure_user_memories("eve")).get_all_nodes()] == ["somebody else"]
        await manager.store_entity(
            "nick", entity_id="1", entity_system="crm", entity_type="account", entity_name="GenePoint", data={"d": 5}
        )
        await manager.get_node("nick", ids["plan"])
        await manager.forget("nick", ids["tea"])
        new = await manager.store_persistent_memory("nick", "told without Postgres", relates_to=[account])
    async with HybridMemoryManager(local()) as manager:
        here = kept(await manager.ensure_user_memories("nick"))
    async with HybridMemoryManager(settings_for(targets)) as manager:
        assert await manager.flush(20)
        assert kept(await manager.ensure_user_memories("nick")) == here
    async with HybridMemoryManager(settings_for(targets, data_dir="elsewhere")) as elsewhere:
        memory = await elsewhere.ensure_user_memories("nick")
        assert kept(memory) == here
        entity, plan = memory.get_node(account), memory.get_node(ids["plan"])
        assert entity is not None
        assert plan is not None
        assert entity.content["update_count"] == 4
        assert entity.content["entity_data"] == {"a": 1, "b": 3, "c": 4, "d": 5}
        assert plan.access_count == 4
        assert memory.get_node(ids["tea"]) is None
        assert memory.get_node(new) is not None


async def test_what_is_written_while_a_user_moves_is_there(targets: Targets, events: Recorded) -> None:
    async with HybridMemoryManager(local()) as manager:
        await manager.store_many("nick", [{"content": f"fact {number}"} for number in range(700)])
    async with HybridMemoryManager(settings_for(targets), events=events) as manager:
        memory = await manager.ensure_user_memories("nick")
        ids, number = [], 0
        while not events.named("local_memories_uploaded"):
            ids.append(await manager.store_persistent_memory("nick", f"meanwhile {number}"))
            assert memory.get_node(ids[-1]) is not None
            number += 1
        ids.append(await manager.store_persistent_memory("nick", "afterwards"))
        assert memory.get_node(ids[-1]) is not None
        assert await manager.flush(20)
    assert {str(row["node_id"]) for row in await in_postgres(targets)} >= set(ids)
    assert len(await in_postgres(targets)) == 700 + len(ids)


async def test_while_postgres_is_away_the_user_stays_here(
    targets: Targets, proxy: FaultProxy, through: Settings
) -> None:
    async with HybridMemoryManager(local()) as manager:
        await fill(manager)
    async with HybridMemoryManager(local()) as manager:
        before = kept(await manager.ensure_user_memories("nick"))
    proxy.reset()
    async with HybridMemoryManager(through) as manager:
        with pytest.raises(StorageUnavailable):
            await manager.upload()
        memory = await manager.ensure_user_memories("nick")
        assert (kept(memory), memory.stale) == (before, False)
        await manager.store_persistent_memory("nick", "told meanwhile")
        proxy.heal()
        assert await manager.flush(20)
    assert len(await in_postgres(targets)) == len(before[0]) + 2


def expired(memory: UserMemory, node_id: str) -> bool:
    return memory.peek(node_id) is None


class TestRollOut:
    async def test_a_percentage_is_stable_and_grows(self) -> None:
        users = [f"user {number}" for number in range(10_000)]
        shares = [{user for user in users if within(percent)(user)} for percent in (0, 10, 50, 100)]
        assert [round(len(share) / 1000) for share in shares] == [0, 1, 5, 10]
        assert shares[0] < shares[1] < shares[2] < shares[3]

    async def test_others_stay_here_until_they_join(self, targets: Targets) -> None:
        joined = {"nick"}
        settings = settings_for(targets)
        async with HybridMemoryManager(settings, persist_user=joined.__contains__) as manager:
            await manager.store_persistent_memory("nick", "in Postgres")
            eves = await fill(manager, "eve")
            assert await manager.flush(20)
            assert {row["user_id"] for row in await in_postgres(targets)} == {"nick"}
            assert (await manager.user_stats("eve")).entity_count == 2
            before = kept(await manager.ensure_user_memories("eve"))
            joined.add("eve")
            assert await manager.upload() == 1
            memory = await manager.ensure_user_memories("eve")
            assert kept(memory)[0].keys() == before[0].keys()
            await manager.store_persistent_memory("eve", "told afterwards")
            assert await manager.flush(20)
        rows = await in_postgres(targets)
        assert eves["tea"] in {str(row["node_id"]) for row in rows}
        assert {row["user_id"] for row in rows} == {"nick", "eve"}

    async def test_each_process_sweeps_who_is_at_home_there(self, targets: Targets, tmp_path: Path) -> None:
        places = [settings_for(targets, rollout_percent=0, data_dir=tmp_path / name) for name in ("one", "two")]
        async with HybridMemoryManager(places[0]) as one, HybridMemoryManager(places[1]) as two:
            for manager in (one, two):
                soon = await manager.store_persistent_memory("nick", "soon", expires_in=timedelta(seconds=0.02))
                memory = await manager.ensure_user_memories("nick")
                await until(partial(expired, memory, soon), "it has expired")
                assert await run_job(manager, "sweep")
                left = manager._state.database().read_blocking(
                    lambda sql: sql.connection.execute("select count(*) from local_nodes").get
                )
                assert left == 0

    async def test_who_is_in_postgres_stays_there(self, targets: Targets) -> None:
        async with HybridMemoryManager(settings_for(targets)) as manager:
            await manager.store_persistent_memory("nick", "before")
        async with HybridMemoryManager(settings_for(targets, rollout_percent=0)) as manager:
            await manager.store_persistent_memory("nick", "after")
            await manager.store_persistent_memory("eve", "new here")
            assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 2
        assert {row["user_id"] for row in await in_postgres(targets)} == {"nick"}


async def test_what_waited_for_postgres_is_shown_here_and_sent_there_once(proxy: FaultProxy, through: Settings) -> None:
    report: dict[str, Any] = {"entity_id": "1", "entity_system": "crm", "entity_type": "account", "entity_name": "Gene"}
    async with HybridMemoryManager(through) as manager:
        kept_id = await manager.store_persistent_memory("nick", "committed")
        proxy.reset()
        account = await manager.store_entity("nick", **report, data={"a": 1})
        gone = await manager.store_persistent_memory("nick", "queued and forgotten later")
        await manager.store_persistent_memory("nick", "queued", relates_to=[account])
    for _ in range(2):
        async with HybridMemoryManager(local()) as manager:
            memory = await manager.ensure_user_memories("nick")
            assert memory.get_node(kept_id) is None  # nobody fetched it
            assert len(memory.get_all_nodes()) == 3 - (memory.get_node(gone) is None)
            await manager.store_entity("nick", **report, data={"b": 2})
            await manager.forget("nick", gone)
            assert not await manager.flush(0.2)
    proxy.heal()
    async with HybridMemoryManager(through) as manager:
        assert await manager.flush(20)
        memory = await manager.ensure_user_memories("nick")
        assert {node.text for node in memory.get_all_nodes() if node.context_type != "domain_entity"} == {
            "committed",
            "queued",
        }
        entity = memory.get_node(account)
        assert entity is not None
        assert entity.content["update_count"] == 3
        assert entity.content["entity_data"] == {"a": 1, "b": 2}
        assert len(memory.get_all_edges()) == 1


def test_the_commands_move_and_copy(targets_outside: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(settings_for(targets_outside, memory_type="sqlite")).items():
        monkeypatch.setenv(name, value)
    with HybridMemoryManager(local()) as manager:
        manager.blocking.store_many("nick", [{"content": f"fact {number}"} for number in range(300)])
    # The manager of the command may have moved them before it was asked to.
    assert "Postgres" in _output("upload")
    assert "1 user(s) are in state.db now" in _output("download", "--user", "nick")
    with HybridMemoryManager(local()) as manager:
        assert len(manager.blocking.ensure_user_memories("nick").get_all_nodes()) == 300
    assert "nobody is left" in _output("upload")


def _output(*arguments: str) -> str:
    finished = CliRunner().invoke(app, list(arguments))
    assert finished.exit_code == 0, finished.output
    return finished.output
