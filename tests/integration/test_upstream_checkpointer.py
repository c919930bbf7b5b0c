"""`HYBRID_MEMORY_CHECKPOINTER=upstream`: the stock saver, opened and closed by the manager."""

import asyncio
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import ConfigurationError, StorageUnavailable
from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.version import is_vulnerable
from hybrid_memory.transfer.checkpoints import import_checkpoints
from tests.support.chats import counting
from tests.support.managers import settings_for
from tests.support.recording import Recorded
from tests.support.sqlite_guard import watched

CONFIG = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def upstream(targets: Targets, settings: Settings) -> Settings:
    return settings_for(targets, data_dir=settings.data_dir, checkpointer="upstream")


async def test_graphs_run_on_it_beside_our_own_file(upstream: Settings) -> None:
    with watched() as watch:
        async with HybridMemoryManager(upstream) as manager:
            assert isinstance(manager.checkpointer, AsyncSqliteSaver)
            graph = counting(manager.checkpointer)
            assert await graph.ainvoke({"left": 5}, CONFIG, durability="sync") == {"left": 0}
            manager.store_transient_memory("t", "a note")
            assert len([one async for one in graph.aget_state_history(CONFIG)]) == 7
    assert watch.seen == []
    file = upstream.data_dir / "upstream.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("select count(*) from checkpoints").fetchone() == (7,)


async def test_before_start_and_after_close_it_says_what_it_needs(upstream: Settings) -> None:
    manager = HybridMemoryManager(upstream)
    with pytest.raises(ConfigurationError, match=r"await manager\.start\(\)"):
        _ = manager.checkpointer
    await manager.start()
    first = manager.checkpointer
    assert manager.checkpointer is first
    await manager.aclose()
    with pytest.raises(ConfigurationError, match=r"await manager\.start\(\)"):
        _ = manager.checkpointer
    await manager.start()
    assert manager.checkpointer is not first
    await manager.aclose()


async def test_one_that_is_closed_while_it_opens_stays_closed(
    upstream: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = HybridMemoryManager(upstream)
    connect, closing_it, made = aiosqlite.connect, [], []

    def closed_meanwhile(path: Path) -> aiosqlite.Connection:
        closing_it.append(asyncio.create_task(manager.aclose()))
        made.append(connect(path))
        return made[0]

    monkeypatch.setattr(aiosqlite, "connect", closed_meanwhile)
    with pytest.raises(StorageUnavailable, match="closed"):
        await manager.start()
    await closing_it[0]
    with pytest.raises(ConfigurationError, match=r"await manager\.start\(\)"):
        _ = manager.checkpointer
    assert len(made) == 1


def test_with_a_plain_manager_it_runs_on_the_managers_loop(targets_outside: Targets, settings: Settings) -> None:
    plain = settings_for(targets_outside, data_dir=settings.data_dir, checkpointer="upstream")
    for _ in range(2):
        with HybridMemoryManager(plain) as manager:
            assert counting(manager.checkpointer).invoke({"left": 3}, CONFIG) == {"left": 0}


async def test_many_first_calls_open_it_once(upstream: Settings) -> None:
    manager = HybridMemoryManager(upstream)
    await manager.start()
    savers = await asyncio.gather(*(_saver_after_a_call(manager, f"user {number}") for number in range(8)))
    assert len({id(saver) for saver in savers}) == 1
    await manager.aclose()


async def _saver_after_a_call(manager: HybridMemoryManager, user: str) -> object:
    await manager.ensure_user_memories(user)
    return manager.checkpointer


async def test_a_file_that_is_none_is_an_error_at_start(upstream: Settings) -> None:
    upstream.data_dir.mkdir(parents=True)
    (upstream.data_dir / "upstream.db").write_text("no database at all " * 1000)
    manager = HybridMemoryManager(upstream)
    with pytest.raises(StorageUnavailable, match=r"upstream\.db cannot be used: file is not a database"):
        await manager.start()
    await manager.aclose()


async def test_an_old_sqlite_is_reported(upstream: Settings, events: Recorded) -> None:
    async with HybridMemoryManager(upstream, events=events):
        reported = events.named("upstream_sqlite_is_old")
    assert bool(reported) is is_vulnerable(sqlite3.sqlite_version)


async def test_its_threads_can_be_imported(upstream: Settings) -> None:
    async with HybridMemoryManager(upstream) as manager:
        await counting(manager.checkpointer).ainvoke({"left": 5}, CONFIG)
    import_checkpoints(upstream.data_dir / "upstream.db", upstream)
    async with HybridMemoryManager(upstream.model_copy(update={"checkpointer": "hybrid"})) as manager:
        assert (await counting(manager.checkpointer).aget_state(CONFIG)).values == {"left": 0}
