"""Scores as LangGraph's own stores give them: the cosine to the nearest text of an item."""

import pytest
from langgraph.store.base import BaseStore

from hybrid_memory.testing.embedder import similarity
from hybrid_memory.testing.subject import Namespace, Subject, on_store

NEARLY = 1e-3


@pytest.fixture(autouse=True)
def _searches(subject: Subject) -> None:
    if not subject.searches_by_vector:
        pytest.skip("the factory takes no `index`, so nothing is searched by vectors")


@on_store
async def test_the_score_is_the_cosine(store: BaseStore, root: Namespace) -> None:
    texts = ["green tea", "green green tea and coffee", "piano", "tea"]
    for text in texts:
        await store.aput(root, text, {"text": text}, index=["text"])
    for query in ("green tea", "tea and piano", "nothing of that"):
        found = {item.key: item.score for item in await store.asearch(root, query=query)}
        assert found == {text: pytest.approx(similarity(query, [text]), abs=NEARLY) for text in texts}


@on_store
async def test_of_several_texts_the_nearest_counts(store: BaseStore, root: Namespace) -> None:
    await store.aput(root, "key", {"parts": ["green tea", "piano", "rome in spring"]}, index=["parts[*]"])
    for query in ("piano", "spring in rome", "tea"):
        (item,) = await store.asearch(root, query=query)
        expected = similarity(query, ["green tea", "piano", "rome in spring"])
        assert item.score == pytest.approx(expected, abs=NEARLY)
