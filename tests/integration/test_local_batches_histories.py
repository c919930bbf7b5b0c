"""The same random batches to Postgres and to the rows in state.db: every row, answer and refusal is the same.

Several instances, numbered operations that arrive late and again, clocks that are wrong, entities, deletions, threads,
contents that are to be stored once.
"""

import asyncio
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid5

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from hybrid_memory import Settings
from hybrid_memory.errors import StorageRejected
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Applied, Batches, Embedding, Operation
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication import local, merging
from hybrid_memory.replication.batching import key_of
from hybrid_memory.replication.local_batches import LocalBatches
from hybrid_memory.sqlite.database import Database as StateFile
from hybrid_memory.sqlite.local_rows import LocalRows
from tests.support.histories import History, Length, check, finds
from tests.support.rows import fact_row
from tests.support.servers import administration
from tests.support.sqlite_files import state_in

SHORT = Length(histories=20, steps=25)
CAMPAIGN = Length(histories=300, steps=50)
INSTANCES = 3


def an_id(name: str) -> str:
    return str(uuid5(UUID(int=7), name))


PLAIN = [an_id(f"plain {number}") for number in range(2)]
NEW = [an_id(f"new {number}") for number in range(2)]
ENTITIES = [an_id(f"entity {number}") for number in range(2)]
EVERY_ID = [*PLAIN, *NEW, *ENTITIES]

Draft = tuple[str, dict[str, Any], tuple[Embedding, ...]]

# Seconds from the beginning of the history; some are in the past, some far ahead of any server.
moments = st.sampled_from([-7200, -1, 0, 1, 50, 90, 86_400 * 3650])
shares = st.sampled_from([0.0, 0.25, 0.9, 1.0])
tag_lists = st.lists(st.sampled_from(["x", "y", "Z"]), unique=True, max_size=2)
values = st.sampled_from([None, True, 1, 2.5, "v", "w", [], [1, "a"], {"deep": [None]}])
objects = st.dictionaries(st.sampled_from(["a", "b", "bb"]), values, max_size=3)


@st.composite
def puts(draw: st.DrawFn) -> Draft:
    only_once = draw(st.booleans())
    text = draw(st.sampled_from(["tea", "tea", "ü ✓"]))
    content_hash = hashlib.sha256(text.encode()).hexdigest()
    row = fact_row(draw(st.sampled_from(NEW if only_once else [*PLAIN, *PLAIN, *EVERY_ID])), text) | {
        "context_type": draw(st.sampled_from(["conversation_fact"] * 4 + ["tool_output"])),
        "content_hash": content_hash,
        "only_once": only_once,
        "summary": draw(st.sampled_from(["", text])),
        "tags": draw(tag_lists),
        "metadata": draw(objects),
        "importance": draw(shares),
        "confidence": draw(shares),
        "thread_id": draw(st.sampled_from([None, "t", "u"])),
        "expires_at": draw(st.sampled_from([None, None, None, -3600, 86_400])),
    }
    if draw(st.integers(0, 5)) == 0:
        row |= {"seq": 7, "created_at": -500, "updated_at": -400, "last_accessed_at": -300}
        row |= {"external_id": "mine", "namespace": ["a", "b"], "key": "k"}
    if draw(st.integers(0, 15)) == 0:
        row |= {"context_type": "domain_entity", "content": {"entity_system": "s", "entity_id": row["node_id"]}}
    vectors: tuple[Embedding, ...] = ()
    if draw(st.booleans()):
        of_this = draw(st.booleans())
        vectors = (Embedding("m", draw(st.sampled_from([(1.0, 2.0), (0.1,)])), content_hash if of_this else "ab"),)
    return "nodes", row, vectors


@st.composite
def reports(draw: st.DrawFn) -> Draft:
    number = draw(st.integers(0, len(ENTITIES) - 1))
    content = {
        "entity_id": str(number),
        "entity_system": "s",
        "entity_type": draw(st.sampled_from(["account", "person"])),
        "entity_name": draw(st.sampled_from(["GenePoint", "genepoint", "x"])),
        "entity_data": draw(objects),
        **draw(st.fixed_dictionaries({}, optional={"aliases": tag_lists, "note": values, "update_count": st.just(3)})),
        **draw(st.fixed_dictionaries({}, optional={"other_ids": tag_lists})),
    }
    if stub := draw(st.integers(0, 4)) == 0:
        content = {"entity_id": str(number), "entity_system": "s", "entity_type": None, "entity_name": None}
    row = {
        "node_id": ENTITIES[number],
        "content": content,
        "summary": draw(st.sampled_from(["one", "two"])),
        "tags": draw(tag_lists),
        "metadata": {"stub": True} if stub else draw(objects),
        "importance": draw(shares),
        "confidence": draw(shares),
        "expires_at": draw(st.sampled_from([None, 86_400])),
    }
    return "entities", row, ()


