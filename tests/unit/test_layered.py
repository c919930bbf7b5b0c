"""A mapping that is copied after every change: it and all its copies are what plain dicts would be."""

import random

import pytest

from hybrid_memory.graph.layered import Layered


def test_it_and_its_copies_are_what_dicts_would_be(rng: random.Random) -> None:
    layered, plain = Layered[int](), dict[str, int]()
    copies: list[tuple[Layered[int], dict[str, int]]] = []
    for step in range(6000):
        key = f"k{rng.randrange(400)}"
        if rng.random() < 0.35:
            assert layered.pop(key, None) == plain.pop(key, None)
        else:
            layered[key] = plain[key] = step
        if rng.random() < 0.1:
            copies.append((layered.copy(), plain.copy()))
        if rng.random() < 0.02:
            layered, plain = rng.choice(copies or [(layered, plain)])
            layered, plain = layered.copy(), plain.copy()
        assert layered.get(key) == plain.get(key)
        assert (key in layered, len(layered)) == (key in plain, len(plain))
    for one, same in [*copies, (layered, plain)]:
        assert dict(one) == one.merged() == same
        assert len(one) == len(same)


def test_what_is_not_there_is_an_error_as_in_a_dict() -> None:
    layered = Layered[int]()
    layered["a"] = 1
    then = layered.copy()
    del layered["a"]
    for missing in ("a", "b"):
        with pytest.raises(KeyError):
            layered[missing]
        with pytest.raises(KeyError):
            del layered[missing]
    assert (layered.get("a", 7), then["a"]) == (7, 1)


def test_copies_share_what_stayed_the_same() -> None:
    layered = Layered[int]()
    for number in range(10_000):
        layered[str(number)] = number
    copies = []
    for number in range(2_000):
        layered[str(number)] = -number
        copies.append(layered.copy())
    assert len({id(copy._base) for copy in copies}) < 10
