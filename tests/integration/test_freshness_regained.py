"""Where keeping fresh goes wrong once, it is made up for: nobody stays behind until the next change or comparison."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, UserMemory
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.memory.freshness import COMPARE
from hybrid_memory.memory.loading import Loader
from hybrid_memory.postgres.link import Link
from tests.support.managers import run_job
from tests.support.waiting import until

Make = Callable[..., HybridMemoryManager]
# Long enough that nothing is seen because its time has come.
NEVER = {"max_staleness_seconds": 3600, "poll_interval_seconds": 3600}


def texts(memory: UserMemory) -> set[str]:
    return {str(node.text) for node in memory.get_all_nodes()}


@pytest.fixture
def writing(instance: Make) -> HybridMemoryManager:
    return instance(**NEVER)


@pytest.fixture
async def reading(instance: Make, writing: HybridMemoryManager) -> HybridMemoryManager:
    reading = instance(**NEVER)
    for manager in (writing, reading):
        await manager.start()
        await until(lambda: manager.health().listener == "listening", "it listens")  # noqa: B023 - asked at once
    return reading


async def test_a_comparison_does_not_take_what_was_read_before_it_for_its_answer(
    writing: HybridMemoryManager, instance: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = instance(listen=False, **NEVER)
    await reading.start()
    memory = await reading.ensure_user_memories("nick")
    changes, has_read, goes_on = Loader.changes, asyncio.Event(), asyncio.Event()

    async def late(loader: Loader, *arguments: Any, **keywords: Any) -> Any:
        answer = await changes(loader, *arguments, **keywords)
        has_read.set()
        await goes_on.wait()
        return answer

    monkeypatch.setattr(Loader, "changes", late)
    parts = await reading._ready()
    before = asyncio.create_task(parts.sessions.current("nick"))
    await has_read.wait()
    await writing.store_persistent_memory("nick", "news")
    await run_job(reading, COMPARE)
    goes_on.set()
    await before
    await until(lambda: not parts.freshness._looking, "nobody is to be looked at")
    assert texts(memory) == {"news"}


@pytest.mark.hears
async def test_news_that_could_not_be_read_are_asked_for_again(
    writing: HybridMemoryManager, reading: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = await reading.ensure_user_memories("nick")
    changes, failures = Loader.changes, iter(range(3))

    async def refused(loader: Loader, *arguments: Any, **keywords: Any) -> Any:
        if next(failures, None) is not None:
            raise StorageUnavailable("no answer")
        return await changes(loader, *arguments, **keywords)

    monkeypatch.setattr(Loader, "changes", refused)
    await writing.store_persistent_memory("nick", "news")
    await until(lambda: texts(memory) == {"news"}, "the news are shown")
    assert not memory.stale


@pytest.mark.hears
async def test_what_could_not_be_loaded_is_loaded_without_being_asked_for_again(
    writing: HybridMemoryManager, reading: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await writing.store_persistent_memory("nick", "there")

    async def refused(*_: Any, **__: Any) -> Any:
        raise StorageUnavailable("no answer")

    with monkeypatch.context() as away:
        away.setattr(Loader, "everything", refused)
        memory = await reading.ensure_user_memories("nick")
        assert memory.stale
    assert await run_job(reading, COMPARE)
    await until(lambda: texts(memory) == {"there"}, "it is loaded")


@pytest.mark.hears
async def test_news_that_could_not_be_told_are_told_later(
    writing: HybridMemoryManager, reading: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = await reading.ensure_user_memories("nick")
    call, failures = Link.call, iter(range(2))

    async def deaf(link: Link, name: str, /, **values: Any) -> Any:
        if name == "changes.notify" and next(failures, None) is not None:
            raise StorageUnavailable("no answer")
        return await call(link, name, **values)

    monkeypatch.setattr(Link, "call", deaf)
    await writing.store_persistent_memory("nick", "news")
    await until(lambda: texts(memory) == {"news"}, "the news are shown")
