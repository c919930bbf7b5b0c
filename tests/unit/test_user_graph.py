"""One user's graph follows Postgres exactly, whatever order the news comes in, and every snapshot is consistent."""

import random
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from hybrid_memory.graph import user_graph
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.graph.view import GraphView
from tests.support.graphs import START, USER, Clock, History, changes, contents, edge, everything, fact, id_of, stub


def ids(view: GraphView) -> set[str]:
    return {node.node_id for node in view.memories()}


def test_a_load_replaces_everything(graph: UserGraph) -> None:
    assert graph.apply(everything([fact(1), fact(2)], [edge(1, 2)], version=4))
    assert (graph.version, graph.incarnation, graph.loaded) == (4, "one", True)
    assert graph.apply(everything([fact(3)], version=2, life="two"))
    assert (graph.version, graph.incarnation) == (2, "two")
    assert ids(graph.view()) == {id_of(3)}
    assert (graph.node_count, graph.edge_count) == (1, 0)


def test_a_load_that_began_before_the_latest_change_is_ignored(graph: UserGraph) -> None:
    graph.apply(everything([fact(1)], version=3))
    graph.apply(changes(3, 4, [fact(2, version=4)]))
    assert graph.apply(everything([fact(1)], version=3))
    assert graph.version == 4
    assert ids(graph.view()) == {id_of(1), id_of(2)}


def test_after_a_restore_the_next_load_counts_whatever_its_version(graph: UserGraph) -> None:
    graph.apply(everything([fact(1), fact(2)], version=7))
    graph.apply(changes(8, 9, [fact(9, version=9)]))
    graph.confirm()
    graph.doubt()
    assert (graph.loaded, graph.version, graph.stale) == (False, 0, True)
    assert id_of(1) in ids(graph.view()), "until then it is shown, as stale"
    assert not graph.apply(changes(3, 4, [fact(4, version=4)])), "an own write waits for the load"
    assert id_of(4) in ids(graph.view())
    assert graph.apply(everything([fact(1)], version=3))
    assert graph.version == 4
    assert ids(graph.view()) == {id_of(1), id_of(4)}
    assert graph._ahead == []


def test_a_load_at_the_same_version_shows_what_was_changed_by_hand(graph: UserGraph) -> None:
    graph.apply(everything([fact(1), fact(2)], version=3))
    graph.apply(everything([fact(1)], version=3))
    assert ids(graph.view()) == {id_of(1)}


def test_a_delta_deletes_first_and_then_puts(graph: UserGraph) -> None:
    graph.apply(everything([fact(1), fact(2)], [edge(1, 2)]))
    assert graph.apply(changes(1, 3, [fact(1, "anew", version=3)], deleted=[id_of(1)]))
    view = graph.view()
    assert ids(view) == {id_of(1), id_of(2)}
    assert view.edges() == ()


def test_a_delta_at_or_below_the_version_changes_nothing(graph: UserGraph) -> None:
    graph.apply(everything([fact(1)], version=5))
    view = graph.view()
    for version in (4, 5):
        assert graph.apply(changes(version - 1, version, [fact(9, version=version)], deleted=[id_of(1)]))
    assert graph.view() is view


def test_an_older_row_never_replaces_a_newer_one(graph: UserGraph) -> None:
    newer, strong = fact(1, "newer", version=5), edge(1, 2, version=5, strength=0.9)
    graph.apply(everything([newer, fact(2)], [strong], version=5))
    graph.apply(changes(3, 6, [fact(1, "older", version=4)], [edge(1, 2, version=4, strength=0.1)], deleted=[]))
    assert graph.view().memory(id_of(1)) == newer
    assert graph.view().edges() == (strong,)


def test_an_older_row_within_one_delta_does_not_replace_a_newer_one(graph: UserGraph) -> None:
    twice = [edge(1, 2, version=5, strength=0.9), edge(1, 2, version=4, strength=0.1)]
    graph.apply(everything([fact(1), fact(2)], twice, version=5))
    assert graph.view().edges() == (twice[0],)
    assert graph.edge_count == 1


