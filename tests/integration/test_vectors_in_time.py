"""Vectors ready when their memory is written travel with it; nobody waits for the others, and none is missing."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from hybrid_memory import HybridMemoryManager
from hybrid_memory.embeddings.adapted import AdaptedEmbedder
from hybrid_memory.embeddings.guarded import GuardedEmbedder
from hybrid_memory.memory.embedding import BACKFILL
from hybrid_memory.memory.in_time import _MOST_TEXTS, VectorsInTime
from hybrid_memory.memory.texts import texts_of
from hybrid_memory.postgres.batches import Batches, Embedding, Operation
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from tests.support.embedders import AtOnce, Words, vector_of
from tests.support.managers import run_job, settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.rows import fact_row
from tests.support.servers import administration
from tests.support.waiting import Deadline

Instance = Callable[..., HybridMemoryManager]


@pytest.fixture
def embedder() -> AtOnce:
    made = AtOnce()
    # The first answer of a process takes longer.
    made.embed_query("tea")
    return made


def asked_of_postgres(events: Recorded) -> list[str]:
    return [one["query"] for one in events.named("postgres_statement")]


async def vectors_of(targets: Targets, user_id: str = "nick") -> dict[str, list[str]]:
    """The fields that have vectors, by the content of the memory."""
    async with administration(targets) as connection:
        rows = await connection.fetch(
            "select coalesce(n.content ->> 'text', n.content ->> 'entity_name') as text, array_agg(e.field) as fields"
            " from memory.nodes n join memory.embeddings e using (user_id, node_id) where user_id = $1 group by 1",
            user_id,
        )
    return {row["text"]: sorted(row["fields"]) for row in rows}


async def pending(manager: HybridMemoryManager, user_id: str = "nick") -> int | None:
    assert manager.health().pending_embeddings is not None
    return (await manager.user_stats(user_id)).pending_embeddings


async def found(manager: HybridMemoryManager, query: str = "puppy") -> list[str | None]:
    return [hit.node.text for hit in await manager.recall("nick", query, limit=1)]


class TestTravelling:
    async def test_what_is_acknowledged_has_its_vector(
        self, instance: Instance, embedder: AtOnce, events: Recorded, targets: Targets
    ) -> None:
        manager, users = instance(embedder=embedder, events=events), [f"user {number}" for number in range(20)]
        for kind in ("dog", "lorry"):
            await asyncio.gather(*(manager.store_persistent_memory(user, f"a {kind}") for user in users))
            assert manager.health().pending_embeddings == 0
        for user in users:
            assert await vectors_of(targets, user) == {"a dog": ["content"], "a lorry": ["content"]}
            assert await pending(manager, user) == 0
        assert await manager.flush()
        assert await run_job(manager, BACKFILL)
        assert not {"embeddings.keep", "embeddings.lacking"} & set(asked_of_postgres(events))
        told = events.named("memories_embedded")
        assert sorted((one["user_id"], one["vectors"]) for one in told) == sorted((user, 1) for user in users * 2)

    async def test_a_loaded_memory_shows_them_without_asking(
        self, instance: Instance, embedder: AtOnce, events: Recorded
    ) -> None:
        manager = instance(embedder=embedder, events=events)
        await manager.store_persistent_memory("nick", "tea is nice")
        assert await found(manager) == ["tea is nice"]
        await manager.store_persistent_memory("nick", "Rex is a dog")
        asked = [name for name in asked_of_postgres(events) if name.startswith("embeddings.")]
        assert await found(manager) == ["Rex is a dog"]
        assert [name for name in asked_of_postgres(events) if name.startswith("embeddings.")] == asked

    async def test_a_new_text_has_a_new_vector(self, instance: Instance, embedder: AtOnce, targets: Targets) -> None:
        manager = instance(embedder=embedder)
        node_id = await manager.store_persistent_memory("nick", "Rex is a dog")
        await manager.store_persistent_memory("nick", "tea is nice")
        await manager.update_memory("nick", node_id, content="Rex is a lorry")
        assert await vectors_of(targets) == {"Rex is a lorry": ["content"], "tea is nice": ["content"]}
        assert await found(manager, "bicycle") == ["Rex is a lorry"]
        assert await pending(manager) == 0

    async def test_items_have_one_for_each_text_that_is_searched(
        self, instance: Instance, embedder: AtOnce, targets: Targets
    ) -> None:
        store, where = instance(embedder=embedder).store, ("memories", "nick")
        await store.aput(where, "all", {"text": "one"})
        await store.aput(where, "none", {"text": "two"}, index=False)
        await store.aput(where, "some", {"text": "three", "names": ["Rex", "Tom"]}, index=["names[*]", "text"])
        assert await vectors_of(targets) == {"one": ["content"], "three": ["names[*].0", "names[*].1", "text"]}
        assert [item.key for item in await store.asearch(where, query="Tom", limit=1)] == ["some"]

    async def test_of_what_is_there_already_nothing_is_kept_twice(
        self, instance: Instance, embedder: AtOnce, targets: Targets
    ) -> None:
        manager = instance(embedder=embedder)
        ids = [await manager.store_persistent_memory("nick", "Rex is a dog") for _ in range(2)]
        assert ids[0] == ids[1]
        assert await vectors_of(targets) == {"Rex is a dog": ["content"]}
        assert await pending(manager) == 0

    async def test_users_may_give_one_id_to_different_memories(
        self, instance: Instance, embedder: AtOnce, targets: Targets
    ) -> None:
        manager, texts, one = instance(embedder=embedder), {"ann": "Rex is a dog", "eve": "tea is nice"}, uuid4()
        await asyncio.gather(
            *(manager.store_persistent_memory(user, text, node_id=one) for user, text in texts.items())
        )
        for user, text in texts.items():
            assert await vectors_of(targets, user) == {text: ["content"]}

    async def test_what_a_caller_gave_is_kept_once_by_an_embedder_that_has_never_answered(
        self, database: Database, events: Recorded, targets: Targets
    ) -> None:
        made = GuardedEmbedder(AdaptedEmbedder(AtOnce(), 1.0), events)
        batches = Batches(database, str(uuid4()), in_time=VectorsInTime(made, None, texts_of, events))
        row = fact_row(str(uuid4()), "Rex is a dog") | {"content_hash": "aa", "written_by": str(uuid4())}
        given = Embedding(made.model, vector_of("given"), "aa")
        first = Operation(1, "nodes", row | {"written_at": "2026-05-01T00:00:00+00:00"}, (given,))
        applied = await batches.apply({"nick": [first]})
        assert applied["nick"].vectors == ((row["node_id"], given),)
        assert await vectors_of(targets) == {"Rex is a dog": ["content"]}

    async def test_they_are_compared_while_postgres_is_away(
        self, targets: Targets, proxy: FaultProxy, embedder: AtOnce, tmp_path: Path
    ) -> None:
        through, data = proxy.targets(targets), tmp_path / "data"
        settings = settings_for(through, postgres_port=proxy.port, connect_timeout_seconds=2, data_dir=data)
        async with HybridMemoryManager(settings, embedder=embedder) as manager:
            await manager.store_many("nick", [{"content": "Rex is a dog"}, {"content": "tea is nice"}])
            await manager.ensure_user_memories("nick")
        proxy.reset()
        async with HybridMemoryManager(settings, embedder=embedder) as manager:
            assert (await manager.ensure_user_memories("nick")).stale
            assert await found(manager) == ["Rex is a dog"]
        assert embedder.asked.count("Rex is a dog") == 1


class TestFollowing:
    async def test_what_others_wrote_in_between_is_not_passed_over(self, instance: Instance, embedder: AtOnce) -> None:
        manager, without = instance(embedder=embedder), instance()
        await manager.store_persistent_memory("nick", "tea is nice")
        await without.store_persistent_memory("nick", "Rex is a dog")
        await manager.store_persistent_memory("nick", "she drives a lorry")
        assert await pending(manager) == 1
        assert await run_job(manager, BACKFILL)
        assert await pending(manager) == 0
        assert await found(manager) == ["Rex is a dog"]

    async def test_beside_an_entity_they_follow_with_its_own(
        self, instance: Instance, embedder: AtOnce, targets: Targets
    ) -> None:
        manager = instance(embedder=embedder)
        await asyncio.gather(
            manager.store_persistent_memory("nick", "tea is nice"),
            manager.store_entity("nick", entity_system="crm", entity_type="pet", entity_name="Rex"),
        )
        assert await manager.flush()
        assert await vectors_of(targets) == {"tea is nice": ["content"], "Rex": ["content"]}
        assert await pending(manager) == 0

    async def test_an_embedder_that_waits_keeps_nobody_waiting(
        self, instance: Instance, embedder: AtOnce, targets: Targets
    ) -> None:
        manager = instance(embedder=embedder)
        embedder.waits_for = asyncio.Event()
        with Deadline(1):
            for number in range(20):
                await manager.store_persistent_memory("nick", f"fact {number}")
        assert await vectors_of(targets) == {}
        embedder.waits_for.set()
        assert await manager.flush()
        assert len(await vectors_of(targets)) == 20
        assert len(embedder.asked) == len(set(embedder.asked))
        assert await pending(manager) == 0

    async def test_one_that_computes_for_long_is_not_asked_by_the_next(
        self, instance: Instance, embedder: AtOnce, targets: Targets
    ) -> None:
        manager = instance(embedder=embedder)
        embedder.computes_seconds = 0.05
        await manager.store_persistent_memory("nick", "tea is nice")
        assert await vectors_of(targets) == {"tea is nice": ["content"]}
        await manager.store_persistent_memory("nick", "Rex is a dog")
        assert await vectors_of(targets) == {"tea is nice": ["content"]}
        assert await manager.flush()
        assert len(await vectors_of(targets)) == 2
        assert await pending(manager) == 0

    async def test_one_that_fails_costs_nothing_but_meaning(
        self, instance: Instance, embedder: AtOnce, targets: Targets
    ) -> None:
        manager = instance(embedder=embedder)
        embedder.failing = RuntimeError("away")
        for text in ("Rex is a dog", "tea is nice"):
            await manager.store_persistent_memory("nick", text)
        assert await vectors_of(targets) == {}
        embedder.failing = None
        assert await manager.flush()
        assert len(await vectors_of(targets)) == 2
        assert await found(manager) == ["Rex is a dog"]

    async def test_nor_does_one_that_somebody_cancels(self, instance: Instance, embedder: AtOnce) -> None:
        manager = instance(embedder=embedder)
        await manager.store_persistent_memory("nick", "tea is nice")
        embedder.failing = asyncio.CancelledError()
        await manager.store_persistent_memory("nick", "Rex is a dog")
        embedder.failing = None
        assert await manager.flush()
        assert await found(manager) == ["Rex is a dog"]

    async def test_very_many_at_once_follow(self, instance: Instance, embedder: AtOnce, targets: Targets) -> None:
        manager, many = instance(embedder=embedder), [{"content": f"fact {number}"} for number in range(_MOST_TEXTS)]
        await asyncio.gather(*(manager.store_many(user, many) for user in ("ann", "eve")))
        assert await manager.flush(30)
        for user in ("ann", "eve"):
            assert len(await vectors_of(targets, user)) == _MOST_TEXTS
            assert await pending(manager, user) == 0

    async def test_what_waits_in_the_outbox_gets_its_vector_when_it_arrives(
        self, targets: Targets, proxy: FaultProxy, embedder: AtOnce
    ) -> None:
        settings = settings_for(proxy.targets(targets), postgres_port=proxy.port, connect_timeout_seconds=2)
        async with HybridMemoryManager(settings, embedder=embedder) as manager:
            await manager.store_persistent_memory("nick", "tea is nice")
            proxy.reset()
            await manager.store_persistent_memory("nick", "Rex is a dog")
            proxy.heal()
            assert await manager.flush(timeout=15)
            assert await pending(manager) == 0
        assert len(await vectors_of(targets)) == 2


@pytest.mark.parametrize(
    ("source", "may"), [(AtOnce(), True), (Words(), False), (DeterministicFakeEmbedding(size=4), False)]
)
def test_who_is_asked_while_a_write_leaves(source: Embeddings | Words, *, may: bool) -> None:
    assert AdaptedEmbedder(source, 1.0).may_answer_at_once is may
