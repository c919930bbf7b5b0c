"""Filters: JSON compared as JSON."""

from typing import Any

import pytest
from langgraph.store.base import BaseStore, PutOp

from hybrid_memory.testing.subject import Namespace, on_store

VALUES: list[dict[str, Any]] = [
    *({"n": number} for number in range(12)),
    {"n": 2.5},
    {"n": -1},
    {"n": "10"},
    {"n": True},
    {"n": None},
    {"text": "2024-05-01"},
    {"text": "2024-11-30"},
    {"text": "10"},
    {"meta": {"a": 1, "b": {"c": "x"}}},
    {"meta": {"a": 2}},
    {"list": [1, 2]},
    {"list": [2, 1]},
    {"odd-key": 1, "1st": 2, "with space": 3},
]


async def _found(store: BaseStore, root: Namespace, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """The values that pass, in the order in which they were put."""
    if not await store.asearch(root, limit=1):
        await store.abatch([PutOp(root, str(place), value) for place, value in enumerate(VALUES)])
    keys = {int(item.key) for item in await store.asearch(root, filter=wanted, limit=len(VALUES))}
    return [VALUES[place] for place in sorted(keys)]


def _numbers(*numbers: float) -> list[dict[str, Any]]:
    return [{"n": number} for number in numbers]


@on_store
async def test_equal(store: BaseStore, root: Namespace) -> None:
    assert await _found(store, root, {"n": 3}) == _numbers(3)
    assert await _found(store, root, {"n": {"$eq": 3}}) == _numbers(3)
    assert await _found(store, root, {"text": "10"}) == [{"text": "10"}]
    assert await _found(store, root, {"n": 99}) == []


@on_store
async def test_numbers_are_compared_as_numbers(store: BaseStore, root: Namespace) -> None:
    assert await _found(store, root, {"n": {"$gte": 10}}) == _numbers(10, 11)
    assert await _found(store, root, {"n": {"$lt": 3}}) == _numbers(0, 1, 2, 2.5, -1)
    assert await _found(store, root, {"n": {"$gt": 9.5}}) == _numbers(10, 11)
    assert await _found(store, root, {"n": {"$lte": 0}}) == _numbers(0, -1)


@on_store
async def test_several_operators_are_a_range(store: BaseStore, root: Namespace) -> None:
    assert await _found(store, root, {"n": {"$gt": 2, "$lt": 4}}) == _numbers(3, 2.5)
    assert await _found(store, root, {"n": {"$gte": 2, "$ne": 3, "$lte": 4}}) == _numbers(2, 4, 2.5)


@on_store
async def test_texts_are_compared_as_texts(store: BaseStore, root: Namespace) -> None:
    assert await _found(store, root, {"text": {"$gte": "2024-06-01"}}) == [{"text": "2024-11-30"}]


@on_store
async def test_a_missing_field_is_neither_greater_nor_less(store: BaseStore, root: Namespace) -> None:
    for operator in ("$gt", "$gte", "$lt", "$lte"):
        assert await _found(store, root, {"nothing": {operator: 1}}) == []


@on_store
async def test_not_equal_includes_what_has_no_such_field(store: BaseStore, root: Namespace) -> None:
    found = await _found(store, root, {"n": {"$ne": 3}})
    assert {"text": "10"} in found
    assert {"n": 4} in found
    assert {"n": 3} not in found


@on_store
async def test_true_is_no_number_and_a_text_is_none(store: BaseStore, root: Namespace) -> None:
    assert await _found(store, root, {"n": 1}) == _numbers(1)
    assert await _found(store, root, {"n": True}) == [{"n": True}]
    assert await _found(store, root, {"n": "10"}) == [{"n": "10"}]


@on_store
async def test_fields_of_fields(store: BaseStore, root: Namespace) -> None:
    both = {"meta": {"a": 1, "b": {"c": "x"}}}
    assert await _found(store, root, {"meta": {"a": 1}}) == [both]
    assert await _found(store, root, {"meta": {"b": {"c": "x"}}}) == [both]
    assert await _found(store, root, {"meta": {"a": {"$gte": 2}}}) == [{"meta": {"a": 2}}]


@on_store
async def test_lists_are_compared_whole(store: BaseStore, root: Namespace) -> None:
    assert await _found(store, root, {"list": [1, 2]}) == [{"list": [1, 2]}]
    assert await _found(store, root, {"list": [1]}) == []


@on_store
async def test_all_conditions_have_to_hold(store: BaseStore, root: Namespace) -> None:
    assert await _found(store, root, {"odd-key": 1, "1st": 2, "with space": 3}) == [VALUES[-1]]
    assert await _found(store, root, {"odd-key": 1, "1st": 3}) == []


@on_store
async def test_hostile_keys_find_nothing(store: BaseStore, root: Namespace) -> None:
    for key in ("n' or 1=1 --", 'n" = n or "', "$.n", "n.*", "meta.a"):
        assert await _found(store, root, {key: 3}) == []


@on_store
async def test_an_operator_that_does_not_exist_is_refused(store: BaseStore, root: Namespace) -> None:
    with pytest.raises(ValueError, match=r"\$near|perator"):
        await _found(store, root, {"n": {"$near": 3}})
