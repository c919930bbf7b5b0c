"""Items that expire."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from langgraph.store.base import BaseStore

from hybrid_memory.testing.subject import Namespace, Subject, on_store

# Minutes: a little less than a second.
SHORT = 0.015
LONG = 60.0
_SECONDS = 60 * SHORT


@pytest.fixture(autouse=True)
def _expires(subject: Subject) -> None:
    if not subject.store.supports_ttl:
        pytest.skip("the store has no expiry")


async def _gone(there: Callable[[], Awaitable[object]]) -> None:
    """Wait until nothing is there."""
    deadline = time.monotonic() + 2 * _SECONDS + 2
    while await there():
        assert time.monotonic() < deadline, "still there"
        await asyncio.sleep(_SECONDS / 10)


@on_store
async def test_what_has_expired_is_not_given(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "short", {"a": 1}, ttl=SHORT)
    await store.aput(root, "long", {"a": 1}, ttl=LONG)
    await store.aput((*root, "below"), "short", {"a": 1}, ttl=SHORT)
    assert await store.aget(root, "short", refresh_ttl=False) is not None
    await _gone(lambda: store.aget(root, "short", refresh_ttl=False))
    await _gone(lambda: store.aget((*root, "below"), "short", refresh_ttl=False))
    assert [item.key for item in await store.asearch(root, refresh_ttl=False)] == ["long"]
    assert await store.alist_namespaces(prefix=root) == [root]
    assert len(await store.asearch(root, limit=1, refresh_ttl=False)) == 1


@on_store
async def test_reading_puts_it_off(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "got", {"a": 1}, ttl=SHORT)
    await store.aput((*root, "b"), "searched", {"a": 1}, ttl=SHORT)
    end = time.monotonic() + 2 * _SECONDS
    while time.monotonic() < end:
        assert await store.aget(root, "got", refresh_ttl=True) is not None
        assert len(await store.asearch((*root, "b"), refresh_ttl=True)) == 1
        await asyncio.sleep(_SECONDS / 10)


@on_store
async def test_reading_without_refresh_does_not(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1}, ttl=SHORT)
    await _gone(lambda: store.aget(root, "key", refresh_ttl=False))


@on_store
async def test_reading_brings_nothing_back(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1}, ttl=SHORT)
    await _gone(lambda: store.aget(root, "key", refresh_ttl=False))
    assert await store.aget(root, "key", refresh_ttl=True) is None
    assert await store.asearch(root, refresh_ttl=True) == []


@on_store
async def test_putting_again_decides_anew(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "kept", {"a": 1}, ttl=SHORT)
    await store.aput(root, "kept", {"a": 2}, ttl=None)
    await store.aput(root, "short", {"a": 1}, ttl=LONG)
    await store.aput(root, "short", {"a": 2}, ttl=SHORT)
    await _gone(lambda: store.aget(root, "short", refresh_ttl=False))
    assert await store.aget(root, "kept", refresh_ttl=False) is not None


@on_store
async def test_an_expired_item_can_be_put_again(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1}, ttl=SHORT)
    await _gone(lambda: store.aget(root, "key", refresh_ttl=False))
    await store.aput(root, "key", {"a": 2})
    item = await store.aget(root, "key")
    assert item is not None
    assert item.value == {"a": 2}
