"""Finding what a question is about: neighbours, speakers, times, vectors, relations, filters, and the reasons."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from hybrid_memory.graph.directions import Direction
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.graph.vectors import VectorTable
from hybrid_memory.graph.view import GraphView
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import Explanation, MemoryNode, RecallHit, Relationship
from hybrid_memory.recall import lexical
from hybrid_memory.recall.passage import Passage, passage_of
from hybrid_memory.recall.question import Filters, Question, Similarities, tags_of, types_of
from hybrid_memory.recall.search import Search
from tests.support.graphs import START, USER, Clock, changes, edge, entity, everything, fact, id_of, stub
from tests.support.turns import turn


def found(memory: UserMemory, text: str | None, **asked: Any) -> list[int]:
    return numbers(memory.ranked(Question(text=text, **asked)))


def numbers(hits: Sequence[RecallHit]) -> list[int]:
    return [int(hit.node.node_id.replace("-", ""), 16) for hit in hits]


def near(cosines: dict[int, float]) -> Similarities:
    return Similarities(tuple(map(id_of, cosines)), np.array(list(cosines.values()), np.float32))


def why(memory: UserMemory, text: str, number: int, **asked: Any) -> Explanation:
    hits = memory.ranked(Question(text=text, explain=True, **asked))
    [explanation] = [hit.explanation for hit in hits if hit.node.node_id == id_of(number)]
    assert explanation is not None
    return explanation


# Conversations.


def test_an_answer_is_found_by_the_words_of_its_question(graph: UserGraph, memory: UserMemory) -> None:
    turns = [
        turn(1, "Did you bring the tent for the mountains?", "Bob"),
        turn(2, "It is still in my cellar, sorry", "Ann"),
        turn(3, "We could rent skis instead", "Bob"),
        *(turn(10 + one, f"chat number {one} about nothing", "Bob", "other") for one in range(20)),
    ]
    graph.apply(everything(turns))
    assert found(memory, "where is the tent")[:2] == [2, 1]
    assert why(memory, "tent", 2).arms["words"].reason == "its neighbours say the words"
    assert why(memory, "tent", 1).matched == ("tent",)
    graph.apply(changes(1, 2, deleted=[id_of(1)]))
    assert found(memory, "where is the tent") == []


def test_a_long_question_is_answered_word_by_word_as_well(
    graph: UserGraph, memory: UserMemory, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    graph.apply(everything([turn(one, " ".join(rng.sample(words, 4)), "Ann", f"t{one % 7}") for one in range(1, 80)]))
    question = Question(text=" ".join(words), limit=50)
    together = memory.ranked(question)
    monkeypatch.setattr(lexical, "_MOST_CELLS", 1)
    one_by_one = memory.ranked(question)
    assert numbers(one_by_one) == numbers(together)
    assert [hit.score for hit in one_by_one] == pytest.approx([hit.score for hit in together], abs=1e-5)


def test_neighbours_are_turns_of_one_thread_without_a_long_pause(graph: UserGraph, memory: UserMemory) -> None:
    turns = [
        turn(1, "the violin", thread="a"),
        turn(2, "something else", thread="a", at=START + timedelta(hours=9)),
        turn(3, "another thread", thread="b"),
    ]
    graph.apply(everything(turns))
    assert found(memory, "violin") == [1]
    graph.apply(changes(1, 2, [turn(2, "something else", thread="a", version=2)]))
    assert found(memory, "violin") == [1, 2]


def test_a_turn_that_comes_between_others_is_their_neighbour(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([turn(1, "one"), turn(4, "four"), turn(9, "nine")]))
    assert found(memory, "four") == [4, 9, 1]
    graph.apply(changes(1, 2, [turn(3, "the third"), turn(5, "the fifth")]))
    assert found(memory, "four")[0] == 4
    assert set(found(memory, "four")) == {3, 4, 5, 9}


def test_who_is_named_counts(graph: UserGraph, memory: UserMemory) -> None:
    turns = [
        turn(one, "jazz at the old harbour tonight", ("Ann", "Bob Miller")[one % 2], f"t{one}") for one in range(1, 7)
    ]
    graph.apply(everything(turns))
    assert {one % 2 for one in found(memory, "jazz for Ann", limit=3, near_copies=True)} == {0}
    assert {one % 2 for one in found(memory, "jazz for bob", limit=3, near_copies=True)} == {1}
    assert "speaker" not in why(memory, "jazz for Ann and Bob", 1).arms


def test_a_session_about_it_counts(graph: UserGraph, memory: UserMemory) -> None:
    about = [
        turn(one, text, thread="a")
        for one, text in enumerate(["violin strings", "a bow", "rosin", "violin again", "", "the price of it all"], 1)
    ]
    elsewhere = [
        turn(10 + one, text, thread="b")
        for one, text in enumerate(["bread", "milk", "cheese", "eggs", "", "the price of it all"], 1)
    ]
    graph.apply(everything([*elsewhere, *about]))
    assert found(memory, "violin price")[0] == 6


def test_memories_of_another_language(graph: UserGraph) -> None:
    memory = UserMemory(graph, language="portuguese")
    told = [turn(1, "Marcámos as viagens para o Porto"), turn(2, "As informações chegam depois", thread="u")]
    graph.apply(everything(told))
    assert found(memory, "quando foi a viagem?") == [1]
    assert found(memory, "informacao") == [2]
    assert found(memory, "quem foi que") == []


def test_what_says_the_same_as_a_better_one_counts_half_and_nothing_else_does(
    graph: UserGraph, memory: UserMemory
) -> None:
    rng = random.Random(5)
    texts = []
    for _ in range(60):
        words = rng.sample([f"word{number}" for number in range(60)], rng.randint(3, 30))
        texts += [words, words[: -rng.randint(1, 3)], [*words, f"more{rng.randint(0, 9)}"]]
    rng.shuffle(texts)
    graph.apply(everything([fact(number, f"tea {' '.join(text)}") for number, text in enumerate(texts, 1)]))
    alone = {hit.node.node_id: hit.score for hit in memory.ranked(Question(text="tea", limit=200, near_copies=True))}
    better: list[set[str]] = []
    halved = 0
    for hit in memory.ranked(Question(text="tea", limit=200)):
        said = {"tea", *texts[numbers([hit])[0] - 1]}
        repeats = any(len(said & other) >= 0.9 * len(said | other) for other in better)
        assert hit.score == pytest.approx(alone[hit.node.node_id] * (0.5 if repeats else 1.0))
        better.append(said)
        halved += repeats
    assert 20 < halved < 150


def test_of_many_that_fit_equally_well_those_that_changed_last_are_given(graph: UserGraph, memory: UserMemory) -> None:
    changed = {number: START + timedelta(seconds=number // 2) for number in range(1, 201)}
    told = [fact(number, "tea", created_at=START, updated_at=at, importance=0.0) for number, at in changed.items()]
    graph.apply(everything(told))
    assert found(memory, "tea", limit=5, near_copies=True) == [200, 198, 199, 196, 197]


def test_the_first_of_a_page_are_the_first_of_a_larger_one(
    graph: UserGraph, memory: UserMemory, rng: random.Random, clock: Clock
) -> None:
    told = [
        fact(
            number,
            f"tea {' '.join(f'word{rng.randrange(9)}' for _ in range(rng.randint(9, 12)))}",
            importance=rng.random(),
            updated_at=clock.now - timedelta(hours=rng.choice([0.0, 90.0]) * rng.random()),
        )
        for number in range(1, 1500)
    ]
    graph.apply(everything(told))
    for text in ("tea", "word4 word5"):
        for filters in (Filters(), Filters(admits=lambda node: node.importance < 0.1)):
            whole = found(memory, text, limit=1500, near_copies=True, filters=filters)
            assert len(whole) > 50
            for limit in (1, 7, 40):
                assert found(memory, text, limit=limit, near_copies=True, filters=filters) == whole[:limit]


# Times.


def test_a_time_in_the_question_counts(graph: UserGraph, memory: UserMemory, clock: Clock) -> None:
    clock.now = datetime(2024, 5, 15, tzinfo=UTC)
    told = [
        turn(month, "at the dentist again", thread=f"t{month}", at=datetime(2023, month, 10, 9, tzinfo=UTC))
        for month in range(1, 13)
    ]
    graph.apply(everything(told))
    assert found(memory, "dentist in May 2023")[0] == 5
    assert found(memory, "dentist last month")[0] != 4, "that is April 2024, when nothing was told"
    assert found(memory, "dentist in August")[0] == 8
    window = why(memory, "dentist in August", 8).window
    assert window == (datetime(2023, 8, 1, tzinfo=UTC), datetime(2023, 9, 1, tzinfo=UTC))
    assert why(memory, "dentist in August", 9, limit=12).window is None


def test_what_happens_at_the_end_of_all_time_is_no_obstacle(graph: UserGraph, memory: UserMemory) -> None:
    never = datetime(9999, 12, 31, tzinfo=UTC)
    graph.apply(everything([turn(1, "the lease ends", at=never), fact(2, "the lease is dear")]))
    assert set(found(memory, "the lease in December")) == {1, 2}
    assert set(found(memory, "does the lease end 9999-12-31?")) == {1, 2}


def test_a_time_alone_finds_what_happened_then(graph: UserGraph, memory: UserMemory, clock: Clock) -> None:
    clock.pass_hours(36)
    told = [
        turn(1, "cinema", at=START + timedelta(hours=2)),
        turn(2, "museum", at=START + timedelta(hours=30), thread="u"),
    ]
    graph.apply(everything([*told, fact(3, "older", created_at=START - timedelta(days=90))]))
    assert found(memory, "what was yesterday?") == [1]
    assert memory.ranked(Question(text="what was yesterday?"))[0].score <= 0.5


# Vectors.


def test_vectors_find_what_words_do_not(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([fact(1, "allergic to nuts"), fact(2, "likes films"), fact(3, "no vector yet")]))
    assert found(memory, "peanut problem") == []
    assert found(memory, "peanut problem", similarities=near({1: 0.8, 2: 0.1})) == [1, 2]
    hits = memory.ranked(Question(text="peanut problem", similarities=near({1: 0.8, 2: 0.1})))
    assert hits[0].score == pytest.approx(0.8, abs=0.1)
    assert found(memory, "films", similarities=near({1: 0.8, 2: 0.7, 99: 1.0})) == [2, 1]
    assert found(memory, None, similarities=near({2: 0.9, 1: 0.3})) == [2, 1]
    assert found(memory, "films", similarities=near({})) == [2]


def test_of_many_vectors_the_truly_nearest_come_first(graph: UserGraph, memory: UserMemory, rng: random.Random) -> None:
    graph.apply(everything([fact(number, f"number {number}") for number in range(1, 2001)]))
    table, draw = VectorTable(24), np.random.default_rng(rng.randrange(2**32))
    rows = draw.standard_normal((2001, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    earlier = None
    for number in rng.sample(range(1, 2001), 2000):
        table.put(id_of(number), "content", rows[number])
        if number % 3 == 0:
            table.drop(id_of(number))
        if number % 500 == 0:
            alike = table.cosines(Direction(rows[0]))
            alike.sharpen(10)
            asked = Question(text="xyzzy", similarities=Similarities(alike.node_ids, alike.scores))
            truth = sorted(
                (float(rows[int(one.replace("-", ""), 16)] @ rows[0]) for one in table.node_ids()), reverse=True
            )
            assert [float(rows[one] @ rows[0]) for one in numbers(memory.ranked(asked))] == pytest.approx(truth[:10])
            earlier = earlier or asked
    assert earlier is not None
    assert {one % 3 for one in numbers(memory.ranked(earlier))} <= {1, 2}, "one that was asked before others came"


def test_a_turn_means_what_its_neighbours_mean_too(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(
        everything([turn(1, "a"), turn(2, "b"), turn(3, "c"), turn(8, "d", thread="u"), turn(9, "e", thread="v")])
    )
    asked = {"similarities": near({1: 0.8, 2: 0.5, 3: 0.8, 8: 0.5, 9: 0.0})}
    assert set(found(memory, "xyzzy", **asked)[:2]) == {1, 3}
    assert found(memory, "xyzzy", **asked)[2:] == [2, 8, 9]


# Relations.

WORLD = [
    entity(1, "C1", "Edna Frank", content={"entity_type": "contact"}),
    entity(2, "A1", "GenePoint", content={"aliases": ["GP"]}),
    fact(3, "the contract ends in June", summary=""),
    fact(4, "GenePoint has moved its laboratory to Lisbon", summary=""),
    fact(5, "the contract of another customer ends in July", summary=""),
    stub(6, "A9"),
    fact(7, "the roof is leaking", summary=""),
]
JOINED = [edge(1, 2, "belongs_to"), edge(3, 2), edge(1, 6), edge(7, 6)]


def test_relations_lead_to_what_words_do_not_name(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything(WORLD, JOINED))
    contracts = Filters(context_types=types_of("conversation_fact"))
    assert found(memory, "what about Edna Frank's agreement?", filters=contracts)[0] == 3
    assert found(memory, "what about Edna Frank's agreement?", filters=contracts, graph=False) == []
    reasons = why(memory, "Edna Frank", 3)
    assert reasons.path == (id_of(1), id_of(2), id_of(3))
    assert reasons.arms["graph"].reason == "2 steps from what is named"
    assert 7 in found(memory, "Edna Frank"), "a stub joins what it stands between"
    assert 6 not in found(memory, "Edna Frank")


def test_what_speaks_of_a_connected_entity_is_connected(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything(WORLD, JOINED))
    assert 4 in found(memory, "where does Edna Frank work?")
    assert 4 in found(memory, "GP")
    assert found(memory, "GP", graph=False) == [2]
    assert why(memory, "GP", 4).arms["graph"].reason == "speaks of what is connected"


def test_a_question_that_asks_over_two_steps(graph: UserGraph, memory: UserMemory, rng: random.Random) -> None:
    """Forty companies: who works there is in one memory, what is due there in another that names neither."""
    nodes: list[MemoryNode] = []
    edges: list[Relationship] = []
    names = [
        f"{first} {last}"
        for first in ("Mia", "Ivo", "Lena", "Omar")
        for last in ["Abel", "Berg", "Costa", "Dahl", "Egger", "Faro", "Gil", "Hahn", "Ito", "Jung"]
    ]
    for one, name in enumerate(names):
        person, company, due = 1000 + one, 2000 + one, 3000 + one
        nodes += [
            entity(person, f"P{one}", name),
            entity(company, f"K{one}", f"Company {one}"),
            fact(due, f"the invoice is due on day {one}", summary=""),
        ]
        edges += [edge(person, company, "belongs_to"), edge(due, company)]
    graph.apply(everything(rng.sample(nodes, len(nodes)), edges))
    asked = [(f"when is the invoice for {name}'s company due?", 3000 + one) for one, name in enumerate(names)]
    with_graph = sum(answer in found(memory, question, limit=10) for question, answer in asked)
    without = sum(answer in found(memory, question, limit=10, graph=False) for question, answer in asked)
    print(f"two steps: {with_graph} of {len(asked)} with the graph, {without} without")
    assert with_graph == len(asked)
    assert without < len(asked) / 2


def test_a_walk_is_bounded(graph: UserGraph, memory: UserMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub with thousands of relationships leads to its strongest ones, and every memory is met once."""
    hub = entity(1, "HUB", "Grand Central")
    spokes = [fact(100 + one, f"spoke {one}") for one in range(5000)]
    edges = [edge(1, 100 + one, strength=0.5 + 0.5 * (one % 1000 == 7)) for one in range(5000)]
    graph.apply(everything([hub, *spokes], edges))
    asked: list[str] = []
    edges_of = GraphView.edges_of

    def counted(view: GraphView, node_id: str) -> Iterator[Relationship]:
        asked.append(node_id)
        return edges_of(view, node_id)

    monkeypatch.setattr(GraphView, "edges_of", counted)
    reached = found(memory, "Grand Central", limit=100)
    assert {107, 1107, 2107, 3107, 4107} <= set(reached)
    assert len(reached) == 1 + 32
    assert len(asked) == len(set(asked)) <= 40


