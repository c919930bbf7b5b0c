"""With and without `await`, from threads, together, and given up."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from langgraph.store.base import BaseStore

from hybrid_memory.testing.subject import Namespace, on_store

SECONDS = 10.0


@on_store
async def test_a_thread_needs_no_await(store: BaseStore, root: Namespace) -> None:
    def work() -> None:
        store.put(root, "key", {"a": 1})
        item = store.get(root, "key")
        assert item is not None
        assert item.value == {"a": 1}
        assert [one.key for one in store.search(root)] == ["key"]
        assert store.list_namespaces(prefix=root) == [root]
        store.delete(root, "key")
        assert store.get(root, "key") is None

    await asyncio.to_thread(work)


@on_store
async def test_many_threads_at_once(store: BaseStore, root: Namespace) -> None:
    def work(place: int) -> bool:
        store.put(root, f"key {place}", {"place": place})
        item = store.get(root, f"key {place}")
        return item is not None and item.value == {"place": place}

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(8) as pool:
        assert all(await asyncio.gather(*(loop.run_in_executor(pool, work, place) for place in range(40))))
    assert len(await store.asearch(root, limit=100)) == 40


@on_store
async def test_a_call_without_await_on_the_loop_answers_or_is_refused(store: BaseStore, root: Namespace) -> None:
    """What it must not do is wait for itself."""
    for call in (store.get, store.delete):
        try:
            call(root, "key")
        except asyncio.InvalidStateError:
            continue
    await store.aput(root, "after", {"a": 1})


@on_store
async def test_many_tasks_at_once(store: BaseStore, root: Namespace) -> None:
    async def work(place: int) -> None:
        key = f"key {place % 10}"
        await store.aput((*root, str(place % 7)), key, {"place": place})
        await store.asearch(root, limit=5)
        item = await store.aget((*root, str(place % 7)), key)
        assert item is not None
        assert item.value["place"] % 10 == place % 10

    await asyncio.gather(*(work(place) for place in range(100)))


@on_store
async def test_a_caller_who_gives_up_harms_nobody(store: BaseStore, root: Namespace) -> None:
    given_up = [asyncio.ensure_future(store.aput(root, f"given up {place}", {"a": 1})) for place in range(5)]
    kept = [asyncio.ensure_future(store.aput(root, f"kept {place}", {"a": 1})) for place in range(5)]
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*kept)
        await asyncio.gather(*given_up, return_exceptions=True)
        assert [await store.aget(root, f"kept {place}") is not None for place in range(5)] == [True] * 5


@on_store
async def test_what_is_not_offered_is_refused(store: BaseStore, root: Namespace) -> None:
    if store.supports_ttl:
        await store.aput(root, "key", {"a": 1}, ttl=60)
    else:
        with pytest.raises(NotImplementedError):
            await store.aput(root, "key", {"a": 1}, ttl=60)