def test_versions_of_an_earlier_count_do_not_win_against_changes_to_come(graph: UserGraph) -> None:
    """Somebody emptied user_metadata: counting begins again while the rows keep their old versions."""
    graph.apply(everything([fact(1, "old", version=57), fact(2, version=57)], [edge(1, 2, version=57)], version=1))
    graph.apply(changes(1, 2, [fact(1, "changed", version=2)], [edge(1, 2, version=2, strength=0.2)]))
    memory = graph.view().memory(id_of(1))
    assert memory is not None
    assert memory.text == "changed"
    assert graph.view().edges()[0].strength == 0.2


def test_an_edge_without_both_its_ends_is_dropped(graph: UserGraph) -> None:
    graph.apply(everything([fact(1), fact(2)], [edge(1, 2), edge(1, 9), edge(9, 2)]))
    assert graph.edge_count == 1
    graph.apply(changes(1, 2, edges=[edge(9, 1, version=2)], deleted=[id_of(2)]))
    assert graph.view().edges() == ()
    assert graph.edge_count == 0


def test_edges_are_found_from_both_ends(graph: UserGraph) -> None:
    one, back, own = edge(1, 2), edge(2, 1, "answers"), edge(2, 2, "refines")
    graph.apply(everything([fact(1), fact(2), fact(3)], [one, back, own]))
    view = graph.view()
    assert set(map(repr, view.edges_of(id_of(1)))) == {repr(one), repr(back)}
    assert {found.relationship_type for found in view.edges_of(id_of(2))} == {"relates_to", "answers", "refines"}
    assert list(view.edges_of(id_of(3))) == []
    graph.apply(changes(1, 2, deleted=[id_of(2)]))
    assert list(graph.view().edges_of(id_of(1))) == []
    assert graph.edge_count == 0


def test_rows_of_another_user_are_refused(graph: UserGraph) -> None:
    foreign = [
        everything([fact(1, user_id="eve")]),
        everything([fact(1), fact(2)], [replace(edge(1, 2), user_id="eve")]),
    ]
    for delta in foreign:
        with pytest.raises(ValueError, match="another user"):
            graph.apply(delta)
    assert graph.node_count == 0


@pytest.mark.parametrize("fields", [{}, {"complete": True, "since": 1}, {"since": 3}])
def test_a_delta_says_what_it_covers(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="delta"):
        replace(everything(version=2), **{"complete": False} | fields)


# Own writes that are confirmed before the graph knows what other processes wrote in between.


def test_an_own_write_ahead_of_a_gap_is_visible_and_does_not_hide_the_gap(graph: UserGraph) -> None:
    graph.apply(everything([fact(1)], version=5))
    assert not graph.apply(changes(6, 7, [fact(7, version=7)]))
    assert graph.version == 5
    assert ids(graph.view()) == {id_of(1), id_of(7)}
    assert graph.apply(changes(5, 6, [fact(6, version=6)]))
    assert graph.version == 7
    assert ids(graph.view()) == {id_of(1), id_of(6), id_of(7)}


def test_an_own_deletion_is_not_undone_by_older_news(graph: UserGraph) -> None:
    graph.apply(everything([fact(1)], version=5))
    graph.apply(changes(6, 7, deleted=[id_of(1)]))
    graph.apply(changes(5, 6, [fact(1, "touched elsewhere", version=6)]))
    assert graph.version == 7
    assert ids(graph.view()) == set()


def test_an_edge_ahead_appears_with_its_missing_end(graph: UserGraph) -> None:
    graph.apply(everything([fact(1)], version=5))
    graph.apply(changes(6, 7, edges=[edge(1, 2, version=7)]))
    assert graph.view().edges() == ()
    graph.apply(changes(5, 6, [fact(2, version=6)]))
    assert len(graph.view().edges()) == 1


