"""Searches with a question."""

import pytest
from langgraph.store.base import BaseStore

from hybrid_memory.testing.subject import Namespace, Subject, on_store

TEXTS = {
    "tea": "prefers green tea in the morning",
    "coffee": "drinks coffee at work",
    "piano": "plays the piano on sundays",
    "rome": "travels to rome in spring",
}


@pytest.fixture(autouse=True)
def _searches(subject: Subject) -> None:
    if not subject.searches_by_vector:
        pytest.skip("the factory takes no `index`, so nothing is searched by vectors")


async def _filled(store: BaseStore, root: Namespace) -> None:
    for key, text in TEXTS.items():
        await store.aput(root, key, {"text": text, "length": len(text)})


async def _keys(store: BaseStore, root: Namespace, query: str) -> list[str]:
    """The keys of what has a score, the best first."""
    return [item.key for item in await store.asearch(root, query=query, limit=100) if item.score is not None]


@on_store
async def test_the_nearest_comes_first(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    for key, text in TEXTS.items():
        found = await store.asearch(root, query=text)
        assert found[0].key == key
        scores = [item.score for item in found if item.score is not None]
        assert scores == sorted(scores, reverse=True)


@on_store
async def test_pages_are_parts_of_one_list(store: BaseStore, root: Namespace) -> None:
    for place in range(13):
        await store.aput(root, f"key {place}", {"text": "word " * (place + 1) + f"other{place}"})
    whole = [item.key for item in await store.asearch(root, query="word", limit=13)]
    assert len(set(whole)) == 13
    for size in (1, 2, 5):
        pages = [await store.asearch(root, query="word", limit=size, offset=offset) for offset in range(0, 14, size)]
        assert [item.key for page in pages for item in page] == whole, size


@on_store
async def test_a_changed_item_is_found_by_what_it_says_now(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    await store.aput(root, "tea", {"text": "collects old maps"})
    (first, *_) = await store.asearch(root, query="collects old maps")
    assert first.key == "tea"
    found = {item.key: item.score for item in await store.asearch(root, query=TEXTS["tea"], limit=10)}
    assert (found["tea"] or 0) < (found["piano"] or 0) + 0.3


@on_store
async def test_what_is_not_to_be_searched_has_no_score(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    await store.aput(root, "hidden", {"text": TEXTS["tea"]}, index=False)
    assert "hidden" not in await _keys(store, root, TEXTS["tea"])
    assert await store.aget(root, "hidden") is not None
    assert "hidden" in {item.key for item in await store.asearch(root, limit=10)}


@on_store
async def test_an_item_that_stops_being_searched_has_no_score_any_more(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    await store.aput(root, "tea", {"text": TEXTS["tea"]}, index=False)
    assert "tea" not in await _keys(store, root, TEXTS["tea"])


@on_store
async def test_paths_say_what_is_searched(store: BaseStore, root: Namespace) -> None:
    value = {"title": "green tea", "body": {"text": "a long story of rain"}, "parts": [{"t": "piano"}, {"t": "rome"}]}
    await store.aput(root, "title", value, index=["title"])
    await store.aput(root, "body", value, index=["body.text"])
    await store.aput(root, "parts", value, index=["parts[*].t"])
    for query, key in (("green tea", "title"), ("a long story of rain", "body"), ("piano", "parts"), ("rome", "parts")):
        assert (await _keys(store, root, query))[0] == key, query


@on_store
async def test_a_path_that_leads_nowhere_is_no_error(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"text": "green tea"}, index=["nothing[*].there"])
    assert await store.aget(root, "key") is not None
    assert await _keys(store, root, "green tea") == []


@on_store
async def test_filters_and_namespaces_hold_for_questions(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    await store.aput((*root, "below"), "tea", {"text": TEXTS["tea"], "length": 1})
    await store.aput((root[0], root[1] + "0"), "tea", {"text": TEXTS["tea"], "length": 1})
    found = await store.asearch(root, query=TEXTS["tea"], limit=10)
    assert {item.namespace for item in found} == {root, (*root, "below")}
    (only,) = await store.asearch(root, query=TEXTS["tea"], filter={"length": {"$lte": 1}})
    assert only.namespace == (*root, "below")


@on_store
async def test_a_deleted_item_is_not_found(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    await store.adelete(root, "tea")
    assert "tea" not in {item.key for item in await store.asearch(root, query=TEXTS["tea"], limit=10)}


@on_store
async def test_no_question_is_no_question(store: BaseStore, root: Namespace) -> None:
    await _filled(store, root)
    for query in (None, ""):
        found = await store.asearch(root, query=query)
        assert [item.key for item in found] == list(reversed(TEXTS))
        assert {item.score for item in found} == {None}


@on_store
async def test_texts_of_all_languages_and_lengths(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "long", {"text": "wort " * 5000})
    await store.aput(root, "漢字", {"text": "これはテストです 漢字"})
    assert (await store.asearch(root, query="漢字"))[0].key == "漢字"
    assert (await store.asearch(root, query="wort " * 2000))[0].key == "long"
