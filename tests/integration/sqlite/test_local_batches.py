"""Users' memories in state.db: exactly once, for each user apart, over restarts, damage and many callers."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from hybrid_memory.errors import StateDamaged, StorageRejected
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Applied, Batches, Embedding, Operation
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.local_batches import LocalBatches
from hybrid_memory.replication.writer import Writer
from hybrid_memory.sqlite import salvage
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.local_rows import LocalRows, LocalState, Since
from tests.support.operations import START, Instance
from tests.support.rows import fact_row
from tests.support.sqlite_damage import flipped_in_a_value
from tests.support.sqlite_files import state_in


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Database]:
    with state_in(tmp_path) as (database, _):
        yield database


@pytest.fixture
def one() -> Instance:
    return Instance()


def batches_of(database: Database, instance: Instance) -> LocalBatches:
    return LocalBatches(database, instance.instance_id)


async def apply(database: Database, instance: Instance, *operations: Operation, user: str = "nick") -> Applied:
    return (await batches_of(database, instance).apply({user: operations}, echo=[user]))[user]


def everything(database: Database, user: str = "nick") -> Since:
    return database.read_blocking(lambda sql: LocalRows(sql, user).since())


def state_of(database: Database, user: str = "nick") -> LocalState:
    found = database.read_blocking(lambda sql: LocalRows(sql, user).state())
    assert found is not None
    return found


def texts(database: Database, user: str = "nick") -> set[str]:
    return {one.node.content["text"] for one in everything(database, user).nodes}


def counts(database: Database, user: str = "nick") -> tuple[int, int]:
    found = state_of(database, user)
    return found.node_count, found.relationship_count


async def test_a_batch_sent_again_changes_nothing(state: Database, one: Instance) -> None:
    first, second = str(uuid4()), str(uuid4())
    batch = [one.node(first), one.node(second), one.edge(first, second)]
    applied = await apply(state, one, *batch)
    assert (applied.version, applied.mark, applied.numbers) == (1, 3, (1, 2, 3))
    before = everything(state)
    again = await apply(state, one, *batch)
    assert (again.version, again.mark, again.numbers, again.written) == (1, 3, (), None)
    assert again.incarnation == applied.incarnation
    assert everything(state) == before
    assert counts(state) == (2, 1)


async def test_what_is_written_is_there_for_the_next_process(tmp_path: Path, one: Instance) -> None:
    first, second = str(uuid4()), str(uuid4())
    vector = Embedding("m", [0.5, -2.0], "aa")
    with state_in(tmp_path) as (database, _):
        await apply(
            database,
            one,
            one.node(
                first, "kept", content_hash="aa", embeddings=(vector,), thread_id="t", expires_at=START.isoformat()
            ),
            one.entity(second, {"city": "Rome"}, at=1),
            one.edge(first, second, metadata={"why": "so"}),
        )
        before, stood = everything(database), state_of(database)
    with state_in(tmp_path) as (database, _):
        assert everything(database) == before
        assert state_of(database) == stood
        assert (await apply(database, Instance(), one.delete(first, at=5))).version == 2
    (found,) = before.vectors
    assert (found.node_id, found.values, found.content_hash) == (first, [0.5, -2.0], "aa")


async def test_what_changed_since_a_version(state: Database, one: Instance) -> None:
    first, second, third = (str(uuid4()) for _ in range(3))
    await apply(state, one, one.node(first), one.node(second), one.edge(first, second))
    await apply(state, one, one.node(third))
    await apply(state, one, one.delete(first, at=1))
    since = state.read_blocking(lambda sql: LocalRows(sql, "nick").since(1))
    assert [one.node.node_id for one in since.nodes] == [third]
    assert (since.relationships, set(since.tombstones), state_of(state).version) == ([], {first}, 3)


async def test_users_in_one_call_stay_apart(state: Database, one: Instance) -> None:
    shared = str(uuid4())
    await batches_of(state, one).apply({"nick": [one.node(shared, "his")], "eve": [one.node(shared, "hers")]})
    assert (texts(state, "nick"), texts(state, "eve"), everything(state, "ann").nodes) == ({"his"}, {"hers"}, [])
    await apply(state, one, one.delete(shared, at=1), user="eve")
    assert (texts(state, "nick"), texts(state, "eve")) == ({"his"}, set())


async def test_another_users_memory_is_a_missing_end(state: Database, one: Instance) -> None:
    his, hers = str(uuid4()), str(uuid4())
    await batches_of(state, one).apply({"nick": [one.node(his)], "eve": [one.node(hers)]})
    bad = one.edge(his, hers)
    with pytest.raises(StorageRejected) as caught:
        await apply(state, one, one.node(str(uuid4())), bad)
    assert (caught.value.sqlstate, caught.value.operation) == ("23503", ("nick", bad.n))
    assert counts(state) == (1, 0)


async def test_a_refused_operation_leaves_nothing_of_its_call(state: Database, one: Instance) -> None:
    good, bad = one.node(str(uuid4())), one.node(str(uuid4()), importance=2)
    with pytest.raises(StorageRejected) as caught:
        await batches_of(state, one).apply({"ann": [good], "nick": [bad]})
    assert (caught.value.sqlstate, caught.value.operation) == ("23514", ("nick", bad.n))
    assert everything(state, "ann").nodes == []
    assert (await apply(state, one, good)).version == 1, "the mark did not move"


async def test_the_writer_works_on_it(state: Database) -> None:
    instance = str(uuid4())
    writer = Writer(cast("Batches", LocalBatches(state, instance)), instance, HybridClock())
    good = [writer.write("nick", [Write("nodes", fact_row(str(uuid4()), f"fact {number}"))]) for number in range(200)]
    ends = {"from_node_id": str(uuid4()), "to_node_id": str(uuid4()), "relationship_type": "led_to"}
    bad = writer.write("nick", [Write("edges", ends | {"strength": 1, "metadata": {}})])
    *answers, refused = await asyncio.gather(*good, bad, return_exceptions=True)
    await writer.close()
    assert isinstance(refused, StorageRejected)
    assert all(isinstance(answer, Applied) for answer in answers)
    assert texts(state) == {f"fact {number}" for number in range(200)}


async def test_many_callers_give_every_version_once(state: Database, rng: random.Random) -> None:
    users, entity = ["ann", "bob", "nick"], str(uuid4())

    async def work(number: int) -> list[Applied]:
        instance = Instance()
        answers: list[Applied] = []
        for step in range(8):
            batch = {
                user: [instance.node(str(uuid4())), instance.entity(entity, {f"{number} {step}": step}, at=number)]
                for user in rng.sample(users, 2)
            }
            for _ in range(rng.choice([1, 2])):
                applied = await batches_of(state, instance).apply(batch)
            answers += applied.values()
        return answers

    answers = [one for some in await asyncio.gather(*(work(number) for number in range(8))) for one in some]
    for user in users:
        given = sorted(one.version for one in answers if one.user_id == user and one.numbers)
        nodes = [one.node for one in everything(state, user).nodes]
        (found,) = [node for node in nodes if node.context_type == "domain_entity"]
        last = state_of(state, user).version
        assert len(given) == len(set(given))
        assert {node.version for node in nodes} == set(range(1, last + 1))
        assert (found.content["update_count"], len(found.content["entity_data"])) == (last, last)
        assert counts(state, user) == (len(nodes), 0)


async def test_marks_of_processes_long_gone_are_dropped(state: Database) -> None:
    old, new = Instance(), Instance()
    early, late = START, START + timedelta(days=31)
    await LocalBatches(state, old.instance_id, lambda: early).apply({"nick": [old.node(str(uuid4()))]})
    await LocalBatches(state, new.instance_id, lambda: late).apply({"nick": [new.node(str(uuid4()))]})
    marks = state.read_blocking(lambda sql: [LocalRows(sql, "nick").mark(one.instance_id) for one in (old, new)])
    assert marks == [0, 1]


async def test_what_is_saved_from_a_damaged_file_is_whole(tmp_path: Path, rng: random.Random, one: Instance) -> None:
    said = {f"value-{number:05} " * 30 for number in range(40)}
    with state_in(tmp_path) as (database, _):
        for text in said:
            node_id = str(uuid4())
            await apply(database, one, one.node(node_id, text), one.edge(node_id, node_id))
    flipped_in_a_value(tmp_path / "state.db", rng)
    with pytest.raises(StateDamaged):
        Database(STATE, tmp_path, Events()).open()
    with state_in(tmp_path) as (database, _):
        left = everything(database)
        assert 0 < len(left.nodes) < 40
        assert texts(database) <= said
        assert counts(database) == (len(left.nodes), len(left.nodes)) == (len(left.nodes), len(left.relationships))
        assert (await apply(database, one, one.node(str(uuid4()), "after"))).version == 41


async def test_what_was_lost_with_a_file_is_not_spoken_of(state: Database, one: Instance) -> None:
    """What a rescue does once it has all rows that there are."""
    first, second, third = (str(uuid4()) for _ in range(3))
    vector = Embedding("m", [1.0], "aa")
    for user in ("nick", "eve"):
        nodes = one.node(first), one.node(second, content_hash="aa", embeddings=(vector,)), one.entity(third, {})
        await apply(state, one, *nodes, one.edge(first, second), one.edge(third, first), user=user)
    await apply(state, one, one.delete(str(uuid4()), at=1))
    before = state_of(state), state_of(state, "eve")

    def lose(sql: Statements) -> None:
        sql.connection.execute("delete from local_users where user_id = 'nick'")
        sql.connection.execute("delete from local_nodes where user_id = 'eve' and node_id = ?", (second,))
        for repair in salvage._REPAIRS["local_nodes"]:
            sql.run(repair)

    state.write_blocking(lose)
    after = state_of(state), state_of(state, "eve")
    assert (after[0].version, counts(state), after[0].entity_count) == (2, (3, 2), 1)
    assert after[0].incarnation != before[0].incarnation
    assert after[1] == replace(before[1], node_count=2, relationship_count=1)
    assert [found.key for found in everything(state, "eve").relationships] == [(third, first, "led_to")]
    assert everything(state, "eve").vectors == []
    assert len(everything(state).vectors) == 1
    state.read_blocking(lambda sql: sql.value("local_users.verify"))


LOOKUPS = {
    "local_nodes.get": "sqlite_autoindex_local_nodes_1 (user_id=? AND node_id=?)",
    "local_nodes.entity": "local_nodes_entity (user_id=? AND <expr>=? AND <expr>=?)",
    "local_nodes.alike": "local_nodes_content (user_id=? AND content_hash=?)",
    "local_nodes.last_seq": "local_nodes_thread (user_id=? AND thread_id=? AND seq>?)",
    "local_nodes.changed_since": "local_nodes_version (user_id=? AND version>? AND version<?)",
    "local_relationships.get": "sqlite_autoindex_local_relationships_1 (user_id=? AND from_node_id=? AND to_node_id=?",
    "local_relationships.leaving": "sqlite_autoindex_local_relationships_1 (user_id=? AND from_node_id=?)",
    "local_relationships.reaching": "local_relationships_reverse (user_id=? AND to_node_id=?)",
    "local_relationships.changed_since": "local_relationships_version (user_id=? AND version>? AND version<?)",
    "local_tombstones.get": "sqlite_autoindex_local_tombstones_1 (user_id=? AND node_id=?)",
    "local_tombstones.since": "local_tombstones_version (user_id=? AND version>? AND version<?)",
    "local_vectors.changed_since": "local_vectors_version (user_id=? AND version>? AND version<?)",
    "local_vectors.of_node": "sqlite_autoindex_local_vectors_1 (user_id=? AND node_id=?)",
    "local_vectors.delete_outdated": "sqlite_autoindex_local_vectors_1 (user_id=? AND node_id=?)",
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_go_by_an_index(state: Database, name: str) -> None:
    plan = state.read_blocking(lambda sql: plan_of(sql, name))
    assert any(LOOKUPS[name] in line for line in plan), plan
    assert not any(line.startswith("SCAN") or "TEMP B-TREE" in line for line in plan), plan


def plan_of(sql: Statements, name: str) -> Sequence[str]:
    text = sql.text(name)
    bound = dict.fromkeys(("user_id", "node_id", "entity_system", "entity_id", "content_hash", "thread_id"))
    bound |= dict.fromkeys(("version", "up_to", "now", "from_node_id", "to_node_id", "relationship_type"))
    return [str(row[3]) for row in sql.connection.execute(f"explain query plan {text}", bound)]
