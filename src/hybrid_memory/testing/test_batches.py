"""Several operations at once."""

import asyncio

import pytest
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)

from hybrid_memory.testing.subject import Namespace, on_store


@on_store
async def test_answers_come_in_the_order_of_the_operations(store: BaseStore, root: Namespace) -> None:
    for place in range(3):
        await store.aput((*root, "a"), f"key {place}", {"place": place})
    under = (MatchCondition("prefix", root),)
    answers = await store.abatch(
        [
            ListNamespacesOp(match_conditions=under),
            GetOp((*root, "a"), "key 1"),
            PutOp((*root, "b"), "new", {"a": 1}),
            SearchOp((*root, "a"), filter={"place": 2}),
            GetOp((*root, "a"), "nothing"),
            PutOp((*root, "a"), "key 0", None),
        ]
    )
    assert answers[0] == [(*root, "a")]
    assert isinstance(answers[1], Item)
    assert answers[1].value == {"place": 1}
    assert answers[2] is None
    assert isinstance(answers[3], list)
    assert [item.key for item in answers[3] if isinstance(item, Item)] == ["key 2"]
    assert answers[4:] == [None, None]
    assert await store.aget((*root, "b"), "new") is not None
    assert await store.aget((*root, "a"), "key 0") is None


@on_store
async def test_reads_see_what_was_there_before(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "old", {"a": 1})
    puts = [PutOp(root, "old", {"a": 2}), PutOp(root, "new", {"a": 3})]
    answers = await store.abatch([puts[0], GetOp(root, "old"), puts[1], GetOp(root, "new"), SearchOp(root)])
    assert isinstance(answers[1], Item)
    assert answers[1].value == {"a": 1}
    assert answers[3] is None
    assert isinstance(answers[4], list)
    assert len(answers[4]) == 1


@on_store
async def test_the_last_write_of_a_key_counts(store: BaseStore, root: Namespace) -> None:
    await store.abatch(
        [
            *(PutOp(root, "key", {"place": place}) for place in range(5)),
            PutOp(root, "deleted", {"a": 1}),
            PutOp(root, "deleted", None),
            PutOp(root, "kept", None),
            PutOp(root, "kept", {"a": 2}),
        ]
    )
    item, deleted, kept = [await store.aget(root, key) for key in ("key", "deleted", "kept")]
    assert item is not None
    assert item.value == {"place": 4}
    assert deleted is None
    assert kept is not None


@on_store
async def test_nothing_is_asked(store: BaseStore, root: Namespace) -> None:  # noqa: ARG001 - the form of these tests
    assert await store.abatch([]) == []


@on_store
async def test_gets_may_repeat_and_be_of_several_namespaces(store: BaseStore, root: Namespace) -> None:
    places = [(*root, "a"), (*root, "b"), ("other", *root)]
    await store.abatch([PutOp(namespace, "key", {"at": list(namespace)}) for namespace in places])
    answers = await store.abatch([GetOp(namespace, "key") for namespace in (*places, *reversed(places))])
    expected = [list(namespace) for namespace in (*places, *reversed(places))]
    assert [answer.value["at"] for answer in answers if isinstance(answer, Item)] == expected


@on_store
async def test_many_at_once(store: BaseStore, root: Namespace) -> None:
    await store.abatch([PutOp(root, f"key {place}", {"place": place}) for place in range(300)])
    answers = await store.abatch([GetOp(root, f"key {place}") for place in range(300)])
    assert [answer.value["place"] for answer in answers if isinstance(answer, Item)] == list(range(300))


@on_store
async def test_a_write_that_is_refused_harms_no_other(store: BaseStore, root: Namespace) -> None:
    """What one caller sends is no business of those who call at the same moment."""
    poison = store.aput(root, "poison", {"text": "a\x00b", "what": object()})
    others = [store.aput(root, f"key {place}", {"place": place}) for place in range(10)]
    _, *outcomes = await asyncio.gather(poison, *others, return_exceptions=True)
    assert outcomes == [None] * 10
    assert await store.aget(root, "key 9") is not None
    await store.aput(root, "later", {"a": 1})


@pytest.mark.parametrize("label", ["a.b", "", "a\x00b"])
def test_labels_are_checked_also_in_operations(subject: object, label: str) -> None:
    async def refused(store: BaseStore, root: Namespace) -> None:
        for op in (
            PutOp((*root, label), "key", {"a": 1}),
            GetOp((*root, label), "key"),
            SearchOp((*root, label)),
            ListNamespacesOp(match_conditions=(MatchCondition("prefix", (*root, label)),)),
        ):
            with pytest.raises(InvalidNamespaceError):
                await store.abatch([op])

    on_store(refused)(subject)  # type: ignore[arg-type] # a fixture


@on_store
async def test_an_item_of_the_empty_namespace_comes_back_with_it(store: BaseStore, root: Namespace) -> None:
    key = "-".join(root)
    await store.abatch([PutOp((), key, {"a": 1})])
    (item,) = await store.abatch([GetOp((), key)])
    assert isinstance(item, Item)
    assert item.namespace == ()
    assert () in await store.alist_namespaces(limit=10_000)
    await store.abatch([PutOp((), key, None)])
