"""What an agent reads of its user's memory: found by words, by neighbourhood, and by the shape of the graph."""

import random
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from hybrid_memory.errors import InvalidInput
from hybrid_memory.graph.algorithms import Analysis
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.identity import node_id_of
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.recall.question import Question
from hybrid_memory.recall.relevance import HALF_LIFE_HOURS
from tests.support.graphs import START, USER, Clock, changes, edge, entity, everything, fact, id_of, stub


def numbers(nodes: list[MemoryNode]) -> list[int]:
    return [UUID(node.node_id).int for node in nodes]


def scored(found: list[tuple[MemoryNode, float]]) -> list[tuple[int, float]]:
    return [(UUID(node.node_id).int, score) for node, score in found]


# Reading what is there.


def test_an_unknown_user_has_an_empty_memory(memory: UserMemory) -> None:
    assert memory.get_all_nodes() == []
    assert memory.get_all_edges() == []
    assert memory.get_node("anything") is None
    assert memory.retrieve_relevant("anything") == []
    assert memory.get_related_nodes("anything") == []
    assert memory.find_important_memories() == []
    assert memory.find_memory_clusters() == []
    assert memory.find_bridge_memories() == []
    assert memory.get_statistics()["total_nodes"] == 0
    assert (memory.version, memory.stale, memory.age) == (0, True, None)


def test_a_memory_is_found_by_either_form_of_its_id(graph: UserGraph, memory: UserMemory) -> None:
    own, name = node_id_of(USER, "my-note")
    named = replace(fact(1), node_id=own, external_id=name)
    graph.apply(everything([named, fact(0xABC)]))
    assert memory.get_node("my-note") == named
    assert memory.get_node(own.upper()) == named
    assert memory.get_node(UUID(own)) == named
    assert memory.get_node(id_of(0xABC)) == fact(0xABC)
    assert memory.get_node("another") is None
    assert numbers(memory.get_related_nodes("my-note")) == []
    with pytest.raises(InvalidInput, match="node_id"):
        memory.get_node("")


def test_all_memories_come_oldest_first(graph: UserGraph, memory: UserMemory) -> None:
    ages = {3: 2, 1: 1, 2: 1, 4: 0}
    graph.apply(everything([fact(one, created_at=START - timedelta(hours=age)) for one, age in ages.items()]))
    assert numbers(memory.get_all_nodes()) == [3, 1, 2, 4]


def test_what_is_handed_out_is_the_callers(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([fact(1), fact(2)], [edge(1, 2)]))
    for read in (
        memory.get_all_nodes,
        memory.get_all_edges,
        memory.find_important_memories,
        memory.find_memory_clusters,
    ):
        length = len(read())
        read().clear()
        assert len(read()) == length > 0
    memory.find_memory_clusters()[0].clear()
    assert len(memory.find_memory_clusters()[0]) == 2


def test_every_read_follows_the_graph(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([fact(1, "tea")]))
    assert numbers(memory.retrieve_relevant("tea")) == [1]
    graph.apply(changes(1, 2, [fact(1, "coffee", version=2), fact(2, "tea", version=2)], [edge(1, 2, version=2)]))
    assert numbers(memory.retrieve_relevant("tea")) == [2]
    assert numbers(memory.get_related_nodes(id_of(1))) == [2]
    assert memory.version == memory.get_statistics()["version"] == 2
    graph.apply(changes(2, 3, deleted=[id_of(2)]))
    assert memory.retrieve_relevant("tea") == []
    assert memory.get_related_nodes(id_of(1)) == []