@st.composite
def edges(draw: st.DrawFn) -> Draft:
    return (
        "edges",
        {
            "from_node_id": draw(st.sampled_from(EVERY_ID)),
            "to_node_id": draw(st.sampled_from(EVERY_ID)),
            "relationship_type": draw(st.sampled_from(["led_to", "has"])),
            "strength": draw(shares),
            "metadata": draw(objects),
        },
        (),
    )


@st.composite
def counts(draw: st.DrawFn) -> Draft:
    last = draw(st.sampled_from([-86_400, 0, 86_400]))
    row = {"node_id": draw(st.sampled_from(EVERY_ID)), "last_accessed_at": last}
    return "counts", row | {"reports": draw(st.integers(0, 2)), "reads": draw(st.integers(0, 3))}, ()


deletes = st.sampled_from(EVERY_ID).map(lambda node_id: ("deletes", {"node_id": node_id}, ()))
flaws = st.sampled_from([{"importance": 2}, {"summary": None}, {"written_by": "nobody"}, {"expires_at": "soon"}])
drafts = st.one_of(puts(), puts(), reports(), edges(), edges(), counts(), deletes)
batches = st.lists(st.tuples(drafts, moments), min_size=1, max_size=6)
which = st.integers(0, INSTANCES - 1)


class TwoPlaces(History):
    """Every history has a user of its own; Postgres and the rows in state.db are sent the same."""

    places: ClassVar["Places"]

    def __init__(self) -> None:
        super().__init__()
        self.user = f"user {self.number}"
        self.start = datetime.now(UTC)
        self.next_numbers = [1] * INSTANCES
        self.last: list[list[Operation]] = [[] for _ in range(INSTANCES)]
        self.sent = False

    @initialize(batch=batches)
    def begin(self, batch: list[tuple[Draft, float]]) -> None:
        self.send(0, self.numbered(0, batch))

    @rule(by=which, batch=batches)
    def write(self, by: int, batch: list[tuple[Draft, float]]) -> None:
        self.send(by, self.numbered(by, batch))

    @rule(by=which, batch=st.just([]) | batches)
    def send_again(self, by: int, batch: list[tuple[Draft, float]]) -> None:
        """What was sent last, alone or with what is new behind it."""
        fit = _fit([*self.last[by], *self.numbered(by, batch)])
        if fit:
            self.send(by, fit)

    @rule(by=which, flaw=flaws, behind=drafts, at=moments)
    def write_what_cannot_be_stored(self, by: int, flaw: dict[str, Any], behind: Draft, at: float) -> None:
        self.send(by, self.numbered(by, [(("nodes", fact_row(an_id("flawed")) | flaw, ()), at), (behind, at)]))

    def numbered(self, by: int, batch: Sequence[tuple[Draft, float]]) -> list[Operation]:
        """A batch as the writer would send it: a key once, nothing after its deletion."""
        operations = []
        for (kind, row, vectors), at in batch:
            stamp = {"written_at": self.at(at), "written_by": self.places.instances[by]}
            moved = {
                name: self.at(row[name])
                for name in ("expires_at", "created_at", "updated_at", "last_accessed_at")
                if isinstance(row.get(name), int)
            }
            operations.append(Operation(self.next_numbers[by], kind, stamp | row | moved, vectors))  # type: ignore[arg-type] # a kind is drawn as text
            self.next_numbers[by] += 1
        return _fit(operations)

    def at(self, seconds: float) -> str:
        return (self.start + timedelta(seconds=seconds)).isoformat()

    def send(self, by: int, operations: Sequence[Operation]) -> None:
        there, here = self.run(self.places.send(by, self.user, operations))
        if isinstance(there, StorageRejected) or isinstance(here, StorageRejected):
            assert isinstance(there, StorageRejected), f"only refused here: {here!r}"
            assert isinstance(here, StorageRejected), f"only refused by Postgres: {there!r}"
            assert here.sqlstate == there.sqlstate, (there, here)
            if there.operation is not None:
                assert here.operation == there.operation
            return
        assert _answer(here) == _answer(there)
        self.last[by] = list(operations)
        self.sent = True

    @precondition(lambda self: self.sent)
    @invariant()
    def the_rows_are_the_same(self) -> None:
        there = self.run(self.places.rows_there(self.user))
        assert self.places.rows_here(self.user) == there
        state = there["state"]
        entities = sum(row["context_type"] == "domain_entity" for row in there["nodes"].values())
        assert state[1:] == (len(there["nodes"]), len(there["relationships"]), entities)


