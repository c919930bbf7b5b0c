"""Random histories of two stores on one Postgres, with and without `await`, held against a dictionary at every read."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from langgraph.store.base import BaseStore, GetOp, Item, PutOp

from hybrid_memory import HybridMemoryManager
from hybrid_memory.langgraph import store_filters
from hybrid_memory.memory import item_index, item_search
from hybrid_memory.postgres.target import Targets
from tests.support.histories import History, Length, check, finds
from tests.support.managers import settings_for

SHORT = Length(histories=8, steps=25)
CAMPAIGN = Length(histories=2000, steps=40)
# The search ends with the first difference: many are tried only where luck is bad.
TO_FIND_A_BUG = Length(histories=200, steps=25)

ABOVE = {"a": {"$gte": 5}}

Namespace = tuple[str, ...]
Address = tuple[Namespace, str]
Value = dict[str, Any]

which = st.integers(0, 1)
awaited = st.booleans()
keys = st.sampled_from(["a", "b", "k'ey", ""])
# Below a root of the history: users of their own, and one owner of the store.
labels = st.sampled_from(["x", "x1", "y"])
leaves = st.sampled_from([2, 9, 10, 11]) | st.sampled_from([None, True, False, 0, -1, "", "10", "x", 2.5, -0.5])
parts = st.dictionaries(st.sampled_from("mn"), leaves, max_size=2) | st.lists(leaves, max_size=2)
values = st.dictionaries(st.sampled_from("abc"), leaves | parts, max_size=3)
comparisons = st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), leaves, min_size=1, max_size=2
)
filters = st.none() | st.dictionaries(
    st.sampled_from("abc"), leaves | comparisons | st.fixed_dictionaries({"m": leaves | comparisons}), max_size=2
)


def same(one: Any, other: Any) -> bool:
    """The same JSON."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def passes(value: Any, wanted: Any) -> bool:
    """Whether a field fulfils what is asked of it, as plainly as it can be said."""
    if not isinstance(wanted, dict):
        return same(value, wanted)
    if not any(key.startswith("$") for key in wanted):
        return isinstance(value, dict) and all(passes(value.get(key), part) for key, part in wanted.items())
    for operator, operand in wanted.items():
        if operator in ("$eq", "$ne"):
            holds = same(value, operand) == (operator == "$eq")
        elif any(isinstance(one, bool) for one in (value, operand)):
            holds = False
        elif all(isinstance(one, (int, float)) for one in (value, operand)) or (
            isinstance(value, str) and isinstance(operand, str)
        ):
            holds = {
                "$gt": value > operand,
                "$gte": value >= operand,
                "$lt": value < operand,
                "$lte": value <= operand,
            }[operator]
        else:
            holds = False
        if not holds:
            return False
    return True