def test_defect_6_a_touch_before_the_load_hides_nothing_and_loses_nothing(graph: UserGraph) -> None:
    assert not graph.apply(changes(8, 9, [fact(9, version=9)]))
    assert ids(graph.view()) == {id_of(9)}
    graph.apply(everything([fact(1)], version=8))
    assert graph.version == 9
    assert ids(graph.view()) == {id_of(1), id_of(9)}


def test_the_first_write_of_a_new_user_needs_no_load(graph: UserGraph) -> None:
    graph.apply(everything(version=0, life=None))
    assert graph.apply(changes(0, 1, [fact(1)]))
    assert (graph.version, graph.incarnation) == (1, "one")


def test_news_of_another_life_waits_for_its_load(graph: UserGraph) -> None:
    graph.apply(everything([fact(1)], version=5))
    assert not graph.apply(changes(1, 2, [fact(2, version=2)], life="two"))
    assert ids(graph.view()) == {id_of(1)}
    graph.apply(everything([fact(3)], version=1, life="two"))
    assert graph.version == 2
    assert ids(graph.view()) == {id_of(2), id_of(3)}
    graph.apply(changes(7, 8, [fact(8, version=8)], life="three"))
    graph.apply(everything([fact(4)], version=1, life="four"))
    assert ids(graph.view()) == {id_of(4)}
    assert graph._ahead == []


def test_what_runs_ahead_is_kept_once_and_joined(graph: UserGraph) -> None:
    graph.apply(everything(version=1))
    for version in range(10, 60):
        for _ in range(2):
            graph.apply(changes(version - 1, version, [fact(1, str(version), version=version)]))
    assert [(one.since, one.version, len(one.nodes)) for one in graph._ahead] == [(9, 59, 1)]
    assert graph.apply(changes(1, 9, [fact(2, version=9)]))
    assert graph._ahead == []
    assert graph.version == 59


def test_what_is_deleted_ahead_stays_deleted_when_it_is_joined(graph: UserGraph) -> None:
    graph.apply(everything([fact(1)], version=1))
    graph.apply(changes(5, 6, [fact(2, version=6), fact(3, version=6)], [edge(2, 1, version=6), edge(3, 1, version=6)]))
    graph.apply(changes(6, 7, deleted=[id_of(2), id_of(3)]))
    graph.apply(changes(7, 8, [fact(3, version=8)]))
    assert ids(graph.view()) == {id_of(1), id_of(3)}
    assert graph.view().edges() == ()


def test_a_memory_put_back_ahead_survives_the_news_of_its_deletion(graph: UserGraph) -> None:
    graph.apply(everything([fact(1), fact(2)], [edge(1, 2)], version=5))
    graph.apply(changes(6, 7, [fact(2, version=7)], [edge(2, 1, version=7)]))
    graph.apply(changes(5, 6, deleted=[id_of(2)]))
    assert graph.version == 7
    assert ids(graph.view()) == {id_of(1), id_of(2)}
    assert graph.view().edges() == (edge(2, 1, version=7),)


# What is hidden.


def test_expired_memories_are_hidden_from_every_reader(graph: UserGraph, clock: Clock) -> None:
    later = fact(2, expires_at=START + timedelta(hours=1))
    graph.apply(everything([fact(1), later, fact(3)], [edge(1, 2), edge(2, 3), edge(1, 3)]))
    before = graph.view()
    assert ids(before) == {id_of(1), id_of(2), id_of(3)}
    clock.pass_hours(1)
    after = graph.view()
    assert ids(after) == {id_of(1), id_of(3)}
    assert after.memory(id_of(2)) is None
    assert id_of(2) not in after
    assert after.edges() == (edge(1, 3),)
    assert list(after.edges_of(id_of(2))) == []
    assert (graph.node_count, graph.edge_count) == (3, 3)
    assert len(before.edges()) == 3