# The page.


def test_copies_do_not_fill_the_page(graph: UserGraph, memory: UserMemory) -> None:
    copies = [fact(one, "Ann plays the violin in the town orchestra") for one in range(1, 9)]
    others = [fact(20, "the violin was made in Cremona"), fact(21, "an orchestra needs a conductor")]
    graph.apply(everything([*copies, *others]))
    page = found(memory, "violin orchestra", limit=3)
    assert {20, 21} <= set(page)
    assert len(found(memory, "violin orchestra")) == 10, "there is room for all"
    assert not {20, 21} & set(found(memory, "violin orchestra", limit=3, near_copies=True))
    scores = [hit.score for hit in memory.ranked(Question(text="violin orchestra"))]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(context_types=types_of("tool_output")), {3}),
        (Filters(required_tags=tags_of(["WORK"])), {2}),
        (Filters(excluded_tags=tags_of("work")), {1, 3, 4, 5}),
        (Filters(thread_id="t"), {4}),
        (Filters(metadata={"source": "mail"}), {1}),
        (Filters(since=START + timedelta(minutes=4), until=START + timedelta(minutes=4)), {4}),
        (Filters(until=START), {1, 2, 3, 5}),
        (Filters(namespace=("a",)), {5}),
        (Filters(admits=lambda node: node.importance > 0.8), {2}),
    ],
)
def test_filters(graph: UserGraph, memory: UserMemory, filters: Filters, expected: set[int]) -> None:
    nodes = [
        fact(1, "tea", metadata={"source": "mail"}),
        fact(2, "tea", tags=("Work",), importance=0.9),
        fact(3, "tea", context_type="tool_output"),
        turn(4, "tea"),
        fact(5, "tea", namespace=("a", "b"), key="k"),
    ]
    graph.apply(everything(nodes))
    assert set(found(memory, "tea", filters=filters)) == expected


