"""What waits is shown as it will be: batches on top of a graph, held against the same batches applied for good."""

import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hybrid_memory.errors import StorageRejected
from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.postgres.batches import Operation
from hybrid_memory.replication import pending
from hybrid_memory.replication.known import KnownGraph, Overlay
from hybrid_memory.replication.local import LocallyApplied, applied_locally
from hybrid_memory.replication.local_batches import LocalBatches
from hybrid_memory.replication.pending import Pending
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_rows import LocalRows
from tests.support.graphs import edge, entity, fact, id_of
from tests.support.operations import START, Instance
from tests.support.sqlite_files import state_in

USER = "nick"
NOW = START + timedelta(hours=1)


@pytest.fixture
def one() -> Instance:
    return Instance()


def view_of(nodes: Sequence[MemoryNode] = (), edges: Sequence[Relationship] = ()) -> GraphView:
    graph = UserGraph(USER, clock=lambda: NOW)
    graph.apply(Delta(incarnation="one", version=9, nodes=nodes, relationships=edges, complete=True))
    return graph.view()


def applied(known: Any, *operations: Operation) -> LocallyApplied:
    return applied_locally(USER, known, operations, now=NOW, version=None)


def test_a_waiting_memory_has_no_version_yet(one: Instance) -> None:
    result = applied(KnownGraph(view_of()), one.node(id_of(1), "new"))
    (node,) = result.written.nodes
    assert (node.node_id, node.text, node.version, node.updated_at) == (id_of(1), "new", None, NOW)


def test_a_put_keeps_what_a_put_keeps(one: Instance) -> None:
    there = fact(1, "old", written_at=START, created_at=START, access_count=3, thread_id="t", seq=5)
    result = applied(KnownGraph(view_of([there])), one.node(id_of(1), "new", at=1, thread_id="t"))
    (node,) = result.written.nodes
    assert (node.text, node.created_at, node.access_count, node.seq) == ("new", START, 3, 5)


def test_a_put_into_another_thread_comes_last_there(one: Instance) -> None:
    there = [fact(1, "old", written_at=START, thread_id="t", seq=1), fact(2, "other", thread_id="u", seq=8)]
    result = applied(KnownGraph(view_of(there)), one.node(id_of(1), "new", at=1, thread_id="u"))
    (node,) = result.written.nodes
    assert (node.thread_id, node.seq) == ("u", 9)


def test_what_was_written_later_stays(one: Instance) -> None:
    there = fact(1, "later", written_at=START + timedelta(seconds=5))
    result = applied(KnownGraph(view_of([there])), one.node(id_of(1), "earlier", at=4))
    assert (result.written.nodes, result.refused) == ([], ())


def test_an_entity_inserted_by_hand_gets_its_derived_id(one: Instance) -> None:
    """The caller of the write is told that id, and may relate to it at once."""
    there = entity(1, "1", "GenePoint", content={"entity_system": "s", "entity_data": {"city": "Rome", "size": 1}})
    view = view_of([replace(there, written_at=START), fact(3)], [edge(1, 3), edge(3, 1), edge(1, 1)])
    overlay = Overlay(KnownGraph(view))
    result = applied(overlay, one.entity(id_of(2), {"size": 2}, at=1), one.edge(id_of(2), id_of(3), at=1))
    (node,) = result.written.nodes
    assert (node.node_id, node.content["entity_data"]) == (id_of(2), {"city": "Rome", "size": 2})
    assert (result.refused, result.written.deleted) == ((), frozenset([id_of(1)]))
    overlay.absorb(result.changes)
    ends = {one.key[:2] for one in overlay.relationships_of(id_of(2))}
    assert ends == {(id_of(2), id_of(3)), (id_of(3), id_of(2)), (id_of(2), id_of(2))}
    assert list(overlay.relationships_of(id_of(1))) == []