def test_an_expiry_that_is_taken_back_shows_the_memory_again(graph: UserGraph, clock: Clock) -> None:
    graph.apply(everything([fact(1, expires_at=START), fact(2)], [edge(1, 2)]))
    assert ids(graph.view()) == {id_of(2)}
    graph.apply(changes(1, 2, [fact(1, version=2)]))
    clock.pass_hours(1)
    assert ids(graph.view()) == {id_of(1), id_of(2)}
    assert len(graph.view().edges()) == 1


def test_stubs_are_no_memories_but_keep_their_edges(graph: UserGraph) -> None:
    graph.apply(everything([fact(1), stub(2, "A1")], [edge(1, 2)]))
    view = graph.view()
    assert ids(view) == {id_of(1)}
    assert view.memory(id_of(2)) is None
    assert id_of(2) in view
    assert len(view.edges()) == 1
    graph.apply(changes(1, 2, [replace(stub(2, "A1"), metadata={}, version=2)]))
    assert ids(graph.view()) == {id_of(1), id_of(2)}
    not_an_entity = fact(3, metadata={"stub": True}, version=3)
    graph.apply(changes(2, 3, [not_an_entity]))
    assert graph.view().memory(id_of(3)) == not_an_entity


# Snapshots.


def test_a_snapshot_is_shared_until_something_changes_and_never_changes(graph: UserGraph) -> None:
    graph.apply(everything([fact(1), fact(2)], [edge(1, 2)]))
    first = graph.view()
    assert graph.view() is first
    graph.apply(changes(1, 2, [fact(3, version=2)], [edge(1, 3, version=2)], deleted=[id_of(2)]))
    assert graph.view() is not first
    assert ids(first) == {id_of(1), id_of(2)}
    assert len(list(first.edges_of(id_of(1)))) == 1
    assert first.edges() == (edge(1, 2),)


def test_it_says_how_fresh_it_is(graph: UserGraph, clock: Clock) -> None:
    said = [(graph.stale, graph.age)]
    graph.confirm()
    clock.pass_hours(1)
    said.append((graph.stale, graph.age))
    graph.mark_stale()
    said.append((graph.stale, graph.age))
    assert said == [(True, None), (False, 3600), (True, 3600)]


def test_a_copy_of_everything_begins_an_equal_graph(graph: UserGraph, clock: Clock) -> None:
    """Expired memories and stubs too, and what ran ahead: whoever brings the copy up meets that again."""
    soon = START + timedelta(hours=1)
    graph.apply(everything([fact(1), fact(2, expires_at=soon), stub(3, "x")], [edge(1, 3)], version=4))
    graph.apply(changes(5, 6, [fact(4, version=6)], deleted=[id_of(1)]))
    clock.pass_hours(2)
    copy = graph.everything()
    assert (copy.version, copy.incarnation, copy.complete) == (4, "one", True)
    other = UserGraph(USER, clock=clock)
    other.apply(copy)
    assert (ids(other.view()), other.view().edges()) == (ids(graph.view()), graph.view().edges())
    assert other.node_count == graph.node_count == 3
    for one in (graph, other):
        assert one.apply(changes(4, 6, [fact(5, version=5), fact(4, version=6)], deleted=[id_of(1)]))
    assert contents(other.view()) == contents(graph.view())


def test_a_copy_that_somebody_kept_is_as_old_as_it_is(graph: UserGraph, clock: Clock) -> None:
    graph.apply(everything([fact(1)]))
    graph.was_confirmed(START)
    clock.pass_hours(1)
    assert (graph.stale, graph.age, graph.confirmed_at) == (True, 3600.0, START)
    graph.confirm()
    assert (graph.stale, graph.age) == (False, 0.0)


few_ids = st.lists(st.integers(0, 5), max_size=3)