def test_expired_memories_and_stubs_are_in_no_answer(graph: UserGraph, memory: UserMemory, clock: Clock) -> None:
    expiring = entity(2, "A2", "tea house", expires_at=START + timedelta(hours=1))
    graph.apply(everything([fact(1, "tea"), expiring, stub(3, "A3")], [edge(1, 2), edge(1, 3), edge(3, 2)]))

    def answers() -> dict[str, Any]:
        return {
            "all": numbers(memory.get_all_nodes()),
            "retrieved": sorted(numbers(memory.retrieve_relevant("tea A2 A3"))),
            "named": numbers(memory.retrieve_relevant("A2") + memory.retrieve_relevant("A3")),
            "got": [memory.get_node(id_of(one)) is not None for one in (1, 2, 3)],
            "related": sorted(numbers(memory.get_related_nodes(id_of(1)))),
            "important": sorted(number for number, _ in scored(memory.find_important_memories())),
            "clusters": sorted(one for cluster in memory.find_memory_clusters() for one in numbers(cluster)),
            "total": memory.get_statistics()["total_nodes"],
            "edges": len(memory.get_all_edges()),
        }

    assert answers() == {
        "all": [1, 2], "retrieved": [1, 2], "named": [2], "got": [True, True, False], "related": [2],
        "important": [1, 2], "clusters": [1, 2], "total": 2, "edges": 3,
    }  # fmt: skip
    clock.pass_hours(1)
    assert answers() == {
        "all": [1], "retrieved": [1], "named": [], "got": [True, False, False], "related": [],
        "important": [1], "clusters": [1], "total": 1, "edges": 1,
    }  # fmt: skip


# Neighbourhood.


def test_related_memories_come_nearest_first_from_both_directions(graph: UserGraph, memory: UserMemory) -> None:
    edges = [
        edge(1, 2, strength=0.3), edge(3, 1, strength=0.9), edge(2, 4, "led_to"), edge(5, 3), edge(5, 6), edge(1, 1),
        edge(1, 2, "answers", strength=0.5),
    ]  # fmt: skip
    graph.apply(everything([fact(one) for one in range(1, 8)], edges))
    related = memory.get_related_nodes
    assert numbers(related(id_of(1))) == [3, 2, 4, 5]
    assert numbers(related(id_of(1), max_distance=1)) == [3, 2]
    assert numbers(related(id_of(1), max_distance=9)) == [3, 2, 4, 5, 6]
    assert related(id_of(1), max_distance=0) == []
    assert numbers(related(id_of(1), relationship_types=["relates_to"], max_distance=9)) == [3, 2, 5, 6]
    assert numbers(related(id_of(4), relationship_types="led_to")) == [2]
    assert related(id_of(7)) == []


def test_a_stub_joins_what_points_at_it(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([fact(1), stub(2, "A1"), fact(3)], [edge(1, 2), edge(3, 2)]))
    assert numbers(memory.get_related_nodes(id_of(1))) == [3]
    assert [numbers(cluster) for cluster in memory.find_memory_clusters()] == [[1, 3]]


# The shape of the graph.


def shaped(rng: random.Random) -> tuple[list[MemoryNode], list[Relationship]]:
    """Two rings of five around their hubs, joined through 50, and two memories on their own."""
    nodes = [fact(one) for one in (*range(1, 6), *range(11, 16), 50, 98, 99)]
    edges = [edge(start, ring, strength=0.8) for ring in (1, 11) for start in range(ring + 1, ring + 5)]
    edges += [edge(ring + one, ring + 1 + one % 4, strength=0.4) for ring in (1, 11) for one in range(1, 5)]
    edges += [edge(1, 50, "led_to", strength=0.3), edge(50, 11, "led_to", strength=0.3)]
    rng.shuffle(nodes)
    rng.shuffle(edges)
    return nodes, edges


def test_the_shape_is_understood(graph: UserGraph, memory: UserMemory, rng: random.Random) -> None:
    graph.apply(everything(*shaped(rng)))
    important = scored(memory.find_important_memories(3))
    assert [number for number, _ in important] == [11, 50, 1]
    assert important[0][1] > important[1][1] > important[2][1]
    assert sum(score for _, score in memory.find_important_memories(100)) == pytest.approx(1)
    clusters = [numbers(cluster) for cluster in memory.find_memory_clusters()]
    assert sorted(len(cluster) for cluster in clusters) == [1, 1, 5, 6]
    assert [98] in clusters
    assert [99] in clusters
    assert {frozenset(cluster) - {50} for cluster in clusters[:2]} == {frozenset(range(1, 6)), frozenset(range(11, 16))}
    bridges = [number for number, _ in scored(memory.find_bridge_memories())]
    assert set(bridges[:3]) == {1, 11, 50}
    assert not {98, 99} & set(bridges)


