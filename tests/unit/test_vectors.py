"""Vectors in the process: after any changes, exactly what comparing each with the question gives."""

import random
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest

from hybrid_memory.graph.cosines import NONE, Cosines
from hybrid_memory.graph.directions import Direction
from hybrid_memory.graph.largest import nth_largest
from hybrid_memory.graph.vectors import UserVectors, VectorTable

DIMENSIONS = 5
Vector = npt.NDArray[np.float32]


def cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def vector(rng: random.Random) -> Vector:
    return np.array([rng.gauss(0, 1) for _ in range(DIMENSIONS)], dtype=np.float32)


def nearest(cosines: Cosines, count: int) -> list[tuple[str, float]]:
    return list(islice(cosines.best_first(count), count))


def test_after_any_changes_the_best_come_first_with_their_cosines(rng: random.Random) -> None:
    table, model = VectorTable(DIMENSIONS), dict[str, dict[str, Vector]]()
    for step in range(3000):
        node_id = f"n{rng.randrange(400)}"
        if rng.random() < 0.3:
            table.drop(node_id)
            model.pop(node_id, None)
        else:
            field, put = rng.choice(("content", "title")) if step > 1000 else "content", vector(rng)
            table.put(node_id, field, put)
            model.setdefault(node_id, {})[field] = put
        if step % 100 == 0:
            question = vector(rng)
            expected = {
                one: max(cosine(stored, question) for stored in fields.values()) for one, fields in model.items()
            }
            best = list(table.cosines(Direction(question)).best_first())
            assert sorted(best, key=lambda found: (-found[1], found[0])) == best
            assert dict(best) == pytest.approx(expected, abs=1e-5)
    assert len(table) == len(model) > 200


def test_the_same_object_names_the_memories_as_long_as_each_stays_where_it_is(rng: random.Random) -> None:
    table = VectorTable(DIMENSIONS)
    for number in range(100):
        table.put(f"n{number}", "content", vector(rng))
    first = table.cosines(Direction(vector(rng)))
    for number in range(50):
        table.drop(f"n{number}")
    table.put("n3", "content", vector(rng))
    then = table.cosines(Direction(vector(rng)))
    assert then.node_ids is first.node_ids
    assert {then.node_ids[place] for place in np.flatnonzero(then.scores > NONE).tolist()} == set(table.node_ids())
    for number in range(50, 100):
        table.drop(f"n{number}")
    last = table.cosines(Direction(vector(rng)))
    assert last.node_ids is not first.node_ids
    assert len(last.node_ids) < 50
    assert [found for found, _ in nearest(last, 9)] == ["n3"]


@pytest.mark.parametrize("fields", [["content"], ["content", "title", "body"]])
def test_of_many_the_first_are_the_truly_nearest(fields: list[str], rng: random.Random) -> None:
    """Whatever the vectors are like: near each other or not, or with a component far larger than all others."""
    dimensions, draw = 48, np.random.default_rng(rng.randrange(2**32))
    table, truth = VectorTable(dimensions), dict[str, dict[str, Vector]]()
    topics = draw.standard_normal((5, dimensions))
    for step in range(4000):
        node_id = f"n{step if step < 2000 else rng.randrange(2000)}"
        if rng.random() < 0.2:
            table.drop(node_id)
            truth.pop(node_id, None)
            continue
        put = rng.choice(topics) + rng.choice([0.01, 1.0]) * draw.standard_normal(dimensions)
        put[0] += rng.choice([0.0, 0.0, 1.0, 100.0])
        field = rng.choice(fields)
        truth.setdefault(node_id, {})[field] = put.astype(np.float32)
        table.put(node_id, field, truth[node_id][field])
    for _ in range(20):
        question = (rng.choice(topics) + draw.standard_normal(dimensions)).astype(np.float32)
        best = {one: max(cosine(stored, question) for stored in own.values()) for one, own in truth.items()}
        for count in (1, 10, 300, len(best)):
            found = nearest(table.cosines(Direction(question)), count)
            assert [best[one] for one, _ in found] == pytest.approx(sorted(best.values())[::-1][:count], abs=1e-5)
            assert dict(found) == pytest.approx({one: best[one] for one, _ in found}, abs=1e-5)
        compared = table.cosines(Direction(question))
        compared.sharpen(10)
        scores = compared.scores
        assert sum(scores > NONE) == len(best)
        assert sorted(scores.tolist())[-10:] == pytest.approx(sorted(best.values())[-10:], abs=1e-5)


def test_what_has_no_direction_or_another_length_is_as_good_as_none() -> None:
    table = VectorTable(DIMENSIONS)
    table.put("zero", "content", np.zeros(DIMENSIONS, dtype=np.float32))
    table.put("short", "content", np.ones(2, dtype=np.float32))
    assert len(table) == 0
    table.put("huge", "content", np.full(DIMENSIONS, 3e38, dtype=np.float32))
    [(found, alike)] = nearest(table.cosines(Direction(np.ones(DIMENSIONS, dtype=np.float32))), 2)
    assert found == "huge"
    assert alike == pytest.approx(1.0, abs=1e-5)
    assert nearest(table.cosines(Direction(np.zeros(DIMENSIONS, dtype=np.float32))), 2) == []
    assert nearest(table.cosines(Direction(np.ones(2, dtype=np.float32))), 2) == []


def test_equal_ones_come_in_the_order_of_their_ids() -> None:
    table, same = VectorTable(2), np.array([1, 1], dtype=np.float32)
    for number in random.Random(1).sample(range(300), 300):
        table.put(f"{number:03d}", "content", same)
    assert [found for found, _ in table.cosines(Direction(same)).best_first()] == [
        f"{number:03d}" for number in range(300)
    ]


def test_vectors_of_several_models_and_lengths_do_not_meet() -> None:
    vectors = UserVectors()
    vectors.put("a", "content", "old", np.ones(3, dtype=np.float32))
    vectors.put("a", "content", "new", np.ones(4, dtype=np.float32))
    vectors.put("b", "content", "new", np.ones(4, dtype=np.float32))
    vectors.put("b", "content", "new", np.ones(6, dtype=np.float32))
    assert vectors.sizes("new") == {4: 2, 6: 1}
    assert vectors.table("old", 4) is None
    vectors.keep_only({"b"})
    assert (vectors.sizes("old"), vectors.sizes("new")) == ({}, {4: 1, 6: 1})
    vectors.drop("b")
    assert not vectors.has("b")


@pytest.mark.parametrize("size", [1, 40, 5_000, 20_001])
def test_the_nth_largest_is_the_one_that_sorting_gives(size: int, rng: random.Random) -> None:
    several = (
        [rng.random() for _ in range(size)],
        [float(rng.randrange(5)) for _ in range(size)],
        [-float(place) for place in range(size)],
        [float(place % 157) for place in range(size)],
    )
    for values in several:
        falling = sorted(values, reverse=True)
        for n in {1, 2, size // 200, size // 3, size}:
            if 0 < n <= size:
                assert nth_largest(np.array(values), n) == falling[n - 1]
