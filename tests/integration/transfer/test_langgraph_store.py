"""Items and vectors from the tables of LangGraph's own store."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langgraph.store.base import TTLConfig
from langgraph.store.postgres import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig

from hybrid_memory import HybridStore, Settings
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.postgres.target import Target, Targets
from hybrid_memory.testing.embedder import DIMENSIONS, WordCounts
from hybrid_memory.transfer.langgraph_store import import_langgraph_store
from tests.support.managers import settings_for
from tests.support.servers import Server

NICK = ("memories", "nick")
DOCS = ("docs", "a", "deep")


class Counting(WordCounts):
    """Counts the texts it has to read."""

    read = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.read += len(texts)
        return super().embed_documents(texts)


def dsn(target: Target) -> str:
    return f"postgresql://{target.user}@/{target.database}?host={target.hosts[0]}"


@pytest.fixture
async def there(server: Server) -> AsyncIterator[str]:
    """A database that holds LangGraph's store and nothing of ours."""
    async with server.empty_database() as targets:
        yield dsn(targets.administration)


@pytest.fixture
async def upstream(there: str) -> AsyncIterator[AsyncPostgresStore]:
    vectors = PostgresIndexConfig(dims=DIMENSIONS, embed=WordCounts(), fields=["$"])
    async with AsyncPostgresStore.from_conn_string(there, index=vectors, ttl=TTLConfig()) as store:
        await store.setup()
        await store.aput(NICK, "tea", {"text": "prefers green tea", "n": 1})
        await store.aput(NICK, "piano", {"text": "plays the piano", "n": 2}, index=["text"])
        await store.aput(DOCS, "parts", {"parts": [{"t": "rome in spring"}, {"t": "piano"}]}, index=["parts[*].t"])
        await store.aput(DOCS, "hidden", {"text": "green tea"}, index=False)
        await store.aput(("users", "a%2Eb"), "short", {"text": "short"}, ttl=600)
        yield store


@pytest.fixture
def settings(targets: Targets, tmp_path: Any) -> Settings:
    return settings_for(targets, data_dir=tmp_path, store_search="vector")


async def told(store: Any) -> dict[Any, Any]:
    items = await store.asearch((), limit=1000, refresh_ttl=False)
    return {(item.namespace, item.key): (item.value, item.created_at) for item in items}


async def test_everything_comes_along(upstream: AsyncPostgresStore, there: str, settings: Settings) -> None:
    looked_at: list[tuple[int, int]] = []
    imported = await import_langgraph_store(
        there, settings, model="counts", progress=lambda *counted: looked_at.append(counted)
    )
    assert (imported.looked_at, imported.new, imported.vectors, imported.refused) == (5, 5, 5, 0)
    assert looked_at == [(5, 5)]
    async with HybridStore(settings) as store:
        assert await told(store) == await told(upstream)
        assert [item.key for item in await store.asearch(NICK)] == [item.key for item in await upstream.asearch(NICK)]


async def test_vectors_answer_questions_as_they_did_there(
    upstream: AsyncPostgresStore, there: str, settings: Settings
) -> None:
    embedder = Counting()
    async with HybridStore(settings, index={"dims": DIMENSIONS, "embed": embedder}) as store:
        assert store._alone is not None
        assert store._alone._embedder is not None
        await import_langgraph_store(there, settings, model=store._alone._embedder.model)
        for query in ("green tea", "piano", "spring in rome"):
            for namespace in (NICK, DOCS):
                ours = {item.key: item.score for item in await store.asearch(namespace, query=query)}
                theirs = {item.key: item.score for item in await upstream.asearch(namespace, query=query)}
                assert {key: score for key, score in ours.items() if score is not None} == {
                    key: pytest.approx(score, abs=1e-3) for key, score in theirs.items()
                }
                assert ours.keys() - theirs.keys() <= {"hidden"}
    # Questions, and the probe of how long vectors are; no item was read again.
    assert embedder.read <= 4


async def test_repeating_it_brings_what_is_new_and_undoes_nothing(
    upstream: AsyncPostgresStore, there: str, settings: Settings
) -> None:
    await import_langgraph_store(there, settings)
    assert (await import_langgraph_store(there, settings)).new == 0
    async with HybridStore(settings) as store:
        await store.aput(NICK, "tea", {"text": "changed here"})
        await store.adelete(DOCS, "hidden")
        await upstream.aput(NICK, "piano", {"text": "changed there"})
        await upstream.aput(NICK, "new", {"text": "new there"})
        again = await import_langgraph_store(there, settings)
        assert (again.looked_at, again.new) == (6, 2)
        assert {item.key: item.value["text"] for item in await store.asearch(NICK)} == {
            "tea": "changed here", "piano": "changed there", "new": "new there",
        }  # fmt: skip
        assert await store.aget(DOCS, "hidden") is None


async def test_what_cannot_be_a_memory_is_told(upstream: AsyncPostgresStore, there: str, settings: Settings) -> None:
    await upstream.aput(("memories", "store:x"), "key", {"a": 1})
    await upstream.aput(("docs", "b"), "k" * 2000, {"a": 1})
    imported = await import_langgraph_store(there, settings)
    assert (imported.looked_at, imported.new, imported.refused) == (7, 5, 2)
    assert any("store:x" in reason for reason in imported.reasons)


async def test_a_store_without_vectors_and_none_at_all(server: Server, settings: Settings) -> None:
    async with server.empty_database() as targets:
        place = dsn(targets.administration)
        with pytest.raises(ConfigurationError, match="no table `store`"):
            await import_langgraph_store(place, settings)
        async with AsyncPostgresStore.from_conn_string(place) as plain:
            await plain.setup()
            for number in range(700):
                await plain.aput(("docs", str(number % 3)), str(number), {"n": number})
        imported = await import_langgraph_store(place, settings)
        assert (imported.looked_at, imported.new, imported.vectors) == (700, 700, 0)
    async with HybridStore(settings.model_copy(update={"store_search": "hybrid"})) as store:
        assert len(await store.asearch(("docs", "1"), limit=1000)) == 233
        assert (await store.asearch(("docs", "1"), query="301", limit=1))[0].key == "301"
