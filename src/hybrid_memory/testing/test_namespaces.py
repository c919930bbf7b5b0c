"""Listing namespaces, and searching below them."""

import pytest
from langgraph.store.base import BaseStore, InvalidNamespaceError

from hybrid_memory.testing.subject import Namespace, on_store


async def _tree(store: BaseStore, root: Namespace) -> list[Namespace]:
    """Some namespaces below a root, in order."""
    below = [("a", "b", "c"), ("a", "b", "d", "e"), ("a", "b", "d", "i"), ("a", "b", "f"), ("a", "c", "f"), ("b", "c")]
    for labels in below:
        await store.aput((*root, *labels), "key", {"labels": list(labels)})
    return [(*root, *labels) for labels in below]


@on_store
async def test_all_below_a_prefix_in_order(store: BaseStore, root: Namespace) -> None:
    everything = await _tree(store, root)
    assert await store.alist_namespaces(prefix=root) == everything
    assert await store.alist_namespaces(prefix=(*root, "a", "b")) == everything[:4]
    assert await store.alist_namespaces(prefix=(*root, "z")) == []


@on_store
async def test_by_their_end(store: BaseStore, root: Namespace) -> None:
    everything = await _tree(store, root)
    assert await store.alist_namespaces(prefix=root, suffix=("f",)) == [everything[3], everything[4]]
    assert await store.alist_namespaces(prefix=root, suffix=("c", "f")) == [everything[4]]


@on_store
async def test_a_star_is_one_label(store: BaseStore, root: Namespace) -> None:
    everything = await _tree(store, root)
    assert await store.alist_namespaces(prefix=(*root, "a", "*", "f")) == [everything[3], everything[4]]
    assert await store.alist_namespaces(prefix=root, suffix=("d", "*")) == [everything[1], everything[2]]
    assert await store.alist_namespaces(prefix=(*root, "*", "*", "*", "*", "*")) == []


@on_store
async def test_down_to_a_depth(store: BaseStore, root: Namespace) -> None:
    await _tree(store, root)
    depth = len(root)
    assert await store.alist_namespaces(prefix=root, max_depth=depth) == [root]
    assert await store.alist_namespaces(prefix=root, max_depth=depth + 1) == [(*root, "a"), (*root, "b")]
    below = [(*root, "a", "b", label) for label in "cdf"]
    assert await store.alist_namespaces(prefix=(*root, "a", "b"), max_depth=depth + 3) == below


@on_store
async def test_page_by_page(store: BaseStore, root: Namespace) -> None:
    everything = await _tree(store, root)
    pages = [await store.alist_namespaces(prefix=root, limit=4, offset=offset) for offset in (0, 4, 8)]
    assert pages == [everything[:4], everything[4:], []]
    assert await store.alist_namespaces(prefix=root, limit=0) == []


@on_store
async def test_a_namespace_without_items_is_not_listed(store: BaseStore, root: Namespace) -> None:
    everything = await _tree(store, root)
    await store.adelete(everything[0], "key")
    assert await store.alist_namespaces(prefix=root) == everything[1:]


@on_store
async def test_a_search_looks_at_the_namespace_and_those_below(store: BaseStore, root: Namespace) -> None:
    everything = await _tree(store, root)
    found = await store.asearch((*root, "a", "b"))
    assert {item.namespace for item in found} == set(everything[:4])
    assert [item.namespace for item in await store.asearch(everything[0])] == [everything[0]]


@on_store
async def test_a_prefix_is_made_of_whole_labels(store: BaseStore, root: Namespace) -> None:
    for label in ("u1", "u10", "u1-a"):
        await store.aput((*root, label), "key", {"label": label})
    assert [item.value["label"] for item in await store.asearch((*root, "u1"))] == ["u1"]
    assert await store.alist_namespaces(prefix=(*root, "u1")) == [(*root, "u1")]
    assert await store.asearch((*root, "u")) == []


@on_store
async def test_what_means_something_to_a_pattern_is_a_character(store: BaseStore, root: Namespace) -> None:
    for label in ("a%", "ab", "a_", "a?", "[ab]", "a\n", "a"):
        await store.aput((*root, label), "key", {"label": label})
    for label in ("a%", "a_", "a?", "[ab]", "a\n", "a"):
        assert [item.value["label"] for item in await store.asearch((*root, label))] == [label]
        assert await store.alist_namespaces(prefix=(*root, label)) == [(*root, label)]


@on_store
async def test_an_empty_prefix_is_everything(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"mark": root[1], "run": root[0]})
    await store.aput((*reversed(root),), "key", {"mark": root[1], "run": root[0]})
    found = await store.asearch((), filter={"mark": root[1], "run": root[0]})
    assert {item.namespace for item in found} == {root, (*reversed(root),)}
    await store.adelete((*reversed(root),), "key")


@on_store
async def test_a_prefix_may_be_a_list(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1})
    assert [item.key for item in await store.asearch(list(root))] == ["key"]  # type: ignore[arg-type] # seen in the wild


@on_store
async def test_a_put_refuses_what_is_no_namespace(store: BaseStore, root: Namespace) -> None:
    unfit = [(), ("langgraph", "a"), (*root, "a.b"), (*root, ""), (*root, 7), (*root, "a\x00")]
    for namespace in unfit:
        with pytest.raises(InvalidNamespaceError):
            await store.aput(namespace, "key", {"a": 1})  # type: ignore[arg-type] # on purpose