def _fit(operations: Sequence[Operation]) -> list[Operation]:
    """The operations of a batch that may share one."""
    fit: list[Operation] = []
    keys: set[object] = set()
    deleted: set[object] = set()
    for operation in operations:
        row = operation.row
        new = {key_of(row)} | ({(row["context_type"], row["content_hash"])} if row.get("only_once") else set())
        if operation.kind == "entities":
            new.add(("identity", row["content"]["entity_id"]))
        if keys & new or deleted & {row.get(end) for end in ("node_id", "from_node_id", "to_node_id")}:
            continue
        keys |= new
        if operation.kind == "deletes":
            deleted.add(row["node_id"])
        fit.append(operation)
    return fit


def _answer(applied: Applied) -> dict[str, Any]:
    answer: dict[str, Any] = {"version": applied.version, "mark": applied.mark, "numbers": applied.numbers}
    answer["same"] = dict(applied.same)
    if applied.written is not None:
        gone = applied.written.deleted
        answer["deleted"] = gone
        answer["nodes"] = {one.node_id: asdict(one) for one in applied.written.nodes}
        edges = applied.written.relationships
        answer["relationships"] = {
            (one.from_node_id, one.to_node_id, one.relationship_type): asdict(one)
            for one in edges
            if gone.isdisjoint((one.from_node_id, one.to_node_id))
        }
    return answer


Outcome = Applied | StorageRejected


