"""Items of owners too large to be held: the same pages as of any other owner, without loading them."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
from langgraph.store.base import PutOp

from hybrid_memory import HybridMemoryManager
from hybrid_memory.memory.large_users import LARGE_OWNERS
from tests.support.embedders import Words
from tests.support.managers import run_job
from tests.support.recording import Recorded

Instance = Callable[..., HybridMemoryManager]
PLACE = ("memories", "nick")
ITEMS = 240
WANTED: list[dict[str, Any]] = [
    {"limit": 5},
    {"limit": 7, "offset": 95},
    {"limit": 500},
    {"filter": {"number": {"$lt": 9}}, "limit": 20},
    {"query": "puppy", "limit": 4},
    {"query": "puppy", "filter": {"number": 47}},
    {"query": "puppy", "filter": {"number": {"$gte": 200}}, "limit": 1},
    {"query": "puppy", "filter": {"number": 1000}},
]


@pytest.fixture
async def filled(instance: Instance) -> None:
    """Many items of nick in two namespaces, one in forty about a dog, one in sixty not to be searched; some of eve."""
    writer = instance(embedder=Words())
    for start in range(0, ITEMS, 60):
        await writer.store.abatch(list(map(_put, range(start, start + 60))))
    await writer.store.aput(("memories", "eve"), "1", {"text": "a secret dog"})
    assert await writer.flush()


def _put(number: int) -> PutOp:
    said = "Rex is a dog" if number % 40 == 7 else "note about tea"
    index: Literal[False] | None = False if number % 60 == 30 else None
    where = (*PLACE, "work" if number % 3 else "home")
    return PutOp(where, f"{number:03d}", {"text": f"{said} {number}", "number": number}, index)


def seen(items: list[Any]) -> list[tuple[str, bool]]:
    return [(item.key, item.score is None) for item in items]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("search", ["hybrid", "vector"])
class TestTheSamePages:
    @pytest.fixture
    async def pair(self, instance: Instance, events: Recorded, search: str) -> list[HybridMemoryManager]:
        told = {"embedder": Words(), "store_search": search}
        large, small = instance(max_held_memories=50, events=events, **told), instance(**told)
        await run_job(large, LARGE_OWNERS)
        return [large, small]

    async def test_of_one_owner(self, pair: list[HybridMemoryManager], events: Recorded) -> None:
        for wanted in WANTED:
            for place in (PLACE, (*PLACE, "home"), (*PLACE, "nowhere")):
                of_large, of_small = [seen(await one.store.asearch(place, **wanted)) for one in pair]
                assert of_large == of_small, wanted
        assert events.named("loading_user_memories_from_postgres") == []

    async def test_what_fills_the_page_follows_in_order(
        self, pair: list[HybridMemoryManager], events: Recorded
    ) -> None:
        pages = [await one.store.asearch(PLACE, query="puppy", limit=ITEMS) for one in pair]
        for page in pages:
            assert len(page) == ITEMS
            assert all("dog" in item.value["text"] for item in page[:6])
            assert [item.key for item in page[-4:]] == ["210", "150", "090", "030"]
            assert [item.score for item in page[-4:]] == [None] * 4
        assert {item.key for item in pages[0]} == {item.key for item in pages[1]}
        assert events.named("loading_user_memories_from_postgres") == []

    async def test_namespaces_and_others(self, pair: list[HybridMemoryManager], events: Recorded) -> None:
        large = pair[0].store
        assert await large.alist_namespaces(prefix=PLACE) == [(*PLACE, "home"), (*PLACE, "work")]
        found = await large.asearch(("memories",), query="puppy", limit=20)
        assert {item.namespace[1] for item in found} == {"nick", "eve"}
        loaded = {event["user_id"] for event in events.named("loading_user_memories_from_postgres")}
        assert loaded <= {"eve"}


@pytest.mark.usefixtures("filled")
async def test_own_writes_are_seen_at_once(instance: Instance) -> None:
    large = instance(max_held_memories=50, embedder=Words())
    await large.store.aput((*PLACE, "home"), "new", {"text": "the puppy is called Rex"})
    assert await large.flush()
    assert (await large.store.asearch(PLACE, query="puppy Rex", limit=8))[0].key in {"new", "007"}
    assert "new" in {item.key for item in await large.store.asearch(PLACE, query="puppy", limit=8)}
    assert (await large.store.asearch(PLACE, limit=1))[0].key == "new"
    await large.store.adelete((*PLACE, "home"), "new")
    assert (await large.store.asearch(PLACE, limit=1))[0].key == f"{ITEMS - 1:03d}"