class TwoStores(History):
    """Every history has roots of its own; both stores must show the model, whoever wrote."""

    stores: ClassVar[list[BaseStore]]

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Namespace] = [
            ("memories", f"user {self.number}"), ("users", f"eve {self.number}"), (f"docs {self.number}",),
        ]  # fmt: skip
        self.items: dict[Address, Value] = {}
        self.changes: dict[Address, int] = {}
        self.moment = 0

    def call(self, by: int, name: str, *given: Any, sync: bool, **keywords: Any) -> Any:
        """Call a store with or without `await`."""
        if sync:
            return self.run(asyncio.to_thread(getattr(self.stores[by], name), *given, **keywords))
        return self.run(getattr(self.stores[by], f"a{name}")(*given, **keywords))

    def place(self, root: int, below: list[str]) -> Namespace:
        return (*self.roots[root], *below)

    def written(self, address: Address, value: Value | None) -> None:
        self.moment += 1
        if value is None:
            self.items.pop(address, None)
        else:
            self.items[address] = value
            self.changes[address] = self.moment

    def below(self, prefix: Namespace, wanted: Value | None) -> list[Address]:
        """What a search gives, the newest change first."""
        found = [
            address
            for address, value in self.items.items()
            if address[0][: len(prefix)] == prefix
            and (not wanted or all(passes(value.get(k), w) for k, w in wanted.items()))
        ]
        return sorted(found, key=lambda address: -self.changes[address])

    @rule(by=which, sync=awaited, root=st.integers(0, 2), below=st.lists(labels, max_size=2), key=keys, value=values)
    def put(  # noqa: PLR0913 - what a step draws
        self, *, by: int, sync: bool, root: int, below: list[str], key: str, value: Value
    ) -> None:
        namespace = self.place(root, below)
        self.call(by, "put", namespace, key, value, sync=sync)
        self.written((namespace, key), value)

    @rule(by=which, sync=awaited, root=st.integers(0, 2), below=st.lists(labels, max_size=2), key=keys)
    def delete(self, *, by: int, sync: bool, root: int, below: list[str], key: str) -> None:
        namespace = self.place(root, below)
        self.call(by, "delete", namespace, key, sync=sync)
        self.written((namespace, key), None)

    @rule(by=which, sync=awaited, root=st.integers(0, 2), below=st.lists(labels, max_size=2), key=keys)
    def get(self, *, by: int, sync: bool, root: int, below: list[str], key: str) -> None:
        namespace = self.place(root, below)
        item = self.call(by, "get", namespace, key, sync=sync)
        assert (item and item.value) == self.items.get((namespace, key))

    @rule(
        by=which,
        sync=awaited,
        ops=st.lists(
            st.tuples(st.integers(0, 2), labels, keys, st.just("get") | st.none() | values), min_size=1, max_size=6
        ),
    )
    def batch(self, *, by: int, sync: bool, ops: list[tuple[int, str, str, Any]]) -> None:
        sent: list[GetOp | PutOp] = []
        expected: list[Value | None] = []
        for root, label, key, value in ops:
            address = (self.place(root, [label]), key)
            sent.append(GetOp(*address) if value == "get" else PutOp(*address, value))
            expected.append(self.items.get(address) if value == "get" else None)
        answers = self.call(by, "batch", sent, sync=sync)
        assert [answer.value if isinstance(answer, Item) else answer for answer in answers] == expected
        last = {
            (op.namespace, op.key): None if op.value is None else dict(op.value) for op in sent if isinstance(op, PutOp)
        }
        # Their order among each other is that of their first mention; owners are written side by side.
        for address, value in last.items():
            self.written(address, value)

    @rule(
        by=which, sync=awaited, root=st.none() | st.integers(0, 2), below=st.lists(labels, max_size=2), wanted=filters,
        limit=st.integers(0, 4), offset=st.integers(0, 5),
    )  # fmt: skip
    def search(  # noqa: PLR0913 - what a step draws
        self, *, by: int, sync: bool, root: int | None, below: list[str], wanted: Value | None, limit: int, offset: int
    ) -> None:
        prefix = ("memories",) if root is None else self.place(root, below)
        found = self.call(by, "search", prefix, filter=wanted, limit=limit, offset=offset, sync=sync)
        expected = self.below(prefix, wanted)
        everything = self.call(by, "search", prefix, filter=wanted, limit=100, sync=sync)
        assert {(item.namespace, item.key): item.value for item in everything} == {
            one: self.items[one] for one in expected
        }
        assert [(item.namespace, item.key) for item in found] == [
            (item.namespace, item.key) for item in everything[offset : offset + limit]
        ]
        moments = [item.updated_at for item in everything]
        assert moments == sorted(moments, reverse=True)

    @rule(
        by=which,
        sync=awaited,
        root=st.integers(0, 2),
        below=st.lists(labels, max_size=1),
        depth=st.none() | st.integers(1, 3),
    )
    def list_namespaces(self, *, by: int, sync: bool, root: int, below: list[str], depth: int | None) -> None:
        prefix = self.place(root, below)
        found = self.call(by, "list_namespaces", prefix=prefix, max_depth=depth, sync=sync)
        assert found == sorted({one[:depth] for one, _ in self.items if one[: len(prefix)] == prefix})

    def teardown(self) -> None:
        """The next history is alone with the owners it finds."""
        try:
            self.compare()
        finally:
            self.run(self.stores[0].abatch([PutOp(*address, None) for address in self.items]))

    def compare(self) -> None:
        """Both say the same of everything, whole and page by page, and to a question."""
        for root in self.roots:
            told = [self.run(store.asearch(root, limit=100)) for store in self.stores]
            assert told[0] == told[1]
            asked = self.run(self.stores[0].asearch(root, query="x", limit=100))
            assert {(item.namespace, item.key) for item in asked} == {(item.namespace, item.key) for item in told[0]}
            for prefix, wanted in ((root, ABOVE), ((*root, "x"), None), ((*root, "x1"), None), (root, None)):
                pages = [
                    self.run(self.stores[1].asearch(prefix, filter=wanted, limit=2, offset=offset))
                    for offset in range(0, len(told[0]) + 1, 2)
                ]
                found = [(item.namespace, item.key) for page in pages for item in page]
                assert sorted(found) == sorted(self.below(prefix, wanted))


@pytest.fixture
def histories(targets_outside: Targets, tmp_path: Path) -> Iterator[asyncio.Runner]:
    """Two managers in directories of their own, on the loop of the histories."""
    with asyncio.Runner() as runner:
        managers = [
            HybridMemoryManager(settings_for(targets_outside, data_dir=tmp_path / name, command_timeout_seconds=60))
            for name in ("one", "two")
        ]
        for manager in managers:
            runner.run(manager.start())
        TwoStores.stores = [manager.store for manager in managers]
        yield runner
        for manager in managers:
            runner.run(manager.aclose())


@pytest.mark.parametrize(
    "length", [SHORT, pytest.param(CAMPAIGN, marks=[pytest.mark.campaign, pytest.mark.timeout(7200)])]
)
def test_two_stores_agree_with_a_dictionary(histories: asyncio.Runner, rng: random.Random, length: Length) -> None:
    check(TwoStores, rng, length, histories)


@contextmanager
def numbers_as_texts() -> Iterator[None]:
    """As a comparison of JSON fields as text would have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(store_filters._ORDER, "$gte", lambda one, other: str(one) >= str(other))
        yield


@contextmanager
def pages_that_forget_their_offset() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_search, "_first", lambda below, wanted: _first_of(below, replace(wanted, offset=0)))
        yield


_first_of = item_search._first


@contextmanager
def prefixes_of_characters() -> Iterator[None]:
    """The prefix `x` finds `x1`."""
    below = item_index.ItemIndex.below

    def wrong(self: Any, view: Any, prefix: Namespace) -> Any:
        return [
            node
            for node in below(self, view, prefix[:-1])
            if node.namespace is not None and "/".join(node.namespace).startswith("/".join(prefix))
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_index.ItemIndex, "below", wrong)
        yield


@pytest.mark.parametrize("bug", [numbers_as_texts, pages_that_forget_their_offset, prefixes_of_characters])
def test_a_planted_bug_is_found(histories: asyncio.Runner, rng: random.Random, bug: Callable[[], Any]) -> None:
    with bug():
        assert finds(TwoStores, rng, TO_FIND_A_BUG, histories)