class Places:
    """Both of them, and eyes for Postgres that see everything."""

    def __init__(self, database: Database, state: StateFile, eyes: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.instances = sorted(an_id(f"instance {number}") for number in range(INSTANCES))
        self._there = [Batches(database, instance) for instance in self.instances]
        self._here = [LocalBatches(state, instance, lambda: self.now) for instance in self.instances]
        self._state = state
        self._eyes = eyes
        self.now = datetime.now(UTC)

    async def send(self, by: int, user: str, operations: Sequence[Operation]) -> tuple[Outcome, Outcome]:
        there: Outcome
        try:
            there = (await self._there[by].apply({user: operations}, echo=[user]))[user]
            # Both have the same time: the one at which Postgres applied it.
            self.now = await self._eyes.fetchval(APPLIED_AT, user)
        except StorageRejected as error:
            there, self.now = error, datetime.now(UTC)
        try:
            return there, (await self._here[by].apply({user: operations}, echo=[user]))[user]
        except StorageRejected as error:
            return there, error

    async def rows_there(self, user: str) -> dict[str, Any]:
        rows = {table: await self._eyes.fetch(query, user) for table, query in ROWS.items()}
        state = rows["state"][0]
        return {
            "state": tuple(state),
            "nodes": {str(row["node_id"]): _plain(row) for row in rows["nodes"]},
            "relationships": {
                (str(row["from_node_id"]), str(row["to_node_id"]), row["relationship_type"]): _plain(row)
                for row in rows["relationships"]
            },
            "tombstones": {
                str(row["node_id"]): (row["written_at"], str(row["written_by"])) for row in rows["tombstones"]
            },
            "vectors": {
                (str(row["node_id"]), row["model"]): (json.loads(row["vector"]), row["hash"]) for row in rows["vectors"]
            },
            "marks": {str(row["instance_id"]): row["seq"] for row in rows["marks"]},
        }

    def rows_here(self, user: str) -> dict[str, Any]:
        return self._state.read_blocking(lambda sql: self._rows_here(LocalRows(sql, user)))

    def _rows_here(self, rows: LocalRows) -> dict[str, Any]:
        state, everything = rows.state(), rows.since()
        assert state is not None
        return {
            "state": (state.version, state.node_count, state.relationship_count, state.entity_count),
            "nodes": {
                one.node.node_id: asdict(one.node) | {"content_hash": one.content_hash, "field_clocks": one.clocks}
                for one in everything.nodes
            },
            "relationships": {
                one.key: asdict(one.relationship) | {"written_at": one.stamp[0], "written_by": one.stamp[1]}
                for one in everything.relationships
            },
            "tombstones": everything.tombstones,
            "vectors": {
                (one.node_id, one.model): (pytest.approx(one.values), one.content_hash) for one in everything.vectors
            },
            "marks": {instance: mark for instance in self.instances if (mark := rows.mark(instance))},
        }


def _plain(row: "asyncpg.Record") -> dict[str, Any]:
    plain = {name: str(value) if isinstance(value, UUID) else value for name, value in row.items()}
    for name in ("content", "metadata", "field_clocks"):
        if name in plain:
            plain[name] = json.loads(plain[name])
    for name in ("tags", "namespace"):
        if plain.get(name) is not None:
            plain[name] = tuple(plain[name])
    return plain


APPLIED_AT = "select last_activity from memory.user_metadata where user_id = $1"
ROWS = {
    "state": """
        select version, node_count, relationship_count, entity_count from memory.user_metadata where user_id = $1""",
    "nodes": """
        select user_id, node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence,
               external_id, thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at,
               last_accessed_at, access_count, expires_at, encode(content_hash, 'hex') as content_hash, field_clocks
        from memory.nodes where user_id = $1""",
    "relationships": """
        select user_id, from_node_id, to_node_id, relationship_type, strength, metadata, version, written_at,
               written_by, created_at, updated_at
        from memory.relationships where user_id = $1""",
    "tombstones": "select node_id, written_at, written_by from memory.tombstones where user_id = $1",
    "vectors": """
        select node_id, model, embedding::text as vector, encode(content_hash, 'hex') as hash
        from memory.embeddings where user_id = $1""",
    "marks": "select instance_id, seq from memory.applied_watermarks where user_id = $1",
}


@pytest.fixture
def loop(targets_outside: Targets, settings: Settings, tmp_path: Path) -> Iterator[asyncio.Runner]:
    """The loop of a test with both places open."""
    with asyncio.Runner() as runner, state_in(tmp_path) as (state, _):
        database = runner.run(Database.open(targets_outside, settings, Events()))
        eyes = runner.run(asyncpg.connect(**targets_outside.administration.asyncpg_arguments()))
        TwoPlaces.places = Places(database, state, eyes)
        yield runner
        runner.run(eyes.close())
        runner.run(database.close())


@pytest.mark.parametrize(
    "length",
    [SHORT, pytest.param(CAMPAIGN, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])],
    ids=["short", "campaign"],
)
def test_both_places_agree(loop: asyncio.Runner, rng: random.Random, length: Length) -> None:
    check(TwoPlaces, rng, length, loop)


VALUES: list[Any] = [
    None, True, False, 0, 1, 1.5, -2, "", "a", "b", "ab", [], [None], [1], ["a"], [1, 2], [[]], [[], 1], {}, {"a": 1},
    {"a": None}, {"b": []}, {"bb": 1}, {"a": 1, "b": 2}, {"a": 1, "bb": 0}, {"a": {}}, {"a": []}, {"a": [None]},
]  # fmt: skip


async def test_values_of_one_moment_have_one_order(targets: Targets) -> None:
    async with administration(targets) as eyes:
        for one, other in itertools.product(VALUES, repeat=2):
            there = await eyes.fetchval(
                "select memory.merged($1, '{}', $2, '{}', '')", json.dumps({"k": one}), json.dumps({"k": other})
            )
            here = merging._merged({"k": one}, {}, {"k": other}, {}, "")
            assert json.dumps(here) == json.dumps(json.loads(there)), (one, other)


def repeats_applied(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalRows, "mark", lambda *_: 0)


def deletions_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalRows, "tombstone", lambda *_: None)


def clocks_not_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local, "_FARTHEST_AHEAD", timedelta(days=3650))


def the_first_report_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(merging, "_later", lambda one, _: one is not None)


def twins_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalRows, "alike", lambda *_: [])


@pytest.mark.parametrize(
    "plant", [repeats_applied, deletions_forgotten, clocks_not_cut, the_first_report_wins, twins_stored]
)
def test_a_planted_bug_is_found(
    loop: asyncio.Runner,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
) -> None:
    plant(monkeypatch)
    assert finds(TwoPlaces, rng, Length(histories=60, steps=25), loop)
