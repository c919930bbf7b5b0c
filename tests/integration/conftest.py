"""Managers for the tests, closed at their end."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.recording import Recorded


@pytest.fixture
async def instance(targets: Targets) -> AsyncIterator[Callable[..., HybridMemoryManager]]:
    """Makes managers on one database, closed at the end; each is an instance of its own."""
    async with AsyncExitStack() as stack:

        def make(**keywords: Any) -> HybridMemoryManager:
            own = {name: keywords.pop(name, None) for name in ("events", "embedder")}
            manager = HybridMemoryManager(settings_for(targets, **keywords), **own)
            stack.push_async_callback(manager.aclose)
            return manager

        yield make


@pytest.fixture
def manager(instance: Callable[..., HybridMemoryManager], events: Recorded) -> HybridMemoryManager:
    return instance(events=events)


@pytest.fixture
def other(instance: Callable[..., HybridMemoryManager]) -> HybridMemoryManager:
    return instance()