@given(st.lists(st.tuples(few_ids, few_ids), min_size=1))
def test_deltas_as_one_lead_where_they_lead_one_by_one(writes: list[tuple[list[int], list[int]]]) -> None:
    history = History()
    for number, (put, deleted) in enumerate(writes):
        edges = [edge(one, other, version=number) for one in put for other in put]
        history.write([fact(one, str(number)) for one in put], edges, [id_of(one) for one in deleted])
    first, *later = [history.between(version, version + 1) for version in range(history.version)]
    graph = UserGraph(USER)
    graph.apply(history.load(0))
    assert graph.apply(first.then(*later))
    assert graph.version == history.version
    assert contents(graph.view()) == (history.states[-1].nodes, history.states[-1].edges)


def test_every_snapshot_is_consistent_while_another_thread_applies(graph: UserGraph) -> None:
    """Each write sets every memory and every edge of a ring to its own number."""
    size, rounds = 100, 120
    deltas = []
    for version in range(1, rounds + 1):
        # The ring is one longer in every other version.
        ring = size + version % 2
        nodes = [fact(one, str(version), version=version) for one in range(ring)]
        edges = [
            edge(one, (one + 1) % ring, f"{ring}", version=version, strength=version / 1000) for one in range(ring)
        ]
        gone = [id_of(one) for one in range(size + 1)]
        delta = changes(version - 1, version, nodes, edges, deleted=gone)
        deltas.append(everything(nodes, edges, version=version) if version % 10 == 0 else delta)
    graph.apply(everything(version=0))
    seen: list[GraphView] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            view = graph.view()
            if not seen or seen[-1] is not view:
                seen.append(view)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=read) for _ in range(2)]
    try:
        for reader in readers:
            reader.start()
        for delta in deltas:
            graph.apply(delta)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert len({view.version for view in seen}) > 3
    for view in seen:
        if view.version:
            ring = size + view.version % 2
            assert [node.text for node in view.memories()] == [str(view.version)] * ring
            assert [one.strength for one in view.edges()] == [view.version / 1000] * ring
            assert [len(list(view.edges_of(id_of(one)))) for one in range(ring)] == [2] * ring


# Histories against a plain model.

SMALL = st.integers(0, 5)
NODES = st.lists(st.builds(fact, SMALL, st.text("ab", max_size=2), expires_at=st.none() | st.just(START)), max_size=3)
EDGES = st.lists(
    st.builds(edge, SMALL, SMALL, st.sampled_from(["led_to", "has"]), strength=st.sampled_from([0.25, 1.0])), max_size=4
)
WRITES = st.lists(st.tuples(NODES, EDGES, st.lists(SMALL.map(id_of), max_size=2)), min_size=1, max_size=7)


@hypothesis_settings(max_examples=300)
@given(WRITES, st.data())
def test_whatever_order_the_news_comes_in_the_graph_is_what_postgres_holds(writes: Any, data: st.DataObject) -> None:
    history, clock = History(), Clock()
    clock.now -= timedelta(hours=1)
    for write in writes:
        history.write(*write)
    graph = UserGraph(USER, clock=clock)
    newest_seen = 0
    for _ in range(data.draw(st.integers(1, 8))):
        kind = data.draw(st.sampled_from(["load", "own", "changes"]))
        # Whoever is known is never loaded as unknown again in the same life.
        version = data.draw(st.integers(0 if kind == "load" and not graph.loaded else 1, history.version))
        before = graph.version
        if kind == "load":
            assert graph.apply(history.load(version))
        elif kind == "own":
            in_step = graph.apply(own := history.between(version - 1, version))
            assert in_step == (version <= graph.version and graph.loaded)
            if version > newest_seen:
                nodes, _ = contents(graph.view())
                assert nodes | {node.node_id: node for node in own.nodes} == nodes
                assert not nodes.keys() & (set(own.deleted) - {node.node_id for node in own.nodes})
        else:
            graph.apply(history.between(data.draw(st.integers(0, version)), version))
        newest_seen = max(newest_seen, version)
        assert graph.version >= before
        _nodes, edges = contents(graph.view())
        assert all(key[0] in _nodes and key[1] in _nodes for key in edges)
        assert graph.edge_count == len(edges)
        if graph.loaded and not graph._ahead:
            agrees(graph, history, graph.version, clock)
    if not graph.loaded:
        graph.apply(history.load(0))
    assert graph.apply(history.between(graph.version, history.version))
    agrees(graph, history, history.version, clock)
    clock.pass_hours(2)
    agrees(graph, history, history.version, clock)