def test_where_nothing_may_be_given_nothing_is_looked_for(
    graph: UserGraph, memory: UserMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Looked(Exception):
        pass

    def looks(*_: object) -> None:
        raise Looked

    graph.apply(everything([fact(number, "green tea") for number in range(1, 4)]))
    assert found(memory, "tea", filters=Filters(admits=lambda node: node.node_id == id_of(2))) == [2]
    monkeypatch.setattr(Search, "hits", looks)
    assert found(memory, "tea", filters=Filters(admits=lambda _: False)) == []
    with pytest.raises(Looked):
        found(memory, "tea", filters=Filters(admits=lambda node: node.node_id == id_of(2)))


def test_only_of_memories_is_it_asked_whether_they_may_be_given(graph: UserGraph, memory: UserMemory) -> None:
    asked: set[str] = set()

    def admits(node: MemoryNode) -> bool:
        asked.add(node.node_id)
        return node.node_id == id_of(1)

    graph.apply(everything([stub(4, "Edna"), fact(2, "green tea"), fact(1, "tea")], [edge(4, 1), edge(4, 2)]))
    assert found(memory, "tea", filters=Filters(admits=admits)) == [1]
    assert asked == {id_of(1), id_of(2)}


def test_filters_apply_before_ranking(graph: UserGraph, memory: UserMemory) -> None:
    better = [fact(one, f"tea {one}", tags=("spam",)) for one in range(1, 900)]
    worse = [fact(1000 + one, f"tea with milk, honey and {one} other things", importance=0.1) for one in range(7)]
    graph.apply(everything([*better, *worse]))
    wanted = Filters(excluded_tags=tags_of("spam"))
    assert set(found(memory, "tea", filters=wanted, limit=7)) == set(range(1000, 1007))
    assert (
        found(memory, None, filters=wanted, limit=2, similarities=near(dict.fromkeys(range(1, 1007), 0.5)))[0] >= 1000
    )


def test_without_a_question_what_matters_now(graph: UserGraph, memory: UserMemory, clock: Clock) -> None:
    clock.pass_hours(24)
    nodes = [fact(1, "old"), fact(2, "new", updated_at=clock.now), fact(3, "important", importance=1.0), stub(4, "X")]
    graph.apply(everything(nodes))
    assert found(memory, None) == [2, 3, 1]
    assert found(memory, "") == []


def test_reasons_are_text_and_data(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([turn(1, "the violin lesson", "Ann"), turn(2, "was it good?", "Bob")]))
    reasons = why(memory, "Ann's violin", 1, similarities=near({1: 0.9, 2: 0.2}))
    assert str(reasons).splitlines()[0].startswith("words: rank 1, 1.00 x ")
    assert "said by whom the question names" in str(reasons)
    assert {"words", "vector", "session", "speaker", "saying"} <= set(reasons.arms)
    assert {"words", "vector", "graph", "time", "fusion", "selection"} <= set(reasons.timings_ms)
    assert all(0 <= arm.score <= 1 and arm.rank >= 1 for arm in reasons.arms.values())
    assert memory.ranked(Question(text="violin"))[0].explanation is None


# Keeping up.


def test_what_is_gone_has_no_rank(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([turn(1, "tea"), *(fact(one, f"milk {one}") for one in range(2, 9))]))
    ranks = {name: arm.rank for name, arm in why(memory, "tea milk", 1).arms.items()}
    assert ranks["saying"] == 8
    graph.apply(changes(1, 2, deleted=[id_of(one) for one in range(2, 8)]))
    assert why(memory, "tea milk", 1).arms["saying"].rank == 2


def test_only_what_changed_is_read_again(graph: UserGraph, memory: UserMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    graph.apply(everything([turn(one, f"number {one}", thread=f"t{one % 9}") for one in range(1, 500)]))
    found(memory, "number")
    read: list[str] = []

    def counted(node: MemoryNode) -> Passage:
        read.append(node.node_id)
        return passage_of(node)

    monkeypatch.setattr("hybrid_memory.recall.corpus.passage_of", counted)
    graph.apply(changes(1, 2, [turn(500, "the newest", version=2), turn(7, "changed", version=2)], deleted=[id_of(8)]))
    assert found(memory, "newest")[0] == 500
    assert sorted(read) == sorted([id_of(500), id_of(7)])
    assert len(found(memory, "number", limit=1000)) == len(set(found(memory, "number", limit=1000)))


@pytest.mark.parametrize("common", [1000, 5], ids=["no word is common", "some words are common"])
def test_an_index_that_followed_every_change_answers_like_a_new_one(
    rng: random.Random, monkeypatch: pytest.MonkeyPatch, common: int
) -> None:
    monkeypatch.setattr(lexical, "_MOST_LENDERS", common)
    monkeypatch.setattr(lexical, "_MOST_KEPT", 2)
    clock = Clock()
    graph = UserGraph(USER, clock=clock)
    graph.apply(everything(version=0))
    memory, vectors = UserMemory(graph), VectorTable(3)
    words = ["tea", "milk", "honey", "lemon", "violin", "orchestra", "harbour", "tent"]
    for version in range(1, 60):
        nodes: list[MemoryNode] = []
        for number in rng.sample(range(1, 60), rng.randrange(12)):
            text = " ".join(rng.choices(words, k=rng.randrange(1, 6))) + rng.choice(["", "?", f" {number}"])
            at = START + timedelta(minutes=number, days=rng.randrange(3))
            said = turn(number, text, rng.choice(["Ann", "Bob"]), f"t{number % 3}", at, version=version)
            nodes.append(
                rng.choice(
                    [said, fact(number, text, version=version), entity(number, f"E{number}", text, version=version)]
                )
            )
        ends = [int(node.node_id.replace("-", ""), 16) for node in nodes]
        edges = [edge(rng.choice(ends), rng.choice(ends), version=version) for _ in ends]
        graph.apply(
            changes(version - 1, version, nodes, edges, deleted=[id_of(rng.randrange(1, 60)) for _ in range(4)])
        )
        for thread in ("t0", "t1", "nobody's"):
            spoken = [one for one in memory.get_all_nodes() if one.thread_id == thread]
            assert memory.newest_turns(thread, 5) == sorted(spoken, key=lambda one: one.seq or 0)[-5:]
        for number in rng.sample(range(1, 60), rng.choice([0, 0, 6])):
            vectors.drop(id_of(number))
        for number in rng.sample(range(1, 60), rng.choice([0, 4, 12])):
            vectors.put(id_of(number), "content", np.array([rng.random() for _ in range(3)], np.float32))
        compared = vectors.cosines(Direction(np.ones(3, np.float32)))
        cosines = Similarities(compared.node_ids, compared.scores)
        fresh = UserMemory(graph)
        for text in ("tea", "Ann's honey lemon in May", "orchestra of the harbour?", "xyzzy"):
            for question in (Question(text=text), Question(text=text, similarities=cosines, limit=30)):
                assert memory.ranked(question) == fresh.ranked(question)


def test_slots_of_what_is_gone_are_given_back(graph: UserGraph, memory: UserMemory) -> None:
    graph.apply(everything([turn(one, f"tea {one}") for one in range(1, 11)]))
    for version in range(2, 102):
        graph.apply(
            changes(version - 1, version, [turn(one, f"tea {version}", version=version) for one in range(1, 11)])
        )
        assert len(found(memory, "tea", limit=20)) == 10
    assert memory._recall._kept.corpus.columns.used < 400


def test_equal_memories_have_one_order(clock: Clock) -> None:
    nodes = [fact(one, "tea", updated_at=START + timedelta(hours=one % 3)) for one in range(1, 40)]
    orders = []
    for arrangement in (nodes, nodes[::-1]):
        graph = UserGraph(USER, clock=clock)
        graph.apply(everything(arrangement))
        orders.append(found(UserMemory(graph), "tea", limit=5))
    assert orders[0] == orders[1]
