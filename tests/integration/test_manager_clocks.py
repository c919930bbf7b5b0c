"""Machines whose clocks differ: whoever changes what he has read is not overruled by the one whose clock is ahead."""

import time

import pytest

from hybrid_memory import HybridMemoryManager


@pytest.fixture
async def slow(other: HybridMemoryManager) -> HybridMemoryManager:
    """A manager whose machine's clock is half a minute behind."""
    await other.start()
    assert other._parts is not None
    other._parts.writer.postgres._clock._wall = lambda: time.time() - 30
    return other


async def test_a_clock_that_is_behind_does_not_lose_a_change(
    manager: HybridMemoryManager, slow: HybridMemoryManager
) -> None:
    node_id = await manager.store_persistent_memory("nick", "one")
    assert (await slow.update_memory("nick", node_id, content="two")).text == "two"
    assert (await manager.update_memory("nick", node_id, content="three")).text == "three"
    assert await slow.forget("nick", node_id)
    assert (await manager.ensure_user_memories("nick")).get_all_nodes() == []


@pytest.mark.parametrize("first", ["loads", "follows"])
async def test_nor_what_is_stored_after_a_deletion_that_was_read(
    manager: HybridMemoryManager, slow: HybridMemoryManager, first: str
) -> None:
    if first == "follows":
        await slow.ensure_user_memories("nick")
    await manager.store_persistent_memory("nick", "one", node_id="plan")
    await manager.forget("nick", "plan")
    assert (await slow.ensure_user_memories("nick")).get_all_nodes() == []
    await slow.store_persistent_memory("nick", "two", node_id="plan")
    assert [node.text for node in (await manager.ensure_user_memories("nick")).get_all_nodes()] == ["two"]
