"""Vectors on real Postgres: made behind the writes, kept with the text they are of, and never in anybody's way."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import InvalidInput
from hybrid_memory.memory.embedding import BACKFILL, EMBEDDINGS
from hybrid_memory.postgres.target import Targets
from tests.support.embedders import Service, Words, embedding_service, vector_of
from tests.support.managers import run_job, settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.servers import administration, connection_to
from tests.support.waiting import Deadline, until

Instance = Callable[..., HybridMemoryManager]


@pytest.fixture
def words() -> Iterator[Words]:
    made = Words()
    yield made
    made.going_on.set()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with embedding_service() as started:
        monkeypatch.setenv("OPENAI_BASE_URL", started.url)
        yield started


async def found(manager: HybridMemoryManager, query: str, **keywords: Any) -> list[str | None]:
    return [hit.node.text for hit in await manager.recall("nick", query, **({"limit": 1} | keywords))]


async def stored_vectors(targets: Targets) -> dict[str, int]:
    """How many vectors there are of each model."""
    async with administration(targets) as connection:
        rows = await connection.fetch("select model, count(*) as vectors from memory.embeddings group by model")
    return {row["model"]: row["vectors"] for row in rows}


class TestFollowing:
    async def test_a_memory_is_found_by_what_it_means(self, instance: Instance, words: Words) -> None:
        manager = instance(embedder=words)
        for text in ("Rex is a dog", "she drives a lorry", "tea is nice"):
            await manager.store_persistent_memory("nick", text)
        assert await found(manager, "puppy") == ["Rex is a dog"]
        assert await found(manager, "car") == ["she drives a lorry"]

    async def test_a_new_text_has_a_new_vector_and_never_the_old_one(
        self, instance: Instance, words: Words, targets: Targets
    ) -> None:
        manager, other = instance(embedder=words), instance(embedder=words)
        node_id = await manager.store_persistent_memory("nick", "Rex is a dog")
        await manager.store_persistent_memory("nick", "tea is nice")
        assert await manager.flush()
        assert await found(other, "puppy") == ["Rex is a dog"]
        words.going_on.clear()
        await manager.update_memory("nick", node_id, content="Rex is a lorry")
        assert len(await stored_vectors(targets)) == 1
        assert (await stored_vectors(targets)).popitem()[1] == 1
        words.going_on.set()
        assert await manager.flush()
        for one in (manager, other):
            assert await found(one, "car") == ["Rex is a lorry"]
            (hit, *_) = await one.recall("nick", "puppy", limit=1)
            assert hit.score < 0.3

    @pytest.mark.hears
    async def test_a_vector_made_elsewhere_arrives_like_everything_else(self, instance: Instance, words: Words) -> None:
        told = {"max_staleness_seconds": 3600, "poll_interval_seconds": 3600}
        manager, other = instance(embedder=words, **told), instance(embedder=words, **told)
        await other.store_persistent_memory("nick", "tea is nice")
        assert await found(other, "puppy", limit=9) == ["tea is nice"]
        await manager.store_persistent_memory("nick", "Rex is a dog")
        assert await manager.flush()

        async def arrived() -> bool:
            return await found(other, "puppy") == ["Rex is a dog"]

        await until(arrived, "what another process has made")

    async def test_what_does_not_change_the_text_keeps_the_vector(self, instance: Instance, words: Words) -> None:
        manager = instance(embedder=words)
        node_id = await manager.store_persistent_memory("nick", "Rex is a dog")
        await manager.flush()
        asked = len(words.asked)
        await manager.update_memory("nick", node_id, importance=0.9)
        assert await found(manager, "Rex dog") == ["Rex is a dog"]
        assert words.asked[asked:] == ["Rex dog"]

    async def test_entities_and_messages_are_embedded_as_one_would_say_them(
        self, instance: Instance, words: Words
    ) -> None:
        manager = instance(embedder=words)
        await manager.store_entity(
            "nick", entity_id="1", entity_system="crm", entity_type="account", entity_name="GenePoint", data={"a": "b"}
        )
        await manager.add_message("nick", "t", "user", "good morning", name="Ann")
        await manager.flush()
        assert "account GenePoint\na: b" in words.asked
        assert any(text == "Ann: good morning" for text in words.asked)

    async def test_a_forgotten_memory_is_not_found(self, instance: Instance, words: Words) -> None:
        manager = instance(embedder=words)
        node_id = await manager.store_persistent_memory("nick", "Rex is a dog")
        assert await found(manager, "puppy") == ["Rex is a dog"]
        await manager.forget("nick", node_id)
        assert await found(manager, "puppy") == []

    async def test_filters_come_before_the_ranking(self, instance: Instance, words: Words) -> None:
        manager = instance(embedder=words)
        await manager.store_many("nick", [{"content": f"dog {number}"} for number in range(30)])
        await manager.store_many("nick", [{"content": f"tea {number}", "tags": ["drinks"]} for number in range(5)])
        hits = await manager.recall("nick", "puppy", tags=["Drinks"], limit=5)
        assert len(hits) == 5
        assert all("drinks" in hit.node.tags for hit in hits)


class TestJustWritten:
    async def test_new_memories_of_many_users_are_embedded_together(
        self, instance: Instance, words: Words, events: Recorded, targets: Targets
    ) -> None:
        manager, users = instance(embedder=words, events=events), [f"user {number}" for number in range(20)]
        await asyncio.gather(*(manager.store_persistent_memory(user, f"{user} has a dog") for user in users))
        assert await manager.flush()
        asked = [one["query"] for one in events.named("postgres_statement")]
        assert asked.count("embeddings.keep") <= 4
        assert "embeddings.lacking" not in asked
        assert sum((await stored_vectors(targets)).values()) == 20
        assert [(await manager.user_stats(user)).pending_embeddings for user in users] == [0] * 20
        assert await run_job(manager, BACKFILL)
        assert "embeddings.lacking" not in [one["query"] for one in events.named("postgres_statement")]

    async def test_what_others_wrote_in_between_is_not_passed_over(self, instance: Instance, words: Words) -> None:
        manager, without = instance(embedder=words), instance()
        await manager.store_persistent_memory("nick", "tea is nice")
        assert await manager.flush()
        await without.store_persistent_memory("nick", "Rex is a dog")
        await manager.store_persistent_memory("nick", "she drives a lorry")
        assert await manager.flush()
        assert (await manager.user_stats("nick")).pending_embeddings == 1
        assert await run_job(manager, BACKFILL)
        assert (await manager.user_stats("nick")).pending_embeddings == 0
        assert await found(manager, "puppy") == ["Rex is a dog"]

    async def test_what_changed_beside_it_is_embedded_as_well(
        self, instance: Instance, words: Words, targets: Targets
    ) -> None:
        manager = instance(embedder=words)
        node_id = await manager.store_persistent_memory("nick", "Rex is a dog")
        assert await manager.flush()
        await asyncio.gather(
            manager.update_memory("nick", node_id, content="Rex is a lorry"),
            manager.store_persistent_memory("nick", "tea is nice"),
            manager.store_entity("nick", entity_system="crm", entity_type="pet", entity_name="Rex"),
        )
        assert await manager.flush()
        assert sum((await stored_vectors(targets)).values()) == 3
        assert (await manager.user_stats("nick")).pending_embeddings == 0

    async def test_who_is_gone_by_then_is_left_out(self, instance: Instance, words: Words, targets: Targets) -> None:
        manager = instance(embedder=words)
        words.going_on.clear()
        await asyncio.gather(*(manager.store_persistent_memory(user, "Rex is a dog") for user in ("ann", "eve")))
        async with administration(targets) as connection:
            await connection.execute("delete from memory.user_metadata where user_id = 'eve'")
        words.going_on.set()
        assert await manager.flush()
        async with administration(targets) as connection:
            rows = await connection.fetch("select user_id from memory.embeddings")
        assert [row["user_id"] for row in rows] == ["ann"]

    async def test_a_text_that_is_refused_costs_no_other_user_anything(
        self, instance: Instance, service: Service, targets: Targets
    ) -> None:
        manager = instance(embedder="openai:text-embedding-3-small", openai_api_key=service.key)
        service.refused_text = "the text of eve"
        users = ("ann", "eve", "nick")
        await asyncio.gather(*(manager.store_persistent_memory(user, f"the text of {user}") for user in users))
        assert await manager.flush()
        assert sum((await stored_vectors(targets)).values()) == 2


class TestCatchingUp:
    async def test_memories_from_before_there_was_an_embedder(
        self, instance: Instance, words: Words, targets: Targets
    ) -> None:
        manager = instance()
        await manager.store_many("nick", [{"content": f"fact {number} about tea"} for number in range(999)])
        await manager.store_persistent_memory("nick", "Rex is a dog")
        before = (await manager.ensure_user_memories("nick")).get_all_nodes()
        assert manager.health().pending_embeddings is None
        with_embedder = instance(embedder=words)
        assert (await with_embedder.user_stats("nick")).pending_embeddings == 1000
        assert await run_job(with_embedder, BACKFILL)
        assert (await with_embedder.user_stats("nick")).pending_embeddings == 0
        assert await found(with_embedder, "puppy") == ["Rex is a dog"]
        assert (await with_embedder.ensure_user_memories("nick")).get_all_nodes() == before
        assert sum((await stored_vectors(targets)).values()) == 1000

    async def test_an_outage_of_the_embedder_costs_nothing_but_meaning(
        self, instance: Instance, words: Words, events: Recorded
    ) -> None:
        manager = instance(embedder=words, events=events)
        words.failing = RuntimeError("away")
        for text in ("Rex is a dog", "she drives a lorry"):
            await manager.store_persistent_memory("nick", text)
        with Deadline(1):
            assert await found(manager, "lorry") == ["she drives a lorry"]
        assert await found(manager, "puppy") == []
        assert not await manager.flush(timeout=0.3)
        assert manager.health().pending_embeddings == 2
        assert len(events.named("embedder_unavailable")) == 1
        words.failing = None
        assert await manager.flush()
        assert manager.health().pending_embeddings == 0
        assert await found(manager, "puppy") == ["Rex is a dog"]
        assert len(events.named("embedder_recovered")) == 1

    async def test_a_text_that_is_refused_holds_nobody_up(
        self, instance: Instance, service: Service, events: Recorded
    ) -> None:
        service.refused_text = "dog 7"
        manager = instance(embedder="openai:text-embedding-3-small", openai_api_key="right-key", events=events)
        await manager.store_many("nick", [{"content": f"dog {number}"} for number in range(20)])
        assert await manager.flush(timeout=20)
        assert len(events.named("embedding_refused")) == 1
        assert (await manager.user_stats("nick")).pending_embeddings == 0
        assert len(await found(manager, "puppy", limit=30)) == 19

    async def test_a_wrong_key_is_said_once_and_the_right_one_catches_up(
        self, instance: Instance, service: Service, events: Recorded
    ) -> None:
        service.key = "the right one"
        manager = instance(embedder="openai:text-embedding-3-small", openai_api_key="another", events=events)
        await manager.store_persistent_memory("nick", "Rex is a dog")
        assert await found(manager, "dog") == ["Rex is a dog"]
        assert not await manager.flush(timeout=0.3)
        (said,) = events.named("embedder_unavailable")
        assert "401" in said["error"]
        service.key = "another"
        assert await manager.flush()
        assert await found(manager, "puppy") == ["Rex is a dog"]

    async def test_a_new_model_takes_over_when_it_has_everything(
        self, instance: Instance, service: Service, targets: Targets
    ) -> None:
        model, key = "openai:text-embedding-3-", {"openai_api_key": "right-key"}
        manager = instance(embedder=f"{model}small", **key)
        await manager.store_many("nick", [{"content": "Rex is a dog"}, {"content": "tea is nice"}])
        assert await manager.flush()
        await manager.aclose()
        service.down = True
        service.dimensions = 3072
        changed = instance(embedder=f"{model}large", **key)
        await changed.store_persistent_memory("nick", "she drives a lorry")
        assert not await changed.flush(timeout=0.3)
        service.down, service.dimensions = False, 1536
        assert await found(changed, "puppy") == ["Rex is a dog"]
        assert service.models[-1] == "text-embedding-3-small"
        service.dimensions = 3072
        await until(lambda: changed.flush(0.5), "the new model has made its vectors")
        assert await found(changed, "car") == ["she drives a lorry"]
        assert service.models[-1] == "text-embedding-3-large"
        assert await stored_vectors(targets) == {
            "openai:text-embedding-3-small": 2,
            "openai:text-embedding-3-large": 3,
        }

    async def test_what_waits_in_the_outbox_gets_its_vector_when_it_arrives(
        self, targets: Targets, proxy: FaultProxy, words: Words
    ) -> None:
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=proxy.port, connect_timeout_seconds=2)
        async with HybridMemoryManager(settings, embedder=words) as manager:
            await manager.store_persistent_memory("nick", "tea is nice")
            await manager.flush()
            proxy.reset()
            await manager.store_persistent_memory("nick", "Rex is a dog")
            assert await found(manager, "dog") == ["Rex is a dog"]
            proxy.heal()
            assert await manager.flush(timeout=15)
            assert await found(manager, "puppy") == ["Rex is a dog"]


class TestKept:
    async def test_a_text_is_asked_about_once_per_user(self, instance: Instance, words: Words) -> None:
        manager = instance(embedder=words)
        for user in ("nick", "nick", "eve"):
            await manager.store_persistent_memory(user, "Rex is a dog", deduplicate=False)
            await manager.flush()
        assert words.asked.count("Rex is a dog") == 2

    async def test_known_vectors_are_compared_while_postgres_is_away(
        self, targets: Targets, proxy: FaultProxy, words: Words, tmp_path: Path
    ) -> None:
        through, data = proxy.targets(targets), tmp_path / "data"
        settings = settings_for(through, postgres_port=proxy.port, connect_timeout_seconds=2, data_dir=data)
        async with HybridMemoryManager(settings, embedder=words) as manager:
            await manager.store_many("nick", [{"content": "Rex is a dog"}, {"content": "tea is nice"}])
            await manager.flush()
            await manager.ensure_user_memories("nick")
        proxy.reset()
        async with HybridMemoryManager(settings, embedder=words) as manager:
            assert (await manager.ensure_user_memories("nick")).stale
            assert await found(manager, "puppy") == ["Rex is a dog"]
        assert words.asked.count("Rex is a dog") == 1

    async def test_no_vector_is_kept_of_another_users_memory_or_of_a_changed_one(
        self, manager: HybridMemoryManager, targets: Targets
    ) -> None:
        await manager.store_persistent_memory("nick", "mine")
        hers = await manager.store_persistent_memory("eve", "hers")
        keep = (
            "select o_kept from memory.keep_vectors($1, $4, 0, null, 'm', 2, array[$2::uuid], '{content}',"
            " array[$3::bigint], array['[1,2]'::public.vector], '{}', 'm')"
        )
        lives = {user: (await manager.ensure_user_memories(user)).incarnation for user in ("nick", "eve")}
        async with connection_to(targets.runtime) as connection:
            for user, version, kept in (("nick", 1, []), ("eve", 7, []), ("eve", 1, [hers])):
                async with connection.transaction():
                    answer = await connection.fetchval(keep, user, hers, version, lives[user])
                assert list(map(str, answer)) == kept


class TestGiven:
    async def test_without_an_embedder_vectors_of_callers_are_compared(self, instance: Instance) -> None:
        manager, other = instance(), instance()
        for text in ("Rex is a dog", "she drives a lorry"):
            await manager.store_persistent_memory("nick", text, embedding=vector_of(text))
        for one in (manager, other):
            hits = await one.recall("nick", vector=vector_of("puppy"), limit=1)
            assert [hit.node.text for hit in hits] == ["Rex is a dog"]
        with pytest.raises(InvalidInput, match="vector has 3 dimensions, those of the memories have 16"):
            await manager.recall("nick", vector=[1, 2, 3])
        assert await manager.recall("eve", vector=[1, 2, 3]) == []

    async def test_with_one_they_are_of_its_model_or_refused(
        self, instance: Instance, words: Words, targets: Targets
    ) -> None:
        manager = instance(embedder={"embed": words, "dims": 16})
        await manager.store_persistent_memory("nick", "something else", embedding=vector_of("dog"))
        with pytest.raises(InvalidInput, match=r"embedding has 3 dimensions, those of .*Words have 16"):
            await manager.store_persistent_memory("nick", "too short", embedding=[1, 2, 3])
        with pytest.raises(InvalidInput, match="vector has 3 dimensions"):
            await manager.recall("nick", vector=[1, 2, 3])
        assert await manager.flush()
        assert words.asked == []
        assert await found(manager, "puppy") == ["something else"]
        assert list(await stored_vectors(targets)) == ["tests.support.embedders:Words"]

    @pytest.mark.parametrize(
        "given", [{}, {"query": " "}, {"query": "a", "limit": 0}, {"query": 7}, {"vector": [0, 0]}]
    )
    async def test_what_cannot_be_asked(self, manager: HybridMemoryManager, given: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            await manager.recall("nick", **given)


async def test_writers_do_not_wait_for_a_slow_embedder(instance: Instance, words: Words) -> None:
    manager = instance(embedder=words)
    await manager.store_persistent_memory("nick", "the first")
    words.going_on.clear()
    with Deadline(1):
        for number in range(20):
            await manager.store_persistent_memory("nick", f"fact {number}")
    with Deadline(3):
        assert await found(manager, "fact 7", limit=1) == ["fact 7"]
    words.going_on.set()
    assert await manager.flush()
    assert await run_job(manager, EMBEDDINGS)


def test_no_thread_is_left_by_the_service() -> None:
    with embedding_service():
        pass
    assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]
