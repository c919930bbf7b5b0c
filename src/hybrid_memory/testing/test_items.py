"""Single items: put, get, delete, and what comes back."""

from langgraph.store.base import BaseStore

from hybrid_memory.testing.subject import Namespace, on_store

ODD_NAMES = (
    "it's",
    'say "hi"',
    "50%",
    "a_b",
    "a*b",
    "[x]",
    "a/b",
    "back\\slash",
    "'; drop table store; --",
    "Ä ö 漢字 🙂",
)


@on_store
async def test_what_is_put_is_got(store: BaseStore, root: Namespace) -> None:
    value = {
        "text": "prefers tea",
        "count": 3,
        "ratio": 0.25,
        "is": True,
        "none": None,
        "nested": {"list": [1, {}, []]},
    }
    await store.aput(root, "key", value)
    item = await store.aget(root, "key")
    assert item is not None
    assert (item.namespace, item.key, item.value) == (root, "key", value)


@on_store
async def test_what_is_not_there_is_none(store: BaseStore, root: Namespace) -> None:
    assert await store.aget(root, "nothing") is None
    await store.adelete(root, "nothing")


@on_store
async def test_a_second_put_replaces_the_value_and_keeps_when_it_was_created(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1, "b": 2})
    before = await store.aget(root, "key")
    await store.aput(root, "key", {"a": 3})
    after = await store.aget(root, "key")
    assert before is not None
    assert after is not None
    assert after.value == {"a": 3}
    assert after.created_at == before.created_at
    assert after.updated_at > before.updated_at


@on_store
async def test_moments_know_their_zone(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1})
    item = await store.aget(root, "key")
    assert item is not None
    assert item.created_at.utcoffset() is not None
    assert item.updated_at.utcoffset() is not None


@on_store
async def test_a_deleted_item_is_gone_until_it_is_put_again(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1})
    await store.adelete(root, "key")
    assert await store.aget(root, "key") is None
    assert await store.asearch(root) == []
    await store.aput(root, "key", {"a": 2})
    item = await store.aget(root, "key")
    assert item is not None
    assert item.value == {"a": 2}


@on_store
async def test_a_key_belongs_to_its_namespace(store: BaseStore, root: Namespace) -> None:
    places = [root, (*root, "a"), (*root, "a", "b")]
    for place, namespace in enumerate(places):
        await store.aput(namespace, "key", {"place": place})
    await store.adelete(places[1], "key")
    found = [await store.aget(namespace, "key") for namespace in places]
    assert [item and item.value for item in found] == [{"place": 0}, None, {"place": 2}]


@on_store
async def test_names_are_taken_as_they_are(store: BaseStore, root: Namespace) -> None:
    for name in ODD_NAMES:
        await store.aput((*root, name), name, {name: name})
    for name in ODD_NAMES:
        item = await store.aget((*root, name), name)
        assert item is not None, name
        assert item.value == {name: name}
        assert [one.key for one in await store.asearch((*root, name))] == [name]


@on_store
async def test_case_tells_names_apart(store: BaseStore, root: Namespace) -> None:
    await store.aput((*root, "Name"), "Key", {"a": 1})
    assert await store.aget((*root, "name"), "Key") is None
    assert await store.aget((*root, "Name"), "key") is None
    assert await store.asearch((*root, "name")) == []


@on_store
async def test_changing_a_value_outside_changes_nothing_inside(store: BaseStore, root: Namespace) -> None:
    value = {"list": [1], "nested": {"a": 1}}
    await store.aput(root, "key", value)
    value["list"].append(2)  # type: ignore[attr-defined] # the values of this dictionary are of two types
    for found in (await store.aget(root, "key"), (await store.asearch(root))[0]):
        assert found is not None
        assert found.value == {"list": [1], "nested": {"a": 1}}
        found.value["nested"]["a"] = 2
    item = await store.aget(root, "key")
    assert item is not None
    assert item.value == {"list": [1], "nested": {"a": 1}}


@on_store
async def test_numbers_and_texts_come_back_as_they_were(store: BaseStore, root: Namespace) -> None:
    value = {
        "int": 2**53 + 1,
        "float": 0.1,
        "small": 5e-324,
        "text": "",
        "lines": "a\nb\t\u2028c",
        "empty": {},
        "": "key",
    }
    await store.aput(root, "key", value)
    item = await store.aget(root, "key")
    assert item is not None
    assert item.value == value


@on_store
async def test_an_item_says_what_it_is(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"a": 1})
    item = await store.aget(root, "key")
    assert item is not None
    told = item.dict()
    assert (told["namespace"], told["key"], told["value"]) == (list(root), "key", {"a": 1})
    (found,) = await store.asearch(root)
    assert found.dict()["score"] is None