def test_defect_13_memories_without_relationships_are_there_after_a_load(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([fact(1), fact(2)]))
    assert numbers(memory.get_all_nodes()) == [1, 2]
    assert scored(memory.find_important_memories()) == [(1, 0.5), (2, 0.5)]
    assert [numbers(cluster) for cluster in memory.find_memory_clusters()] == [[1], [2]]
    assert memory.find_bridge_memories() == []


def test_defect_13_pagerank_weighs_by_strength(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([fact(1), fact(2), fact(3)], [edge(1, 2, strength=0.1), edge(1, 3, strength=0.9)]))
    assert [number for number, _ in scored(memory.find_important_memories())] == [3, 2, 1]
    graph.apply(changes(1, 2, edges=[edge(1, 2, strength=0.95, version=2)]))
    assert [number for number, _ in scored(memory.find_important_memories())] == [2, 3, 1]


def test_several_relationships_of_two_memories_count_together(graph: UserGraph, memory: UserMemory) -> None:
    several = [edge(1, 2, kind, strength=0.5) for kind in ("led_to", "has", "answers")]
    graph.apply(everything([fact(1), fact(2), fact(3)], [*several, edge(1, 3, strength=0.9)]))
    assert [number for number, _ in scored(memory.find_important_memories())] == [2, 3, 1]


def test_relationships_without_strength_join_nothing(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([fact(1), fact(2)], [edge(1, 2, strength=0.0), edge(2, 1, strength=0.0)]))
    assert scored(memory.find_important_memories()) == [(1, 0.5), (2, 0.5)]
    assert len(memory.find_memory_clusters()) == 2


def test_defect_9_an_entity_is_one_memory_with_all_its_keys(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([entity(1, "A1", "GenePoint", content={"entity_data": {"x": 1}}, confidence=0.6)]))
    merged = entity(
        1, "A1", "GenePoint Inc", content={"entity_data": {"x": 1, "y": 2}}, confidence=0.65, importance=0.9, version=2
    )
    graph.apply(changes(1, 2, [merged]))
    assert memory.get_all_nodes() == [merged]
    assert memory.retrieve_relevant("A1") == [merged]
    assert memory.get_statistics()["total_entities"] == 1


def test_defect_16_nothing_is_left_out_of_a_large_memory(graph: UserGraph, memory: UserMemory) -> None:
    count = 3000
    graph.apply(everything([fact(one) for one in range(count)], [edge(one, one - 1) for one in range(1, count)]))
    assert len(memory.get_all_nodes()) == count
    assert len(memory.get_all_edges()) == count - 1
    assert len(memory.find_important_memories(count)) == count
    assert len(memory.get_related_nodes(id_of(0), max_distance=count)) == count - 1


def test_defect_12_reading_changes_nothing(graph: UserGraph, memory: UserMemory) -> None:
    before = [entity(1, "A1", "tea", access_count=3, last_accessed_at=START)]
    graph.apply(everything(before))
    memory.retrieve_relevant("tea")
    memory.retrieve_relevant("A1")
    memory.get_node(id_of(1))
    assert memory.get_all_nodes() == before


def test_the_answers_are_equal_before_and_after_a_reload_in_another_order(rng: random.Random) -> None:
    nodes = [fact(one, rng.choice(["tea", "coffee", "milk"])) for one in range(60)]
    edges = [edge(rng.randrange(50), rng.randrange(50), str(one), strength=rng.random()) for one in range(90)]
    stepwise, loaded = UserGraph(USER, clock=Clock()), UserGraph(USER, clock=Clock())
    stepwise.apply(everything(version=0))
    for version, start in enumerate(range(0, 60, 6), 1):
        stepwise.apply(changes(version - 1, version, nodes[start : start + 6]))
    stepwise.apply(changes(10, 11, edges=edges))
    loaded.apply(everything(rng.sample(nodes, 60), rng.sample(edges, 90), version=11))
    one, other = UserMemory(stepwise), UserMemory(loaded)
    assert one.find_important_memories(60) == other.find_important_memories(60)
    assert one.find_memory_clusters() == other.find_memory_clusters()
    assert one.find_bridge_memories(60) == other.find_bridge_memories(60)
    assert one.get_statistics() == other.get_statistics()
    for query in ("tea", "milk and coffee"):
        assert one.retrieve_relevant(query, max_results=60) == other.retrieve_relevant(query, max_results=60)
    for number in range(60):
        assert one.get_related_nodes(id_of(number)) == other.get_related_nodes(id_of(number))


