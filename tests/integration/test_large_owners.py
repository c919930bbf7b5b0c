"""Users too large to be held: found in Postgres by the same call, completely, and through an index of their vectors."""

import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from pgvector import Vector
from pgvector.asyncpg import register_vector

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.memory.large_users import LARGE_OWNERS, MOST_COMPARED
from hybrid_memory.postgres import large_owners
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.embeddings import Space
from hybrid_memory.postgres.large_owners import Asked, Candidates, LargeOwners
from hybrid_memory.postgres.target import Targets
from tests.support.embedders import Words
from tests.support.managers import run_job
from tests.support.recording import Recorded
from tests.support.servers import administration, connection_to, running_server

Instance = Callable[..., HybridMemoryManager]
SPACE = Space("m", 24)


async def texts(manager: HybridMemoryManager, query: str, **keywords: Any) -> list[str | None]:
    return [hit.node.text for hit in await manager.recall("nick", query, **keywords)]


@pytest.fixture
async def filled(instance: Instance) -> None:
    """Two hundred memories of nick, some of eve."""
    writer = instance(embedder=Words())
    items: list[dict[str, Any]] = [{"content": f"note {number} about tea"} for number in range(200)]
    items[17] |= {"content": "Rex is a dog", "tags": ["Pets", "Große Tiere"]}
    items[40] |= {"content": "she drives a lorry", "thread_id": "t1", "metadata": {"source": "crm"}}
    await writer.store_many("nick", items)
    await writer.store_many("eve", [{"content": "a secret dog"}, {"content": "a secret lorry"}])
    assert await writer.flush()


@pytest.mark.usefixtures("filled")
class TestFinding:
    async def test_a_vector_without_a_direction_does_not_hide_what_words_find(self, instance: Instance) -> None:
        manager = instance(embedder=Words(), max_held_memories=50)
        assert (await texts(manager, "who drives?", vector=[1e-60] * 16, limit=1)) == ["she drives a lorry"]

    async def test_nothing_is_loaded_and_everything_is_found(self, instance: Instance, events: Recorded) -> None:
        manager = instance(embedder=Words(), max_held_memories=50, events=events)
        for _ in range(2):
            assert (await texts(manager, "puppy", limit=1)) == ["Rex is a dog"]
            assert (await texts(manager, "who drives?", limit=1)) == ["she drives a lorry"]
            assert (await texts(manager, "note 123", limit=1)) == ["note 123 about tea"]
            assert len(await texts(manager, "tea", limit=150)) == 150
            assert await run_job(manager, LARGE_OWNERS)
        assert events.named("loading_user_memories_from_postgres") == []
        (hit,) = await manager.recall("nick", "who drives?", limit=1, explain=True)
        assert hit.explanation is not None
        assert "drive" in str(hit.explanation)

    async def test_filters_come_before_the_ranking(self, instance: Instance) -> None:
        manager = instance(embedder=Words(), max_held_memories=50)
        for _ in range(2):
            for tag in ("pets", "Große Tiere", "GROSSE TIERE"):
                assert (await texts(manager, "tea", tags=[tag])) == ["Rex is a dog"], tag
            assert (await texts(manager, "tea", thread_id="t1", metadata={"source": "crm"})) == ["she drives a lorry"]
            assert (await texts(manager, "tea", context_types="tool_output")) == []
            await run_job(manager, LARGE_OWNERS)

    async def test_tags_of_every_alphabet_are_compared_without_case(self, instance: Instance) -> None:
        manager = instance(embedder=Words(), max_held_memories=50)
        for tag in ("Straße", "ÄRGER", "Σίσυφος"):
            await manager.store_persistent_memory("nick", f"tea and {tag}", tags=[tag])
        for tag, text in (("STRASSE", "Straße"), ("straße", "Straße"), ("ärger", "ÄRGER"), ("ΣΊΣΥΦΟΣ", "Σίσυφος")):
            assert (await texts(manager, "tea", tags=[tag])) == [f"tea and {text}"]

    async def test_changes_count_at_once(self, instance: Instance) -> None:
        manager = instance(max_held_memories=50)
        await run_job(manager, LARGE_OWNERS)
        new = await manager.store_persistent_memory("nick", "an umbrella")
        assert (await texts(manager, "umbrella")) == ["an umbrella"]
        await run_job(manager, LARGE_OWNERS)
        await manager.update_memory("nick", new, content="a parasol")
        for _ in range(2):
            assert (await texts(manager, "umbrella")) == []
            assert (await texts(manager, "parasols")) == ["a parasol"]
            await run_job(manager, LARGE_OWNERS)
        await manager.forget("nick", new)
        assert (await texts(manager, "parasol")) == []

    async def test_a_question_that_takes_too_long_loads_nobody(
        self, instance: Instance, events: Recorded, targets: Targets
    ) -> None:
        manager = instance(max_held_memories=50, events=events, command_timeout_seconds=0.3)
        assert (await texts(manager, "dog")) == ["Rex is a dog"]
        async with administration(targets) as connection, connection.transaction():
            await connection.execute("lock table memory.postings in access exclusive mode")
            with pytest.raises(StorageUnavailable):
                await manager.recall("nick", "dog")
        assert (await texts(manager, "dog")) == ["Rex is a dog"]
        assert events.named("loading_user_memories_from_postgres") == []

    async def test_words_are_those_of_the_language_of_the_settings(self, instance: Instance) -> None:
        manager = instance(max_held_memories=50, language="portuguese")
        await manager.store_persistent_memory("nick", "eles correram ontem")
        for _ in range(2):
            assert (await texts(manager, "correr?")) == ["eles correram ontem"]
            await run_job(manager, LARGE_OWNERS)

    async def test_the_same_for_small_and_large(self, instance: Instance) -> None:
        large, small = instance(embedder=Words(), max_held_memories=50), instance(embedder=Words())
        await run_job(large, LARGE_OWNERS)
        for question in ("puppy", "which car does she drive", "note 7"):
            assert (await texts(large, question, limit=1)) == (await texts(small, question, limit=1))