def test_a_stub_is_filled_and_takes_nothing(one: Instance) -> None:
    nameless = {"entity_type": None, "entity_name": None}
    overlay = Overlay(KnownGraph(view_of([fact(3)])))
    for metadata, content, at in (
        ({"stub": True}, nameless, 9),
        ({"n": 1}, {}, 1),
        ({"stub": True}, nameless, 10),
    ):
        stub = one.entity(id_of(1), {}, at=at, metadata=metadata, content=content)
        overlay.absorb(applied(overlay, stub, one.edge(id_of(3), id_of(1), at=at)).changes)
    there = overlay.node(id_of(1))
    assert there is not None
    assert (there.node.metadata, there.node.content["entity_name"], there.node.content["update_count"]) == (
        {"n": 1},
        "GenePoint",
        1,
    )


def test_every_name_but_the_last_is_an_alias(one: Instance) -> None:
    overlay = Overlay(KnownGraph(view_of()))
    for at, name in ((2, "GP Inc"), (3, "GenePoint"), (1, "Gene Point")):
        called = {"entity_name": name, "aliases": ["GP"], "other_ids": [str(at)]}
        report = one.entity(id_of(1), {}, at=at, content=called, summary=name)
        overlay.absorb(applied(overlay, report).changes)
    there = overlay.node(id_of(1))
    assert there is not None
    content = there.node.content
    assert (content["entity_name"], there.node.summary) == ("GenePoint", "GenePoint")
    assert (content["aliases"], content["other_ids"]) == (["GP", "GP Inc", "Gene Point"], ["1", "2", "3"])


def test_the_same_content_is_found_without_its_hash(one: Instance) -> None:
    data = fact(2, content={"b": 1, "a": 2}, content_kind="json")
    known = KnownGraph(view_of([fact(1, "tea"), data, fact(3, "tea", context_type="other")]))
    result = applied(
        known,
        one.node(id_of(7), "tea", only_once=True, content_hash="aa"),
        one.node(id_of(8), content={"a": 2, "b": 1}, content_kind="json", only_once=True, content_hash="bb"),
        one.edge(id_of(7), id_of(8)),
    )
    assert result.same == {id_of(7): id_of(1), id_of(8): id_of(2)}
    (joined,) = result.written.relationships
    assert (joined.from_node_id, joined.to_node_id) == (id_of(1), id_of(2))
    assert [node.node_id for node in result.written.nodes] == []


def test_a_waiting_memory_is_found_by_its_hash(one: Instance) -> None:
    overlay = Overlay(KnownGraph(view_of()))
    overlay.absorb(applied(overlay, one.node(id_of(1), "tea", only_once=True, content_hash="aa")).changes)
    again = one.node(id_of(2), "tea", only_once=True, content_hash="aa")
    assert applied(overlay, again).same == {id_of(2): id_of(1)}
    overlay.absorb(applied(overlay, one.delete(id_of(1), at=1)).changes)
    assert applied(overlay, again).same == {}


def test_the_same_write_is_not_later_than_itself(one: Instance) -> None:
    put = one.node(id_of(1), at=1)
    overlay = Overlay(KnownGraph(view_of()))
    overlay.absorb(applied(overlay, put).changes)
    assert applied(overlay, put).written.nodes == []


def test_of_several_twins_the_first_counts(one: Instance) -> None:
    known = KnownGraph(view_of([fact(3, "tea"), fact(1, "tea"), fact(2, "tea")]))
    result = applied(known, one.node(id_of(7), "tea", only_once=True, content_hash="aa"))
    assert result.same == {id_of(7): id_of(1)}


def test_vectors_of_a_replaced_content_are_outdated(one: Instance) -> None:
    known = KnownGraph(view_of([fact(1, "tea"), entity(2, "1", "GenePoint", content={"entity_system": "s"})]))
    result = applied(known, one.node(id_of(1)), one.entity(id_of(2), {}), one.node(id_of(3)))
    assert result.changes.outdated == {id_of(1), id_of(2)}


def test_every_report_raises_the_confidence_as_postgres_computes_it(one: Instance) -> None:
    overlay = Overlay(KnownGraph(view_of()))
    seen_confidences = []
    for step in range(5):
        result = applied(overlay, one.entity(id_of(1), {}, at=step, confidence=0.7))
        overlay.absorb(result.changes)
        seen_confidences.append(result.written.nodes[0].confidence)
    assert seen_confidences == [0.7, 0.7 + 0.05, 0.7 + 0.1, 0.7 + 0.15, 0.7 + 0.2]