def test_every_process_gives_the_same_answers() -> None:
    """Hash seeds differ between processes, and sets of strings are in another order in each."""
    program = """
import random
from tests.support.graphs import *
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.user_memory import UserMemory
rng = random.Random(5)
graph = UserGraph(USER)
graph.apply(everything([fact(n) for n in range(60)],
                       [edge(rng.randrange(60), rng.randrange(60), str(n), strength=rng.random()) for n in range(90)]))
memory = UserMemory(graph)
print([[(n.node_id, s) for n, s in memory.find_important_memories(60)],
       [[n.node_id for n in c] for c in memory.find_memory_clusters()],
       [(n.node_id, s) for n, s in memory.find_bridge_memories(60)]])
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert said[0] == said[1]
    assert len(said[0]) > 1000


def test_defect_19_an_analysis_is_made_once_until_something_changes(
    graph: UserGraph, memory: UserMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    compute = Analysis._important

    def counted(analysis: Analysis) -> Any:
        made.append(analysis.view.version)
        return compute(analysis)

    monkeypatch.setattr(Analysis, "_important", counted)
    graph.apply(everything([fact(1), fact(2)], [edge(1, 2)]))
    assert made == []
    readers = [threading.Thread(target=memory.find_important_memories) for _ in range(8)]
    memory.get_statistics()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert made == [1]
    graph.apply(changes(1, 2, [fact(3, version=2)]))
    assert made == [1]
    memory.find_important_memories()
    assert made == [1, 2]


def test_bridges_of_a_large_graph_are_estimated(
    graph: UserGraph, memory: UserMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = [edge(side + one, side + (one + 1) % 30) for side in (0, 100) for one in range(30)]
    nodes = [fact(side + one) for side in (0, 100) for one in range(30)]
    graph.apply(everything([*nodes, fact(200)], [*ring, edge(0, 200), edge(200, 100)]))
    exact = memory.find_bridge_memories(61)
    monkeypatch.setattr("hybrid_memory.graph.algorithms._MOST_STEPS", 1000)
    estimated = UserMemory(graph).find_bridge_memories(61)
    assert estimated != exact
    assert (
        {number for number, _ in scored(estimated[:3])} == {number for number, _ in scored(exact[:3])} == {0, 100, 200}
    )
    assert estimated == UserMemory(graph).find_bridge_memories(61)


def test_statistics(graph: UserGraph, memory: UserMemory) -> None:
    nodes = [fact(1, tags=("a", "b")), fact(2, tags=("b",)), entity(3, "A1", "x"), stub(4, "A2")]
    graph.apply(everything(nodes, [edge(1, 2), edge(1, 2, "answers"), edge(2, 4), edge(3, 3)], version=7))
    graph.confirm()
    assert memory.get_statistics() == {
        "total_nodes": 3,
        "nodes_by_type": {"conversation_fact": 2, "domain_entity": 1},
        "total_tags": 2,
        "total_entities": 1,
        "total_edges": 4,
        "edges_by_type": {"answers": 1, "relates_to": 3},
        "density": pytest.approx(2 / 12),
        "version": 7,
        "stale": False,
        "age": 0.0,
    }


# Finding by words.


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("genepoint", [1, 2]),
        ("GenePoint accounts", [1, 2]),
        ("gene-point", []),
        ("the renewal of GenePoint", [2, 1]),
        ("budgets", [3]),
        ("nightly", [4]),
        ("résumé", [5]),
        ("Resumes", [5]),
        ("250000", [1]),
        ("GP", [1]),
        ("xyzzy blorf", []),
        ("of the and", []),
        ("", []),
        ("  ?!  ", []),
    ],
)
def test_what_a_query_finds(graph: UserGraph, memory: UserMemory, query: str, found: list[int]) -> None:
    nodes = [
        entity(1, "001", "GenePoint", content={"entity_data": {"amount": 250000}, "aliases": ["GP"]}),
        fact(2, "the renewal of GenePoint is due"),
        fact(3, "", tags=("Budget",)),
        fact(4, summary="a nightly job", content={"steps": [{"what": "copy"}, True]}, content_kind="json"),
        fact(5, "résumé received"),
    ]
    graph.apply(everything(nodes))
    assert numbers(memory.retrieve_relevant(query)) == found


def test_an_entity_is_found_by_its_exact_id_alone(graph: UserGraph, memory: UserMemory) -> None:
    nodes = [
        entity(1, "INC0012345", "printer on fire", created_at=START - timedelta(days=300), updated_at=None),
        fact(2, "INC0012345 was reported by Ann"),
        entity(3, "sales", "the department"),
        fact(4, "sales are up"),
        entity(5, "inc0012345", "the same elsewhere", content={"entity_system": "other"}),
    ]
    graph.apply(everything(nodes))
    assert numbers(memory.retrieve_relevant(" inc0012345 ", min_relevance=0.9)) == [1, 5]
    assert numbers(memory.retrieve_relevant("who reported (INC0012345)?")) == [1, 5, 2]
    assert numbers(memory.retrieve_relevant("sales")) == [3]
    assert numbers(memory.retrieve_relevant("sales up")) == [4, 3]
    assert numbers(memory.retrieve_relevant("INC0012345", context_filter={"conversation_fact"})) == [2]
    assert numbers(memory.retrieve_relevant("INC001234")) == []


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, {1, 2, 3, 4}),
        ({"context_filter": {"tool_output"}}, {3}),
        ({"context_filter": "tool_output"}, {3}),
        ({"context_filter": []}, set()),
        ({"max_age_hours": 5}, {1, 3, 4}),
        ({"max_age_hours": 0}, {4}),
        ({"required_tags": ["Work"]}, {1, 2}),
        ({"required_tags": ["work", "urgent"]}, {2}),
        ({"required_tags": "urgent"}, {2}),
        ({"excluded_tags": ["urgent"]}, {1, 3, 4}),
        ({"required_tags": ["work"], "excluded_tags": ["URGENT"]}, {1}),
        ({"min_relevance": 1.1}, set()),
        ({"max_results": 0}, set()),
        ({"max_results": -1}, set()),
    ],
)
def test_filters(graph: UserGraph, memory: UserMemory, clock: Clock, filters: dict[str, Any], found: set[int]) -> None:
    clock.pass_hours(5)
    old = START - timedelta(hours=9)
    nodes = [
        fact(1, "tea", tags=("work",)),
        fact(2, "tea", tags=("WORK", "urgent"), created_at=old, updated_at=old),
        fact(3, "tea", context_type="tool_output"),
        fact(4, "tea", created_at=old, updated_at=clock.now),
    ]
    graph.apply(everything(nodes))
    assert set(numbers(memory.retrieve_relevant("tea", **filters))) == found


def test_filters_apply_before_ranking(graph: UserGraph, memory: UserMemory) -> None:
    """However many better ones are filtered out, as many as asked for are found."""
    better = [fact(one, "tea", tags=("spam",)) for one in range(50)]
    worse = [fact(100 + one, "tea with milk and honey", importance=0.1) for one in range(5)]
    graph.apply(everything([*better, *worse]))
    assert len(memory.retrieve_relevant("tea", max_results=5, excluded_tags=["spam"])) == 5
    assert numbers(memory.retrieve_relevant("tea", max_results=5, excluded_tags=["spam"])) == [100, 101, 102, 103, 104]


def test_rare_words_and_good_places_count_more(graph: UserGraph, memory: UserMemory) -> None:
    nodes = [
        fact(1, "customer", summary=""),
        fact(2, "zeppelin", summary=""),
        fact(3, "zeppelin"),
        entity(4, "E", "zeppelin"),
        entity(5, "F", "airship", content={"aliases": ["the zeppelin"]}, importance=0.4),
    ]
    graph.apply(everything([*nodes, *(fact(10 + one, "customer", summary="") for one in range(20))]))
    assert numbers(memory.retrieve_relevant("customer zeppelin", max_results=5)) == [4, 5, 3, 2, 1]


@pytest.mark.parametrize("context_type", [*HALF_LIFE_HOURS, "anything_else"])
def test_memories_fade_by_the_half_life_of_their_type(
    graph: UserGraph, memory: UserMemory, clock: Clock, context_type: str
) -> None:
    hours = {"search_result": 6, "temporary_state": 3, "domain_entity": 48, "conversation_fact": 24,
             "completed_action": 24, "tool_output": 8, "user_selection": 36}.get(context_type, 12)  # fmt: skip

    def vitality(**fields: Any) -> float:
        graph.apply(everything([fact(1, "tea", context_type=context_type, **fields)], version=graph.version + 1))
        [hit] = memory.ranked(Question(text="tea", explain=True))
        assert hit.explanation is not None
        return hit.explanation.vitality

    assert vitality(importance=0.8) == pytest.approx(0.8)
    assert vitality(importance=1.0, last_accessed_at=clock.now) == 1.0
    clock.pass_hours(hours)
    assert vitality(importance=0.8) == pytest.approx(0.4)
    accessed = clock.now
    assert vitality(importance=0.8, last_accessed_at=accessed) == pytest.approx(0.7)
    clock.pass_hours(2)
    assert vitality(importance=0.8, last_accessed_at=accessed) < 0.55
    clock.pass_hours(24 * 1000)
    assert vitality(importance=0.8) == 0.05


def test_of_equal_matches_the_livelier_comes_first(graph: UserGraph, memory: UserMemory, clock: Clock) -> None:
    clock.pass_hours(48)
    nodes = [
        fact(1, "tea", context_type="temporary_state"),
        fact(2, "tea", context_type="domain_entity"),
        fact(3, "tea", context_type="temporary_state", last_accessed_at=clock.now),
        fact(4, "tea", importance=1.0, updated_at=clock.now),
        fact(5, "tea", context_type="domain_entity"),
    ]
    graph.apply(everything(nodes))
    assert numbers(memory.retrieve_relevant("tea")) == [4, 3, 2, 5, 1]
    assert numbers(memory.retrieve_relevant("tea", max_results=2)) == [4, 3]


def test_an_old_fact_that_is_what_was_asked_for_stays_relevant(
    graph: UserGraph, memory: UserMemory, clock: Clock
) -> None:
    graph.apply(everything([fact(1, "allergic to nuts"), fact(2, "likes films")]))
    clock.pass_hours(24 * 365)
    assert numbers(memory.retrieve_relevant("nuts allergic", min_relevance=0.3)) == [1]


def test_the_words_follow_a_random_history(rng: random.Random) -> None:
    """The index that followed every change answers like one made afresh."""
    graph = UserGraph(USER, clock=Clock())
    graph.apply(everything(version=0))
    memory = UserMemory(graph)
    for version in range(1, 80):
        nodes = []
        for _ in range(rng.randrange(4)):
            text = " ".join(rng.choices(["tea", "milk", "honey", "lemon", "INC1"], k=3))
            number = rng.randrange(20)
            plain = fact(number, text, version=version)
            nodes.append(rng.choice([plain, entity(number, f"INC{number % 3}", text, version=version)]))
        graph.apply(changes(version - 1, version, nodes, deleted=[id_of(rng.randrange(20))]))
        if rng.random() < 0.7:
            for query in ("tea", "honey lemon", "INC1", "status of INC2 tea"):
                assert memory.retrieve_relevant(query, max_results=99) == UserMemory(graph).retrieve_relevant(
                    query, max_results=99
                )