def agrees(graph: UserGraph, history: History, version: int, clock: Clock) -> None:
    state = history.states[version]
    assert graph.version == version
    assert contents(graph.view()) == state.visible(clock())
    assert (graph.node_count, graph.edge_count) == (len(state.nodes), len(state.edges))


def test_the_order_rows_come_in_does_not_show(rng: random.Random) -> None:
    nodes = [fact(one, created_at=START + timedelta(seconds=rng.randrange(5))) for one in range(30)]
    edges = [edge(rng.randrange(30), rng.randrange(30), str(one)) for one in range(60)]
    views = []
    for _ in range(3):
        rng.shuffle(nodes)
        rng.shuffle(edges)
        graph = UserGraph(USER)
        graph.apply(everything(nodes, edges))
        views.append(graph.view())
    assert views[0].memories() == views[1].memories() == views[2].memories()
    assert views[0].edges() == views[1].edges() == views[2].edges()


def test_what_is_different_between_any_two_snapshots_is_told(
    graph: UserGraph, clock: Clock, rng: random.Random
) -> None:
    """However many came between, in either direction, over expiry, loads, and what waits on top of the rows."""
    graph.apply(everything([fact(number) for number in range(200)], version=1))
    views, version = [graph.view()], 1
    for _ in range(150):
        version += 1
        put = [
            fact(number, f"{version}", version=version, expires_at=rng.choice([None, START + timedelta(hours=version)]))
            for number in rng.sample(range(200), 3)
        ]
        if rng.random() < 0.05:
            graph.apply(everything([*put, *(fact(number) for number in range(150))], version=version))
        else:
            graph.apply(changes(version - 1, version, put, deleted=[id_of(rng.randrange(200))]))
        waits = fact(rng.randrange(200), "waits", version=None)
        graph.lay_over(rng.choice([None, None, lambda _, node=waits: changes(0, 0, [node])]))
        clock.pass_hours(rng.choice([0, 0.5]))
        views.append(graph.view())
        earlier, later = rng.choice(views[-12:]), rng.choice(views[-12:])
        told = later.changes_since(earlier)
        before, after = earlier.nodes_by_id, later.nodes_by_id
        ids_of = before.keys() | after.keys()
        different = {one for one in ids_of if before.get(one) is not after.get(one)}
        assert {node.node_id for node in told.before} == different & before.keys()
        assert {node.node_id for node in told.after} == different & after.keys()
        assert all(before[node.node_id] is node for node in told.before)
        assert all(after[node.node_id] is node for node in told.after)
        assert len(told.before) + len(told.after) == len({*map(id, told.before), *map(id, told.after)})


def test_what_is_noted_for_the_next_snapshot_is_bounded(graph: UserGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_graph, "_MOST_GONE_NOTED", 10)
    graph.apply(everything([fact(1), fact(2)], version=1))
    earlier = graph.view()
    for version in range(2, 100, 2):
        graph.apply(changes(version - 1, version, [fact(version + 1, version=version)]))
        graph.apply(changes(version, version + 1, deleted=[id_of(version + 1)]))
        assert len(graph._rows.touched) < 20
    graph.apply(changes(99, 100, [fact(1, "new", version=100)]))
    told = graph.view().changes_since(earlier)
    assert [node.text for node in told.after] == ["new"]
    assert [node.node_id for node in told.before] == [id_of(1)]
