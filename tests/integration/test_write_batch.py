"""The write path on each server version: exactly once, last writer wins, entities merge, nothing half done."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID, uuid4

import pytest

from hybrid_memory import Settings
from hybrid_memory.errors import StorageRejected
from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.postgres.batches import Applied, Batches, Embedding, Operation, Portion, QueuedBatches
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.target import Targets
from hybrid_memory.postgres.users import versions_of
from tests.support.recording import Recorded
from tests.support.rows import fact_row
from tests.support.servers import administration

if TYPE_CHECKING:
    import asyncpg

# A superuser's bare connection.
Eyes: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
START = datetime(2026, 5, 1, tzinfo=UTC)


class Writer:
    """One instance: numbers its operations and stamps them with its clock."""

    def __init__(self, database: Database) -> None:
        self.instance = str(uuid4())
        self.batches = Batches(database, self.instance)
        self._numbers = itertools.count(1)

    def node(self, node_id: str, text: str = "a fact", *, at: float = 0, **fields: Any) -> Operation:
        row = fact_row(node_id, text)
        embeddings = fields.pop("embeddings", ())
        return Operation(next(self._numbers), "nodes", row | self._stamp(at) | fields, embeddings)

    def entity(self, node_id: str, data: Mapping[str, Any], *, at: float = 0, **fields: Any) -> Operation:
        content = {"entity_id": "1", "entity_system": "s", "entity_type": "account", "entity_name": "GenePoint"}
        row = {
            "node_id": node_id,
            "content": content | {"entity_data": data} | fields.pop("content", {}),
            "summary": "GenePoint",
            "tags": [],
            "metadata": {},
            "importance": 0.5,
            "confidence": 0.7,
        }
        return Operation(next(self._numbers), "entities", row | self._stamp(at) | fields)

    def stub(self, node_id: str, *, at: float = 0) -> Operation:
        content = {"entity_id": "1", "entity_system": "s", "entity_data": {}, "aliases": []}
        row = {
            "node_id": node_id,
            "content": content,
            "summary": "1",
            "tags": [],
            "metadata": {"stub": True},
            "importance": 0.5,
            "confidence": 0,
        }
        return Operation(next(self._numbers), "entities", row | self._stamp(at))

    def edge(self, from_id: str, to_id: str, *, at: float = 0, **fields: Any) -> Operation:
        row = {
            "from_node_id": from_id,
            "to_node_id": to_id,
            "relationship_type": "led_to",
            "strength": 1,
            "metadata": {},
        }
        return Operation(next(self._numbers), "edges", row | self._stamp(at) | fields)

    def delete(self, node_id: str, *, at: float = 0) -> Operation:
        return Operation(next(self._numbers), "deletes", {"node_id": node_id} | self._stamp(at))

    def _stamp(self, at: float) -> dict[str, str]:
        return {"written_at": (START + timedelta(seconds=at)).isoformat(), "written_by": self.instance}

    async def write(self, *operations: Operation, user: str = "nick") -> tuple[int, int]:
        """The version and mark afterwards."""
        applied = (await self.batches.apply({user: operations}))[user]
        return applied.version, applied.mark


@pytest.fixture
async def batch_database(each_targets: Targets, settings: Settings, events: Recorded) -> AsyncIterator[Database]:
    opened = await Database.open(each_targets, settings, events)
    yield opened
    await opened.close()


@pytest.fixture
def writer(batch_database: Database) -> Writer:
    return Writer(batch_database)


@pytest.fixture
def other(batch_database: Database) -> Writer:
    """Another process."""
    return Writer(batch_database)


@pytest.fixture
async def look(each_targets: Targets) -> AsyncIterator[Eyes]:
    async with administration(each_targets) as connection:
        yield connection


@pytest.fixture
def queued(batch_database: Database) -> QueuedBatches:
    return QueuedBatches(batch_database)


def ids() -> Iterator[str]:
    while True:
        yield str(uuid4())


async def texts(look: Eyes) -> dict[str, str]:
    rows = await look.fetch("select node_id, content->>'text' as text from memory.nodes")
    return {str(row["node_id"]): row["text"] for row in rows}


async def one_row(look: Eyes, statement: str, *values: object) -> "asyncpg.Record":
    row = await look.fetchrow(statement, *values)
    assert row
    return row


async def counters(look: Eyes, user: str = "nick") -> tuple[int, int, int]:
    row = await one_row(
        look, "select node_count, relationship_count, entity_count from memory.user_metadata where user_id = $1", user
    )
    return row["node_count"], row["relationship_count"], row["entity_count"]


async def recounted(look: Eyes, user: str = "nick") -> tuple[int, int, int]:
    row = await one_row(
        look,
        "select (select count(*) from memory.nodes where user_id = $1) as nodes,"
        " (select count(*) from memory.relationships where user_id = $1) as edges,"
        " (select count(*) from memory.nodes where user_id = $1 and context_type = 'domain_entity') as entities",
        user,
    )
    return row["nodes"], row["edges"], row["entities"]


class TestExactlyOnce:
    async def test_a_batch_sent_again_changes_nothing(self, writer: Writer, look: Eyes) -> None:
        one, two = itertools.islice(ids(), 2)
        batch = [writer.node(one), writer.node(two), writer.edge(one, two)]
        assert await writer.write(*batch) == (1, 3)
        assert await writer.write(*batch) == (1, 3)
        assert await counters(look) == await recounted(look) == (2, 1, 0)

    async def test_of_an_overlapping_batch_only_the_new_part_is_applied(self, writer: Writer, look: Eyes) -> None:
        one, two = itertools.islice(ids(), 2)
        first, second = writer.node(one, "first"), writer.node(two)
        await writer.write(first)
        await look.execute('update memory.nodes set content = \'{"text": "by hand"}\'')
        applied = (await writer.batches.apply({"nick": [first, second]}))["nick"]
        assert (applied.version, applied.mark, applied.numbers) == (2, 2, (2,))
        assert (await texts(look))[one] == "by hand"

    async def test_many_senders_of_one_batch(self, writer: Writer, look: Eyes) -> None:
        batch = [writer.entity(str(uuid4()), {"n": number}, at=number) for number in range(1)]
        answers = await asyncio.gather(*(writer.write(*batch) for _ in range(40)))
        assert set(answers) == {(1, 1)}
        assert await look.fetchval("select content->>'update_count' from memory.nodes") == "1"

    async def test_two_users_in_one_call_stay_apart(self, writer: Writer, look: Eyes) -> None:
        nick, eve = itertools.islice(ids(), 2)
        applied = await writer.batches.apply({"nick": [writer.node(nick)], "eve": [writer.node(eve)]})
        assert {user: one.version for user, one in applied.items()} == {"nick": 1, "eve": 1}
        rows = await look.fetch("select user_id, node_id from memory.nodes")
        assert {(row["user_id"], str(row["node_id"])) for row in rows} == {("nick", nick), ("eve", eve)}

    async def test_an_operation_in_another_users_batch_is_refused(
        self, batch_database: Database, writer: Writer, look: Eyes
    ) -> None:
        with pytest.raises(StorageRejected) as caught:
            await batch_database.call(
                "batches.apply",
                user_id="nick",
                ops=json.dumps({"user_id": "eve", "last": 1}),
                instance=UUID(writer.instance),
                vectors=[],
                halves=[],
            )
        assert caught.value.sqlstate == "22023"
        assert await texts(look) == {}

    async def test_callers_that_write_for_the_same_users_do_not_block_each_other(
        self, batch_database: Database, look: Eyes, rng: random.Random
    ) -> None:
        users = ["ann", "bob", "eve", "nick"]

        async def work(writer: Writer) -> None:
            for _ in range(10):
                chosen = rng.sample(users, 3)
                await writer.batches.apply({user: [writer.node(str(uuid4()))] for user in chosen})

        await asyncio.gather(*(work(Writer(batch_database)) for _ in range(8)))
        for user in users:
            assert await counters(look, user) == await recounted(look, user)
        versions = await look.fetch("select user_id, version from memory.user_metadata")
        distinct = await look.fetch("select user_id, count(distinct version) as n from memory.nodes group by user_id")
        assert {row["user_id"]: row["n"] for row in distinct} == {row["user_id"]: row["version"] for row in versions}

    async def test_nor_do_they_while_users_are_erased(
        self, batch_database: Database, look: Eyes, rng: random.Random
    ) -> None:
        users, done = ["ann", "bob", "eve", "nick"], asyncio.Event()

        async def work(writer: Writer) -> None:
            for _ in range(25):
                chosen = rng.sample(users, 3)
                await writer.batches.apply({user: [writer.node(str(uuid4()))] for user in chosen})

        async def erase() -> None:
            while not done.is_set():
                async with look.transaction():
                    user = rng.choice(users)
                    for table in ("user_metadata", "nodes", "applied_watermarks"):
                        await look.execute(f"delete from memory.{table} where user_id = $1", user)

        erasing = asyncio.create_task(erase())
        try:
            await asyncio.gather(*(work(Writer(batch_database)) for _ in range(8)))
        finally:
            done.set()
            await erasing


class TestTelling:
    async def test_what_was_written_is_told_as_it_is_stored(self, writer: Writer, batch_database: Database) -> None:
        plain, full, ahead, again, gone = itertools.islice(ids(), 5)
        await writer.write(writer.node(again))
        created = datetime(2020, 2, 2, 12, tzinfo=UTC)
        everything: dict[str, Any] = {
            "content": {"bb": 0, "b": [1.5, 1e-7, 2**70, None, {"y": 1, "x": 2}], "a": {"text": "\u00fc\U0001f600"}},
            "content_kind": "json",
            "tags": ["one", "two"],
            "metadata": {"k": {"n": 1.0}},
            "importance": 0.25,
            "external_id": "a name",
            "thread_id": "a thread",
            "namespace": ["docs", "here"],
            "key": "k",
            "expires_at": "2999-01-01T00:00:00.000001+00:00",
            "created_at": created.isoformat(),
        }
        operations = [
            writer.node(plain),
            writer.node(full, **everything),
            writer.node(ahead, at=10 * 365 * 86_400),
            writer.node(again, "again", at=1),
            writer.node(gone),
            writer.delete(gone, at=1),
        ]
        applied = (await writer.batches.apply({"nick": operations}, echo=["nick"]))["nick"]
        assert applied.written is not None
        told = {node.node_id: node for node in applied.written.nodes}
        async with batch_database.transaction(["nick"]) as transaction:
            stored = {node.node_id: node for node in await Nodes(transaction, "nick").changed_since(1)}
        assert told == stored
        # What is made of a memory's text, such as its vector, is the same in every process.
        assert str(told[full].content) == str(stored[full].content)
        assert told.keys() == {plain, full, ahead, again}
        assert (told[full].created_at, told[full].seq) == (created, 1)


class TestQueued:
    """What waited of one user, of several runs, goes in one call."""

    async def test_each_run_sees_what_those_before_it_have_written(
        self, queued: QueuedBatches, writer: Writer, other: Writer, look: Eyes
    ) -> None:
        one, two, three = itertools.islice(ids(), 3)
        portions = [
            portion(writer, writer.node(one), writer.node(two)),
            portion(other, other.edge(one, two), other.node(three, at=1)),
            portion(writer, writer.edge(two, three), writer.node(one, "again", at=2)),
            portion(other, other.delete(two, at=3)),
        ]
        applied = await queued.apply("nick", portions, echo=True)
        assert [(each.version, each.mark) for each in applied] == [(1, 2), (2, 2), (3, 4), (4, 3)]
        assert await texts(look) == {one: "again", three: "a fact"}
        assert await counters(look) == await recounted(look) == (2, 0, 0)
        graph = UserGraph("nick")
        graph.apply(Delta(incarnation=None, version=0, complete=True))
        for each in applied:
            assert each.written is not None
            change = Delta(
                incarnation=each.incarnation,
                version=each.version,
                nodes=each.written.nodes,
                relationships=each.written.relationships,
                deleted=each.written.deleted,
                since=each.version - 1,
            )
            assert graph.apply(change)
        assert {node.node_id: node.text for node in graph.view().nodes()} == await texts(look)

    async def test_sent_again_nothing_changes(
        self, queued: QueuedBatches, writer: Writer, other: Writer, look: Eyes
    ) -> None:
        account = str(uuid4())
        portions = [portion(run, run.entity(account, {}, at=at)) for at, run in enumerate((writer, other) * 3)]
        await queued.apply("nick", portions[:3])
        # The first half had arrived, and nobody knew.
        applied = await queued.apply("nick", portions)
        assert [each.numbers for each in applied] == [(), (), (), (2,), (3,), (3,)]
        assert await look.fetchval("select content->>'update_count' from memory.nodes") == "6"
        assert (await queued.apply("nick", portions))[-1].version == 6

    async def test_one_that_is_refused_takes_all_of_them_with_it(
        self, queued: QueuedBatches, writer: Writer, other: Writer, look: Eyes
    ) -> None:
        one, nobody = itertools.islice(ids(), 2)
        bad = other.edge(one, nobody)
        with pytest.raises(StorageRejected) as caught:
            await queued.apply("nick", [portion(writer, writer.node(one)), portion(other, bad)])
        assert caught.value.operation == ("nick", bad.n)
        assert await texts(look) == {}

    async def test_others_are_told_once_per_call_and_of_repeats(
        self, batch_database: Database, writer: Writer, other: Writer
    ) -> None:
        told: list[tuple[str, int]] = []
        queued = QueuedBatches(batch_database, changed=lambda *change: told.append(change))
        portions = [portion(run, run.node(str(uuid4()))) for run in (writer, other)]
        await queued.apply("nick", portions)
        assert told == [("nick", 2)]
        await queued.apply("nick", portions)
        assert told == [("nick", 2)] * 2


def portion(writer: Writer, *operations: Operation) -> Portion:
    return Portion(writer.instance, None, operations)


class TestLastWriterWins:
    async def test_the_later_write_wins_whichever_comes_first(self, writer: Writer, other: Writer, look: Eyes) -> None:
        one, two = itertools.islice(ids(), 2)
        await writer.write(writer.node(one, "old", at=1), writer.node(two, "new", at=2))
        assert await other.write(other.node(one, "new", at=2), other.node(two, "old", at=1)) == (2, 2)
        assert await texts(look) == {one: "new", two: "new"}

    async def test_a_clock_far_ahead_is_cut_to_a_minute(self, writer: Writer, look: Eyes) -> None:
        one = str(uuid4())
        await writer.write(writer.node(one, at=10 * 365 * 86_400))
        ahead = await look.fetchval("select written_at - now() from memory.nodes")
        assert timedelta(seconds=50) < ahead <= timedelta(seconds=60)

    async def test_relationships_too(self, writer: Writer, other: Writer, look: Eyes) -> None:
        one, two = itertools.islice(ids(), 2)
        await writer.write(writer.node(one), writer.node(two), writer.edge(one, two, at=5, strength=0.5))
        await other.write(other.edge(one, two, at=4, strength=0.4))
        assert await look.fetchval("select strength from memory.relationships") == 0.5
        await other.write(other.edge(one, two, at=6, strength=0.6))
        assert await look.fetchval("select strength from memory.relationships") == 0.6
        assert await counters(look) == (2, 1, 0)


class TestDeletes:
    async def test_a_delete_takes_relationships_and_leaves_a_tombstone(self, writer: Writer, look: Eyes) -> None:
        one, two = itertools.islice(ids(), 2)
        await writer.write(writer.node(one), writer.entity(two, {}), writer.edge(one, two), writer.edge(two, one))
        await writer.write(writer.delete(two, at=1))
        assert await counters(look) == await recounted(look) == (1, 0, 0)
        tombstone = await one_row(look, "select node_id, version from memory.tombstones")
        assert (str(tombstone["node_id"]), tombstone["version"]) == (two, 2)

    async def test_a_late_write_does_not_bring_it_back_and_a_later_one_does(
        self, writer: Writer, other: Writer, look: Eyes
    ) -> None:
        one = str(uuid4())
        await writer.write(writer.node(one, at=1))
        await writer.write(writer.delete(one, at=3))
        assert await other.write(other.node(one, "late", at=2)) == (3, 1)
        assert await texts(look) == {}
        await other.write(other.node(one, "again", at=4))
        assert await texts(look) == {one: "again"}
        assert await counters(look) == (1, 0, 0)

    async def test_a_late_delete_does_not_take_a_later_write(self, writer: Writer, other: Writer, look: Eyes) -> None:
        one = str(uuid4())
        await writer.write(writer.node(one, at=5))
        await other.write(other.delete(one, at=4))
        assert await texts(look) == {one: "a fact"}
        assert await counters(look) == (1, 0, 0)
        assert await look.fetchval("select count(*) from memory.tombstones") == 0, "a cache would drop it"

    async def test_a_relationship_to_what_was_deleted_meanwhile_is_dropped(
        self, writer: Writer, other: Writer, look: Eyes
    ) -> None:
        one, two = itertools.islice(ids(), 2)
        await writer.write(writer.node(one), writer.node(two))
        await writer.write(writer.delete(two, at=9))
        assert await other.write(other.edge(one, two, at=8)) == (3, 1)
        assert await counters(look) == await recounted(look) == (1, 0, 0)


class TestEntities:
    async def test_merging_does_not_depend_on_the_order(self, batch_database: Database, look: Eyes) -> None:
        writers = [Writer(batch_database) for _ in range(4)]
        reports: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"phone": 1, "city": "Rome"}, {"tags": ["a"], "confidence": 0.6, "content": {"aliases": ["GP"]}}),
            ({"phone": 2, "size": {"x": 1}}, {"tags": ["b"], "confidence": 0.9, "summary": "second"}),
            ({"city": "Oslo"}, {"metadata": {"source": "crm"}, "content": {"entity_name": "GenePoint Inc"}}),
            ({"phone": None}, {"metadata": {"source": "mail"}, "content": {"aliases": ["GPI", "GP"]}}),
        ]
        seen = set()
        for order in itertools.permutations(range(4)):
            user = "-".join(map(str, order))
            node_id = str(uuid4())
            for number in order:
                data, fields = reports[number]
                operation = writers[number].entity(node_id, data, at=number, **fields)
                await writers[number].write(operation, user=user)
            row = await one_row(
                look,
                "select content, summary, tags, metadata, confidence, field_clocks, written_at from memory.nodes"
                " where user_id = $1",
                user,
            )
            seen.add(tuple(str(value) for value in row))
        assert len(seen) == 1
        content = json.loads(row["content"])
        assert content["entity_data"] == {"phone": None, "city": "Oslo", "size": {"x": 1}}
        assert content["aliases"] == ["GP", "GPI", "GenePoint Inc"]
        assert (content["entity_name"], content["update_count"]) == ("GenePoint", 4)
        assert (row["summary"], row["tags"], json.loads(row["metadata"])) == (
            "GenePoint",
            ["a", "b"],
            {"source": "mail"},
        )
        assert row["confidence"] == pytest.approx(1.0)

    async def test_fifty_at_once_make_one_row_with_all_keys(self, batch_database: Database, look: Eyes) -> None:
        node_id = str(uuid4())
        writers = [Writer(batch_database) for _ in range(50)]
        await asyncio.gather(
            *(writer.write(writer.entity(node_id, {f"key{n}": n}, at=n)) for n, writer in enumerate(writers))
        )
        content = json.loads(await look.fetchval("select content from memory.nodes"))
        assert content["entity_data"] == {f"key{n}": n for n in range(50)}
        assert content["update_count"] == 50
        assert await counters(look) == (1, 0, 1)

    async def test_every_name_but_the_last_becomes_an_alias_in_any_order(
        self, batch_database: Database, look: Eyes
    ) -> None:
        names = ["GenePoint", "Gene Point", "GP Inc", "GenePoint"]
        writers = [Writer(batch_database) for _ in names]
        seen = set()
        for order in itertools.permutations(range(4)):
            user, node_id = "-".join(map(str, order)), str(uuid4())
            for number in order:
                fields = {"entity_name": names[number], "aliases": ["GP"] if number == 1 else []}
                operation = writers[number].entity(node_id, {}, at=number, content=fields)
                await writers[number].write(operation, user=user)
            content = json.loads(await look.fetchval("select content from memory.nodes where user_id = $1", user))
            seen.add((content["entity_name"], *content["aliases"]))
        assert seen == {("GenePoint", "GP", "GP Inc", "Gene Point")}

    async def test_a_stub_is_filled_and_never_takes_anything_whatever_the_order(
        self, batch_database: Database, look: Eyes
    ) -> None:
        writers = [Writer(batch_database) for _ in range(4)]
        seen = set()
        for order in itertools.permutations(range(4)):
            user, node_id = "-".join(map(str, order)), str(uuid4())
            for number in order:
                writer = writers[number]
                operation = (
                    writer.stub(node_id, at=number)
                    if number in (1, 3)
                    else writer.entity(node_id, {f"k{number}": number}, at=number, metadata={"n": number})
                )
                await writer.write(operation, user=user)
            row = await one_row(
                look,
                "select content, summary, tags, metadata, confidence, field_clocks"
                " from memory.nodes where user_id = $1",
                user,
            )
            seen.add(tuple(str(value) for value in row))
            assert await counters(look, user) == await recounted(look, user) == (1, 0, 1)
        assert len(seen) == 1
        content = json.loads(row["content"])
        assert (content["update_count"], content["entity_data"], row["confidence"]) == (2, {"k0": 0, "k2": 2}, 0.75)
        assert json.loads(row["metadata"]) == {"n": 2}

    async def test_a_stub_leaves_a_known_entity_and_its_vector_as_they_are(
        self, writer: Writer, other: Writer, look: Eyes
    ) -> None:
        one = str(uuid4())
        await writer.write(writer.entity(one, {}))
        vector = "insert into memory.embeddings (user_id, node_id, model, dimensions, embedding)"
        await look.execute(f"{vector} values ('nick', $1, 'm', 1, '[1]')", one)
        before = await one_row(look, "select * from memory.nodes")
        assert await other.write(other.stub(one, at=9)) == (2, 1)
        assert await one_row(look, "select * from memory.nodes") == before
        assert await look.fetchval("select count(*) from memory.embeddings") == 1

    async def test_a_stub_is_as_old_as_what_fills_it_and_counts_as_a_deleted_one(
        self, writer: Writer, other: Writer, look: Eyes
    ) -> None:
        one, fact = itertools.islice(ids(), 2)
        await writer.write(writer.stub(one), writer.node(fact), writer.edge(fact, one))
        first = await look.fetchval("select created_at from memory.nodes where node_id = $1", one)
        await writer.write(writer.entity(one, {}, at=1))
        assert await look.fetchval("select created_at from memory.nodes where node_id = $1", one) > first
        await writer.write(writer.delete(one, at=5))
        await other.write(other.stub(one, at=4), other.edge(fact, one, at=4))
        assert await counters(look) == await recounted(look) == (1, 0, 0), "spoken of before it was forgotten"
        await other.write(other.stub(one, at=6), other.edge(fact, one, at=6))
        assert await counters(look) == await recounted(look) == (2, 1, 1)

    @pytest.mark.parametrize("written", ["entity", "stub"])
    async def test_an_entity_inserted_by_hand_gets_its_derived_id(
        self, writer: Writer, look: Eyes, written: str
    ) -> None:
        given, derived, fact = itertools.islice(ids(), 3)
        await writer.write(writer.node(fact))
        content = '{"entity_id": "1", "entity_system": "s", "entity_name": "Hand made", "entity_data": {"by": "hand"}}'
        for statement, values in (
            ("nodes (user_id, node_id, context_type, content) values ('nick', $1, 'domain_entity', $2)", (content,)),
            ("embeddings (user_id, node_id, model, dimensions, embedding) values ('nick', $1, 'm', 1, '[1]')", ()),
            ("relationships values ('nick', $1, $2, 'owns')", (fact,)),
            ("relationships values ('nick', $2, $1, 'mentions')", (fact,)),
            ("relationships values ('nick', $1, $1, 'refines')", ()),
        ):
            await look.execute(f"insert into memory.{statement}", given, *values)
        await look.execute("select memory.touch_user('nick')")
        stub = written == "stub"
        write = writer.stub(derived, at=1) if stub else writer.entity(derived, {"by": "us"}, at=1)
        assert await writer.write(write, writer.edge(derived, fact, at=1)) == (3, 3)
        rows = await look.fetch("select from_node_id, to_node_id, relationship_type, version from memory.relationships")
        named = {UUID(derived): "entity", UUID(fact): "fact"}
        assert {(named[row[0]], named[row[1]], row[2], row[3]) for row in rows} == {
            ("entity", "fact", "owns", 3), ("fact", "entity", "mentions", 3), ("entity", "entity", "refines", 3),
            ("entity", "fact", "led_to", 3),
        }  # fmt: skip
        node = await one_row(look, "select content, version from memory.nodes where node_id = $1", derived)
        assert json.loads(node["content"])["entity_data"] == {"by": "hand" if stub else "us"}
        assert node["version"] == 3
        assert await look.fetchval("select count(*) from memory.embeddings") == 0
        tombstone = await one_row(look, "select node_id, version from memory.tombstones")
        assert (str(tombstone["node_id"]), tombstone["version"]) == (given, 3)
        assert await counters(look) == await recounted(look) == (2, 4, 1)

    async def test_an_entity_cannot_be_overwritten_as_a_plain_memory(self, writer: Writer, look: Eyes) -> None:
        one = str(uuid4())
        await writer.write(writer.entity(one, {}))
        for operation in (writer.node(one), writer.node(str(uuid4()), context_type="domain_entity")):
            with pytest.raises(StorageRejected):
                await writer.write(operation)
        assert await counters(look) == await recounted(look) == (1, 0, 1)


async def test_a_repeat_is_not_held_against_what_came_after_it(writer: Writer, other: Writer, look: Eyes) -> None:
    one = str(uuid4())
    put, behind = writer.node(one), writer.node(str(uuid4()))
    await writer.write(put)
    await other.write(other.delete(one, at=1))
    await other.write(other.entity(one, {}, at=2))
    assert await writer.write(put, behind) == (4, 2)
    assert await counters(look) == await recounted(look) == (2, 0, 1)


async def test_relationships_that_become_one_through_a_twin_do_not_refuse_the_batch(writer: Writer, look: Eyes) -> None:
    there, twin, end = itertools.islice(ids(), 3)
    await writer.write(writer.node(there, content_hash="aa"), writer.node(end))
    await writer.write(
        writer.node(twin, content_hash="aa", only_once=True),
        writer.edge(twin, end, at=2, strength=0.2),
        writer.edge(there, end, at=1, strength=0.1),
    )
    rows = await look.fetch("select from_node_id, strength from memory.relationships")
    assert [(str(row["from_node_id"]), row["strength"]) for row in rows] == [(there, 0.2)]
    assert await counters(look) == await recounted(look) == (2, 1, 0)


class TestNothingHalfDone:
    @pytest.mark.parametrize(
        ("fields", "sqlstate"),
        [
            ({"importance": 2}, "23514"),
            ({"context_type": None}, "23502"),
            ({"content": {"text": "\x00"}}, "22P05"),
            ({"written_by": "no uuid"}, "22P02"),
            ({"expires_at": "yesterday-ish"}, "22007"),
            ({"importance": 1e400}, "22P02"),
        ],
    )
    async def test_one_bad_operation_leaves_nothing(
        self, writer: Writer, look: Eyes, fields: dict[str, Any], sqlstate: str
    ) -> None:
        good, bad = writer.node(str(uuid4())), writer.node(str(uuid4()), **fields)
        with pytest.raises(StorageRejected) as caught:
            await writer.write(good, bad)
        assert caught.value.sqlstate == sqlstate
        assert await texts(look) == {}
        assert await writer.write(good) == (1, 1), "the watermark did not move"

    async def test_a_missing_end_is_named(self, writer: Writer, look: Eyes) -> None:
        one = str(uuid4())
        bad = writer.edge(one, str(uuid4()))
        with pytest.raises(StorageRejected) as caught:
            await writer.write(writer.node(one), bad)
        assert caught.value.sqlstate == "23503"
        assert caught.value.operation == ("nick", bad.n)
        assert await texts(look) == {}

    async def test_another_users_node_is_a_missing_end(self, writer: Writer) -> None:
        nick, eve = itertools.islice(ids(), 2)
        await writer.batches.apply({"nick": [writer.node(nick)], "eve": [writer.node(eve)]})
        with pytest.raises(StorageRejected):
            await writer.write(writer.edge(nick, eve))


class TestSeveralUsers:
    """What is simple is written for all users of a call by the same statements, and as if each were alone."""

    async def test_together_comes_out_what_comes_out_for_each_alone(
        self, batch_database: Database, look: Eyes, rng: random.Random
    ) -> None:
        writers = [Writer(batch_database) for _ in range(2)]
        users, pool = ["ann", "B\u00f6b", "Zed", "\u4e09"], [str(uuid4()) for _ in range(5)]
        new_ids = [str(uuid4()) for _ in range(60)]
        simple = 0
        for step in range(60):
            writer, at = rng.choice(writers), rng.randrange(20) + step
            batches = {}
            for user in rng.sample(users, rng.randint(2, 4)):
                some = rng.sample(pool, rng.randint(1, 3))
                batches[user] = [writer.node(one, f"{step}", at=at, **_with_vector(rng.choice("abc"))) for one in some]
                if rng.random() < 0.2:
                    once = _with_vector(rng.choice("cdefgh")) | {"only_once": True}
                    batches[user].append(writer.node(new_ids[step], f"{step}", at=at, **once))
                if rng.random() < 0.03:
                    batches[user] += [writer.delete(some[0], at=at)]
            for _ in range(rng.choice([1, 1, 1, 2])):
                together = await writer.batches.apply(
                    {f"one {user}": operations for user, operations in batches.items()},
                    echo=[f"one {user}" for user in users],
                )
                assert list(together) == sorted(together)
                for user, operations in batches.items():
                    alone = await writer.batches.apply({f"two {user}": operations}, echo=[f"two {user}"])
                    assert _told(together[f"one {user}"]) == _told(alone[f"two {user}"])
            at_once = "select count(distinct last_activity) from memory.user_metadata where user_id = any ($1)"
            simple += await look.fetchval(at_once, list(together)) == 1
        assert simple > 10
        for rows in (
            "select node_id, content, version, written_at, written_by, content_hash from memory.nodes",
            "select node_id, model, embedding::text, content_hash, version from memory.embeddings",
            "select version, node_count from memory.user_metadata",
            "select seq from memory.applied_watermarks",
        ):
            for user in users:
                found = [
                    sorted(map(repr, await look.fetch(f"{rows} where user_id = $1", f"{where} {user}")))
                    for where in ("one", "two")
                ]
                assert found[0] == found[1] != [], rows

    async def test_also_by_a_connection_that_looked_at_all_users(
        self, batch_database: Database, writer: Writer, look: Eyes
    ) -> None:
        users = ["ann", "eve"]
        for user in users:
            await look.execute("insert into memory.user_metadata (user_id) values ($1)", user)
        for _ in range(3):
            assert (await versions_of(batch_database, users)).keys() == set(users)
            await writer.batches.apply({user: [writer.node(str(uuid4()))] for user in users})
            assert await look.fetchval("select count(distinct last_activity) from memory.user_metadata") == 1

    async def test_each_is_told_what_is_stored(self, writer: Writer, batch_database: Database) -> None:
        users, (again, new) = ["ann", "eve", "nick"], itertools.islice(ids(), 2)
        for _ in range(2):
            await writer.batches.apply({user: [writer.node(again)] for user in users})
        batches = {
            user: [writer.node(new, f"of {user}"), writer.node(again, f"{user} again", at=1)] for user in users[:2]
        }
        applied = await writer.batches.apply(batches | {"nick": [writer.node(again, at=-1)]}, echo=["ann", "nick"])
        assert applied["eve"].written is None
        assert applied["nick"].written is not None
        assert applied["nick"].written.nodes == []
        assert applied["ann"].written is not None
        async with batch_database.transaction(["ann"]) as transaction:
            stored = await Nodes(transaction, "ann").changed_since(2)
        assert {node.node_id: node for node in applied["ann"].written.nodes} == {node.node_id: node for node in stored}
        assert len(stored) == 2

    async def test_an_entity_in_the_way_refuses_the_call(self, writer: Writer, look: Eyes) -> None:
        entity = str(uuid4())
        await writer.write(writer.entity(entity, {}), user="eve")
        await writer.write(writer.node(str(uuid4())), user="nick")
        with pytest.raises(StorageRejected) as caught:
            await writer.batches.apply({"eve": [writer.node(entity, at=1)], "nick": [writer.node(entity)]})
        assert caught.value.sqlstate == "22023"
        assert (await counters(look, "nick"), await counters(look, "eve")) == ((1, 0, 0), (1, 0, 1))

    async def test_what_was_deleted_later_stays_away(self, writer: Writer, other: Writer, look: Eyes) -> None:
        one = str(uuid4())
        for user in ("ann", "eve"):
            await writer.write(writer.node(one), user=user)
        await writer.write(writer.delete(one, at=5), user="eve")
        await other.batches.apply({user: [other.node(one, "late", at=3)] for user in ("ann", "eve")})
        assert [row["user_id"] for row in await look.fetch("select user_id from memory.nodes")] == ["ann"]

    async def test_nobody_sees_another_users_rows_afterwards(self, writer: Writer, look: Eyes) -> None:
        for _ in range(2):
            await writer.batches.apply({user: [writer.node(str(uuid4()))] for user in ("ann", "eve")})
        assert await look.fetchval("select current_setting('memory.users', true)") in (None, "")
        with pytest.raises(StorageRejected) as caught:
            await writer.batches._database.call(
                "batches.apply_to_several",
                users=["ann", "eve"],
                ops=[json.dumps({"user_id": "nick", "last": 9, "nodes": [], "guarded": False})] * 2,
                instance=UUID(writer.instance),
                vectors=[],
                halves=[],
            )
        assert caught.value.sqlstate == "22023"


def _with_vector(text: str) -> dict[str, Any]:
    """A content hash, and a vector of that content."""
    content_hash = text.encode().hex()
    return {"content_hash": content_hash, "embeddings": (Embedding("m", [float(ord(text))], content_hash),)}


def _told(applied: Applied) -> tuple[object, ...]:
    nodes = [] if applied.written is None else applied.written.nodes
    gone = None if applied.written is None else applied.written.deleted
    said = sorted((node.node_id, node.text, node.version, node.written_at, node.seq) for node in nodes)
    return applied.version, applied.mark, applied.numbers, dict(applied.same), said, gone


class TestVectors:
    async def test_a_vector_is_stored_with_its_memory_and_leaves_with_its_text(
        self, writer: Writer, look: Eyes
    ) -> None:
        one, two = itertools.islice(ids(), 2)
        await writer.write(
            writer.node(one, content_hash="aa", embeddings=(Embedding("small", [1.0, 2.0], "aa"),)),
            writer.node(two, content_hash="bb", embeddings=(Embedding("large", [0.5] * 3000, "bb"),)),
        )
        rows = await look.fetch("select node_id, model, dimensions, embedding::text as text from memory.embeddings")
        found = {str(row["node_id"]): (row["model"], row["dimensions"], row["text"]) for row in rows}
        assert found == {one: ("small", 2, "[1,2]"), two: ("large", 3000, None)}
        await writer.write(
            writer.node(one, "the same", at=1, content_hash="aa"), writer.node(two, at=1, content_hash="cc")
        )
        assert [str(row["node_id"]) for row in await look.fetch("select node_id from memory.embeddings")] == [one]

    async def test_a_vector_of_a_text_that_lost_is_not_stored(self, writer: Writer, other: Writer, look: Eyes) -> None:
        one = str(uuid4())
        await writer.write(writer.node(one, "new", at=2, content_hash="aa"))
        await other.write(other.node(one, "old", at=1, content_hash="bb", embeddings=(Embedding("m", [1.0], "bb"),)))
        assert await look.fetchval("select count(*) from memory.embeddings") == 0

    async def test_a_vector_of_a_deleted_memory_is_not_stored(self, writer: Writer, other: Writer, look: Eyes) -> None:
        one = str(uuid4())
        await writer.write(writer.node(one))
        await writer.write(writer.delete(one, at=2))
        await other.write(other.node(one, at=1, embeddings=(Embedding("m", [1.0]),)))
        assert await look.fetchval("select count(*) from memory.embeddings") == 0


async def test_a_threads_memories_are_numbered_in_order(writer: Writer, other: Writer, look: Eyes) -> None:
    await writer.write(*(writer.node(str(uuid4()), text, thread_id="t") for text in ("one", "two")))
    await other.write(other.node(str(uuid4()), "three", thread_id="t"), other.node(str(uuid4()), "x", thread_id="u"))
    rows = await look.fetch("select content->>'text' as text, seq from memory.nodes order by thread_id, seq")
    assert [(row["text"], row["seq"]) for row in rows] == [("one", 1), ("two", 2), ("three", 3), ("x", 1)]


async def test_random_batches_agree_with_a_plain_model(
    batch_database: Database, look: Eyes, rng: random.Random
) -> None:
    """Puts, relationships and deletes of three writers with crossing clocks, against dictionaries."""
    writers = [Writer(batch_database) for _ in range(3)]
    pool = [str(uuid4()) for _ in range(6)]
    nodes: dict[str, tuple[tuple[float, str], str]] = {}
    graves: dict[str, tuple[float, str]] = {}
    edges: dict[tuple[str, str], tuple[tuple[float, str], float]] = {}
    for step in range(120):
        writer, at = rng.choice(writers), rng.randrange(60) + step / 1000
        clock = (at, writer.instance)
        one, two = rng.sample(pool, 2)
        match rng.choice(["put", "put", "edge", "delete"]):
            case "put":
                await writer.write(writer.node(one, f"step {step}", at=at))
                newer = one not in nodes or nodes[one][0] < clock
                if newer and graves.get(one, (-1, "")) < clock:
                    nodes[one] = (clock, f"step {step}")
            case "edge" if one in nodes and two in nodes:
                await writer.write(writer.edge(one, two, at=at, strength=step / 120))
                if (one, two) not in edges or edges[one, two][0] < clock:
                    edges[one, two] = (clock, step / 120)
            case "delete":
                await writer.write(writer.delete(one, at=at))
                graves[one] = max(graves.get(one, (-1, "")), clock)
                if one in nodes and nodes[one][0] <= clock:
                    del nodes[one]
                    edges = {ends: edge for ends, edge in edges.items() if one not in ends}
            case _:
                continue
        assert await texts(look) == {node_id: text for node_id, (_, text) in nodes.items()}, step
        rows = await look.fetch("select from_node_id, to_node_id, strength from memory.relationships")
        found = {(str(row["from_node_id"]), str(row["to_node_id"])): row["strength"] for row in rows}
        assert found == {ends: strength for ends, (_, strength) in edges.items()}, step
        if nodes or graves:
            assert await counters(look) == await recounted(look), step
        hidden = "select count(*) from memory.tombstones d join memory.nodes n using (user_id, node_id)"
        assert await look.fetchval(f"{hidden} where d.version >= n.version") == 0, "a cache would drop what is alive"