def test_a_deletion_takes_relationships_along_and_is_remembered(one: Instance) -> None:
    view = view_of([fact(1), fact(2)], [edge(1, 2), edge(2, 1), edge(2, 2)])
    overlay = Overlay(KnownGraph(view))
    result = applied(overlay, one.delete(id_of(2), at=5))
    assert (result.written.deleted, result.changes.relationship_count) == (frozenset([id_of(2)]), -3)
    overlay.absorb(result.changes)
    assert list(overlay.relationships_of(id_of(1))) == []
    late = applied(overlay, one.node(id_of(2), at=4), one.edge(id_of(1), id_of(2), at=4))
    assert (late.written.nodes, late.written.relationships, late.refused) == ([], [], ())
    assert applied(KnownGraph(view_of(), result.changes.tombstones), one.node(id_of(2), at=4)).written.nodes == []


def test_a_memory_that_comes_back_comes_without_its_relationships(one: Instance) -> None:
    graph = UserGraph(USER, clock=lambda: NOW)
    graph.apply(
        Delta(incarnation="one", version=9, nodes=[fact(1), fact(2)], relationships=[edge(1, 2)], complete=True)
    )
    overlay = Overlay(KnownGraph(graph.view()))
    for step in ([one.delete(id_of(1), at=1)], [one.node(id_of(1), "again", at=2)]):
        overlay.absorb(applied(overlay, *step).changes)
    assert list(overlay.relationships_of(id_of(2))) == []
    nodes = [stamped.node for stamped in overlay.nodes.values()]
    graph.apply(Delta(incarnation="one", version=10, since=9, nodes=nodes, deleted=overlay.deleted))
    assert ({node.text for node in graph.view().nodes()}, graph.view().edges()) == ({"", "again"}, ())


def test_what_postgres_would_refuse_is_named_and_the_rest_is_shown(one: Instance) -> None:
    known = KnownGraph(view_of([fact(1), entity(2, "1", "GenePoint")]))
    operations = [
        one.node(id_of(3), "fine"),
        one.node(id_of(2), "over an entity"),
        one.entity(id_of(1), {}, content={"entity_id": "new"}),
        one.edge(id_of(1), id_of(9)),
        one.edge(id_of(1), id_of(3)),
        one.node(id_of(4), importance=2),
        one.node(id_of(4), written_by="nobody"),
        one.node(id_of(4), expires_at="soon"),
        one.node(id_of(4), tags=None),
        one.entity(id_of(5), {}, content={"entity_system": None}),
    ]
    result = applied(known, *operations)
    assert {refusal.n: refusal.sqlstate for refusal in result.refused} == {
        2: "22023", 3: "23505", 4: "23503", 6: "23514", 7: "22P02", 8: "22007", 9: "23502", 10: "23514",
    }  # fmt: skip
    assert [node.node_id for node in result.written.nodes] == [id_of(3)]
    assert len(result.written.relationships) == 1
    error = result.refused[0].error(USER)
    assert (error.operation, error.sqlstate) == ((USER, result.refused[0].n), result.refused[0].sqlstate)


def test_what_was_sent_before_it_could_be_shown_waits_no_more(one: Instance) -> None:
    """Whoever put it into the outbox is told so later than the process that sends hears from Postgres."""
    first, second = one.node(id_of(1), "sent"), one.node(id_of(2), "waits")
    queue = Pending(USER)
    queue.remove({one.instance_id: first.n})
    queue.add(one.instance_id, [first, second])
    assert [node.text for node in queue.over(view_of()).nodes] == ["waits"]
    assert queue.last_numbers() == {one.instance_id: second.n}
    queue.remove({"another run": 99, one.instance_id: second.n})
    assert not queue


