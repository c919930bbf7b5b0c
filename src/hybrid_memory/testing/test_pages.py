"""Order and pages of a search without a question."""

from langgraph.store.base import BaseStore

from hybrid_memory.testing.subject import Namespace, on_store

MANY = 13


async def _filled(store: BaseStore, root: Namespace) -> list[str]:
    """Some items, and their keys with the last put first."""
    for place in range(MANY):
        await store.aput(root, f"key {place:02}", {"place": place, "even": place % 2 == 0})
    return [f"key {place:02}" for place in reversed(range(MANY))]


@on_store
async def test_what_changed_last_comes_first(store: BaseStore, root: Namespace) -> None:
    keys = await _filled(store, root)
    await store.aput(root, "key 04", {"place": 4, "even": True})
    keys.remove("key 04")
    assert [item.key for item in await store.asearch(root, limit=MANY)] == ["key 04", *keys]


@on_store
async def test_every_item_is_on_one_page(store: BaseStore, root: Namespace) -> None:
    keys = await _filled(store, root)
    for size in (1, 2, 5, MANY, MANY + 1):
        pages = [await store.asearch(root, limit=size, offset=offset) for offset in range(0, MANY, size)]
        assert sorted(item.key for page in pages for item in page) == sorted(keys), size
    assert await store.asearch(root, limit=5, offset=MANY) == []


@on_store
async def test_pages_of_what_passes_a_filter(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    pages = [await store.asearch(root, filter={"even": True}, limit=3, offset=offset) for offset in (0, 3, 6)]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({item.key for page in pages for item in page}) == 7


@on_store
async def test_ten_is_a_page_and_none_is_nothing(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    assert len(await store.asearch(root)) == 10
    assert await store.asearch(root, limit=0) == []
