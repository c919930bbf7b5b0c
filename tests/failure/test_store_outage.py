"""The store while Postgres is away: what works, what says that it cannot, and what arrives."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import GetOp, PutOp

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy
from tests.support.servers import administration
from tests.support.waiting import until

NICK = ("memories", "nick")


@pytest.fixture
def through(proxy: FaultProxy, targets: Targets, tmp_path: Path) -> Settings:
    reached = proxy.targets(targets)
    return settings_for(reached, postgres_port=reached.runtime.ports[0], data_dir=tmp_path, max_staleness_seconds=60)


@pytest.fixture
async def manager(through: Settings) -> AsyncIterator[HybridMemoryManager]:
    async with HybridMemoryManager(through) as manager:
        yield manager


async def away(proxy: FaultProxy, manager: HybridMemoryManager) -> None:
    proxy.reset()
    await manager.store_persistent_memory("whoever notices", "it is away")
    await until(lambda: manager.health().breaker == "open", "the breaker opens")


async def values(manager: HybridMemoryManager, **wanted: Any) -> dict[str, Any]:
    return {item.key: item.value["n"] for item in await manager.store.asearch(NICK, **wanted)}


async def stored(targets: Targets) -> dict[str, int]:
    async with administration(targets) as connection:
        rows = await connection.fetch(
            "select key, (content ->> 'n')::int as n from memory.nodes where user_id = 'nick'"
        )
    return {row["key"]: row["n"] for row in rows}


async def test_writes_show_at_once_outlive_the_process_and_arrive(
    through: Settings, proxy: FaultProxy, targets: Targets
) -> None:
    async with HybridMemoryManager(through) as first:
        await first.store.abatch([PutOp(NICK, "kept", {"n": 1}), PutOp(NICK, "gone", {"n": 2})])
        assert await values(first) == {"kept": 1, "gone": 2}
        await away(proxy, first)
        await first.store.aput(NICK, "kept", {"n": 3})
        await first.store.adelete(NICK, "gone")
        await first.store.aput(NICK, "new", {"n": 4}, ttl=60)
        assert await values(first) == {"kept": 3, "new": 4}
        assert await values(first, filter={"n": {"$gt": 3}}) == {"new": 4}
        item: Any = await first.store.aget(NICK, "new")
        assert item.version is None
        assert await first.store.aget(NICK, "gone") is None
        assert await first.store.alist_namespaces(prefix=NICK) == [NICK]
        many = await first.store.abatch([GetOp(NICK, key) for key in ("kept", "gone", "new")])
        assert [one is None for one in many] == [False, True, False]
    async with HybridMemoryManager(through) as second:
        assert await values(second) == {"kept": 3, "new": 4}
        assert (await second.store.aget(NICK, "kept")) is not None
        proxy.heal()
        assert await second.flush(20)
        assert await stored(targets) == {"kept": 3, "new": 4}
        assert await values(second) == {"kept": 3, "new": 4}


async def test_what_has_to_be_current_says_that_it_cannot(
    through: Settings, proxy: FaultProxy, manager: HybridMemoryManager, targets: Targets
) -> None:
    await manager.store.aput(NICK, "key", {"n": 1})
    await manager.store.asearch(NICK)
    item: Any = await manager.store.aget(NICK, "key")
    await away(proxy, manager)
    strong = HybridMemoryManager(through.model_copy(update={"store_freshness": "strong"}))
    calls: list[Callable[[], Any]] = [
        partial(manager.store.aput_if_version, NICK, "key", {"n": 2}, item.version),
        partial(manager.store.aput_if_version, NICK, "new", {"n": 2}, None),
        partial(manager.store.asearch, ()),
        partial(strong.store.aget, NICK, "key"),
        partial(strong.store.asearch, NICK),
        partial(strong.store.alist_namespaces, prefix=NICK),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailable):
            await call()
    proxy.heal()
    assert await manager.flush(20)
    await strong.aclose()
    assert await stored(targets) == {"key": 1}, "nothing that was refused was kept for later"
    await until(lambda: manager.health().breaker == "closed", "the breaker closes")
    assert await manager.store.aput_if_version(NICK, "key", {"n": 2}, item.version) is not None


async def test_versions_are_not_compared_past_writes_that_wait(
    manager: HybridMemoryManager, proxy: FaultProxy, targets: Targets
) -> None:
    """One that waits would be applied after the comparison."""
    await manager.store.aput(NICK, "key", {"n": 1})
    item: Any = await manager.store.aget(NICK, "key")
    await away(proxy, manager)
    await manager.store.aput(NICK, "key", {"n": 2})
    proxy.heal()
    await until(lambda: manager.health().breaker == "closed", "the breaker closes")
    try:
        done = await manager.store.aput_if_version(NICK, "key", {"n": 3}, item.version)
    except StorageUnavailable:
        done = None
    assert done is None
    assert await manager.flush(20)
    assert await stored(targets) == {"key": 2}


async def test_a_lost_answer_leaves_a_comparison_unknown_and_nothing_queued(
    manager: HybridMemoryManager, proxy: FaultProxy, targets: Targets
) -> None:
    await manager.store.aput(NICK, "key", {"n": 1})
    item: Any = await manager.store.aget(NICK, "key")
    proxy.black_hole("to_client")
    with pytest.raises(StorageUnavailable) as refused:
        await manager.store.aput_if_version(NICK, "key", {"n": 2}, item.version)
    assert refused.value.outcome_unknown
    proxy.reset()
    proxy.heal()
    assert await manager.flush(20)
    assert manager.health().quarantined == 0
    assert (await stored(targets))["key"] in (1, 2)