def test_what_comes_while_another_thread_reads_is_shown_to_the_next_reader(
    one: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, view = Pending(USER), view_of()
    queue.add(one.instance_id, [one.node(id_of(1), "first")])
    adding = Thread(target=queue.add, args=(one.instance_id, [one.node(id_of(2), "second")]))

    def meanwhile(*known: Any, **when: Any) -> LocallyApplied:
        with suppress(RuntimeError):
            adding.start()
            adding.join(0.2)
        return applied_locally(*known, **when)

    monkeypatch.setattr(pending, "applied_locally", meanwhile)
    assert "first" in {node.text for node in queue.over(view).nodes}
    adding.join()
    assert {node.text for node in queue.over(view).nodes} == {"first", "second"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Database]:
    with state_in(tmp_path) as (database, _):
        yield database


async def test_what_is_shown_is_what_it_will_be(state: Database, rng: random.Random) -> None:
    """Batches behind each other, as a user's queue has them: shown over the graph, and applied to the rows."""
    one, moment, clock = Instance(), iter(range(10_000)), datetime.now(UTC)
    for round_number in range(20):
        user = f"user {round_number}"
        batches = LocalBatches(state, one.instance_id, lambda: clock)
        for _ in range(4):
            with suppress(StorageRejected):
                await batches.apply({user: batch(one, rng, moment)})
        graph = UserGraph(user)
        graph.apply(complete(state, user))
        overlay = Overlay(KnownGraph(graph.view()))
        for _ in range(12):
            operations = batch(one, rng, moment)
            shown = applied_locally(user, overlay, operations, now=clock, version=None)
            fine = [one for one in operations if one.n not in {refusal.n for refusal in shown.refused}]
            overlay.absorb(shown.changes)
            if fine:
                done = (await batches.apply({user: fine}))[user]
                assert done.same == shown.same
        assert seen(*merged(graph.view(), overlay)) == seen(*rows(complete(state, user)))


def batch(one: Instance, rng: random.Random, moment: Iterator[int]) -> list[Operation]:
    """Operations that may share a statement, each later than everything before it."""
    operations: list[Operation] = []
    keys: set[Any] = set()
    for _ in range(rng.randrange(1, 5)):
        key: str | tuple[str, str]
        first, second, at = id_of(rng.randrange(6)), id_of(rng.randrange(6)), next(moment)
        match rng.choice(["put", "put", "once", "entity", "edge", "edge", "delete"]):
            case "put":
                key, made = first, one.node(first, rng.choice("abc"), at=at, content_hash="00")
            case "once":
                text = rng.choice("xyz")
                key = text
                new = id_of(100 + at)
                made = one.node(new, text, at=at, only_once=True, content_hash=f"0{ord(text):x}")
            case "entity":
                key = id_of(9)
                made = one.entity(key, {rng.choice("ab"): at}, at=at, content={"aliases": [rng.choice("mn")]})
            case "edge":
                key = (first, second)
                made = one.edge(first, rng.choice([second, id_of(9)]), at=at, strength=rng.random())
            case _:
                key, made = first, one.delete(first, at=at)
        if key not in keys and not keys & {first, second}:
            keys |= {key} if isinstance(key, str) else {key, first, second}
            operations.append(made)
    return operations


def complete(state: Database, user: str) -> Delta:
    since = state.read_blocking(lambda sql: LocalRows(sql, user).since())
    return Delta(
        incarnation="one",
        version=1000,
        nodes=[one.node for one in since.nodes],
        relationships=[one.relationship for one in since.relationships],
        complete=True,
    )


def merged(view: GraphView, overlay: Overlay) -> tuple[list[MemoryNode], list[Relationship]]:
    """What a reader would see: the graph with the overlay on top."""
    nodes = {node.node_id: node for node in view.nodes() if node.node_id not in overlay.deleted}
    nodes |= {node_id: stamped.node for node_id, stamped in overlay.nodes.items()}
    found = {one.key: one.relationship for node_id in nodes for one in overlay.relationships_of(node_id)}
    return list(nodes.values()), list(found.values())


def rows(delta: Delta) -> tuple[list[MemoryNode], list[Relationship]]:
    return list(delta.nodes), list(delta.relationships)


def seen(nodes: Sequence[MemoryNode], edges: Sequence[Relationship]) -> tuple[dict[str, Any], dict[Any, float]]:
    """Everything but the versions."""
    plain = {node.node_id: replace(node, version=None) for node in nodes}
    return plain, {(one.from_node_id, one.to_node_id, one.relationship_type): one.strength for one in edges}