Clustered = tuple[LargeOwners, np.ndarray[Any, Any]]
SIZE = 600
_AT_ONCE = 10_000


@pytest.fixture
async def clustered(targets: Targets, database: Database) -> Clustered:
    """Vectors of nick and as many of others."""
    return LargeOwners(database), await fill(targets, SIZE, SIZE)


async def fill(targets: Targets, size: int, others: int, users: int = 20) -> np.ndarray[Any, Any]:
    """Vectors of nick and of many others, in clusters, as texts of people are; those of nick."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(max(60, size // 200), SPACE.dimensions)).astype(np.float32)
    of_nick = []
    async with administration(targets) as connection:
        await register_vector(connection)
        for start in range(0, size + others, _AT_ONCE):
            count = min(_AT_ONCE, size + others - start)
            noise = rng.normal(size=(count, SPACE.dimensions)).astype(np.float32)
            vectors = centres[rng.integers(len(centres), size=count)] + np.float32(0.6) * noise
            of_nick.append(vectors[: max(0, size - start)])
            keys = [
                ("nick" if number < size else f"u{number % users}", UUID(f"{number:032d}"))
                for number in range(start, start + count)
            ]
            await connection.copy_records_to_table(
                "nodes",
                schema_name="memory",
                columns=["user_id", "node_id", "content"],
                records=[(*key, "{}") for key in keys],
            )
            await connection.copy_records_to_table(
                "embeddings",
                schema_name="memory",
                columns=["user_id", "node_id", "model", "dimensions", "embedding"],
                records=[
                    (*key, SPACE.model, SPACE.dimensions, Vector(vector))
                    for key, vector in zip(keys, vectors, strict=True)
                ],
            )
        await connection.execute(
            "insert into memory.user_metadata (user_id, node_count)"
            " select user_id, count(*) from memory.nodes group by user_id"
        )
        await connection.execute("analyze")
    return np.concatenate(of_nick)


def nearest(vectors: np.ndarray[Any, Any], question: np.ndarray[Any, Any], most: int) -> set[str]:
    cosines = vectors @ question / np.linalg.norm(vectors, axis=1)
    return {f"{number:032d}" for number in np.argpartition(-cosines, most)[:most]}


def asked(question: np.ndarray[Any, Any], most: int = 10, filters: str = "{}") -> Asked:
    return Asked(text="", language="english", space=SPACE, vector=question, filters=filters, most=most)


async def plan_of_the_nearest(targets: Targets) -> str:
    """How Postgres finds the nearest of nick's vectors that are in the index."""
    text = (
        "select e.node_id from memory.embeddings e where e.ann and e.model = 'm' and e.dimensions = 24"
        " and e.user_id = 'nick' order by e.embedding::public.vector(24) operator(public.<=>)"
        f" '{[1] * 24}'::public.vector(24) limit 10"
    )
    async with connection_to(targets.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users('{nick}')")
        return str(await connection.fetchval(f"explain (format json) {text}"))


class TestTheIndex:
    async def test_it_finds_nearly_everything_and_other_users_do_not_matter(self, clustered: Clustered) -> None:
        rows, vectors = clustered
        questions = [vector + 0.1 for vector in vectors[::60]]
        before = [await rows.candidates("nick", asked(one)) for one in questions]
        assert {one.compared for one in before} == {"exactly"}
        assert await rows.index_vectors("nick", SPACE) == SIZE
        assert await rows.index_vectors("nick", SPACE) == 0
        shares = []
        for question, exact in zip(questions, before, strict=True):
            wanted = nearest(vectors, question, 10)
            assert {one.replace("-", "") for one in exact.cosines} == wanted
            found = await rows.candidates("nick", asked(question))
            assert found.compared == "by index"
            shares.append(len({one.replace("-", "") for one in found.cosines} & wanted) / 10)
        assert sum(shares) / len(shares) >= 0.95

    async def test_the_statement_is_that_of_the_index(self, clustered: Clustered, targets: Targets) -> None:
        rows, _ = clustered
        await rows.index_vectors("nick", SPACE)
        assert "embeddings_ann_" in await plan_of_the_nearest(targets)

    async def test_a_short_portion_is_not_the_last(
        self, clustered: Clustered, targets: Targets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A memory that is changed while its portion is put in is left out of it."""
        rows, _ = clustered
        monkeypatch.setattr(large_owners, "_PORTION", 100)
        put = LargeOwners._put_into_index
        portions = 0

        async def changed_meanwhile(*told: Any) -> Any:
            nonlocal portions
            portions += 1
            return (await put(*told))[1:] if portions == 1 else await put(*told)

        monkeypatch.setattr(LargeOwners, "_put_into_index", changed_meanwhile)
        await rows.index_vectors("nick", SPACE)
        async with administration(targets) as connection:
            left = "select count(*) from memory.embeddings where user_id = 'nick' and not ann"
            assert await connection.fetchval(left) == 0

    async def test_what_is_not_in_it_yet_is_compared_too(self, clustered: Clustered, targets: Targets) -> None:
        rows, _ = clustered
        await rows.index_vectors("nick", SPACE)
        async with administration(targets) as connection:
            await connection.execute(
                "update memory.embeddings set ann = false, version = 1, embedding = $1::text::public.vector"
                " where node_id = lpad('5', 32, '0')::uuid",
                str([-9.0] * 24),
            )
        found = await rows.candidates("nick", asked(np.full(24, -1, dtype=np.float32), most=1))
        assert [one[-1] for one in found.cosines] == ["5"]

    async def test_without_it_everything_is_compared(self, clustered: Clustered, targets: Targets) -> None:
        rows, vectors = clustered
        await rows.index_vectors("nick", SPACE)
        async with administration(targets) as connection:
            name = await connection.fetchval("select memory.ann_index('m/24')")
            await connection.execute(f"drop index memory.{name}")
            missing = await connection.fetch("select * from memory.missing_ann_indexes()")
        assert [row[0] for row in missing] == ["m/24"]
        found = await rows.candidates("nick", asked(vectors[5]))
        assert found.compared == "exactly"
        assert {one.replace("-", "") for one in found.cosines} == nearest(vectors, vectors[5], 10)
        await rows.index_vectors("nick", SPACE)
        assert (await rows.candidates("nick", asked(vectors[5]))).compared == "by index"

    async def test_where_others_fill_it_everything_is_compared(self, clustered: Clustered, targets: Targets) -> None:
        rows, vectors = clustered
        await rows.index_vectors("nick", SPACE)
        for held, compared in ((10 * SIZE, "by index"), (20 * SIZE, "exactly")):
            async with administration(targets) as connection:
                await connection.execute(
                    "update pg_class set reltuples = $1 where relname = memory.ann_index('m/24')", float(held)
                )
            found = await rows.candidates("nick", asked(vectors[5]))
            assert found.compared == compared
            assert {one.replace("-", "") for one in found.cosines} == nearest(vectors, vectors[5], 10)

    async def test_a_filter_that_lets_little_through_is_answered_completely(
        self, clustered: Clustered, targets: Targets
    ) -> None:
        rows, vectors = clustered
        await rows.index_vectors("nick", SPACE)
        async with administration(targets) as connection:
            await connection.execute(
                "update memory.nodes set tags = '{Rare}' where user_id = 'nick' and node_id::text like '%7777'"
                " or node_id::text like '%0042'"
            )
        found = await rows.candidates("nick", asked(vectors[5], filters='{"tags": ["rare"]}'))
        assert {one[-4:] for one in found.cosines} == {"0042"}

    async def test_nobody_finds_anything_of_somebody_else(self, clustered: Clustered, targets: Targets) -> None:
        rows, vectors = clustered
        await rows.index_vectors("nick", SPACE)
        await rows.index_words("nick", "english")
        found = await rows.candidates("u1", asked(vectors[5], most=1000))
        assert {node.user_id for node in found.nodes} == {"u1"}
        assert len(found.nodes) == SIZE / 20
        async with connection_to(targets.runtime) as connection, connection.transaction():
            await connection.execute("select memory.bind_users('{u1}')")
            assert await connection.fetchval("select count(*) from memory.postings") == 0


@pytest.fixture
async def roomy(settings: Settings, events: Recorded) -> AsyncIterator[tuple[Targets, Database]]:
    """A server that has the memory for an index of a million vectors, and the time to compare them one by one."""
    with running_server(18, shared_buffers="1GB") as server:
        async with server.migrated_database() as targets:
            patient = settings.model_copy(update={"command_timeout_seconds": 120})
            database = await Database.open(targets, patient, events)
            yield targets, database
            await database.close()


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("size", [MOST_COMPARED, 100_000, 1_000_000])
async def test_a_very_large_user_among_a_thousand_others(roomy: tuple[Targets, Database], size: int) -> None:
    """From the size on at which the index is made it finds nearly everything, sooner than looking at everything."""
    (targets, database), begun = roomy, time.perf_counter()
    rows = LargeOwners(database)

    def told(text: str) -> None:
        print(f"{size} rows, {time.perf_counter() - begun:.0f} s: {text}", flush=True)

    vectors = await fill(targets, size, 100_000, users=1000)
    told("filled")
    questions = vectors[:: size // 200] + np.float32(0.1)
    exactly = [await timed(rows, one) for one in questions[::10]]
    assert {found.compared for found, _ in exactly} == {"exactly"}
    told("asked without an index")
    tenth = size // 10
    done = await rows.index_vectors("nick", SPACE, lambda total: None if total % tenth else told(f"{total} indexed"))
    assert done == size
    assert "embeddings_ann_" in await plan_of_the_nearest(targets)
    shares, answered = [], [await timed(rows, one) for one in questions]
    assert {found.compared for found, _ in answered} == {"by index"}
    for question, (found, _) in zip(questions, answered, strict=True):
        first = {one.replace("-", "") for one in list(found.cosines)[:10]}
        shares.append(len(first & nearest(vectors, question, 10)) / 10)
    recall = sum(shares) / len(shares)
    slow, quick = (1000 * statistics.median(seconds for _, seconds in several) for several in (exactly, answered))
    told(f"recall@10 {recall:.3f}, p50 {quick:.1f} ms by index, {slow:.1f} ms one by one")
    assert recall >= 0.95
    assert quick < slow


async def timed(rows: LargeOwners, question: np.ndarray[Any, Any]) -> tuple[Candidates, float]:
    """As many candidates as a question for ten has, and how long they took."""
    start = time.perf_counter()
    return await rows.candidates("nick", asked(question, most=200)), time.perf_counter() - start
