"""Rows as columns and back: what is kept is what comes out."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.sqlite.columns import decoded, encoded
from tests.support.graphs import USER, edge, fact

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
data = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
zones = st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))])
times = st.none() | st.datetimes(timezones=zones)
words = st.lists(texts, max_size=3).map(tuple)


@given(
    st.lists(
        st.builds(
            replace,
            st.just(fact(1)),
            content=data,
            tags=words,
            metadata=st.dictionaries(texts, data, max_size=3),
            namespace=st.none() | words,
            seq=st.none() | st.integers(0, 2**63 - 1),
            written_at=times,
            expires_at=times,
        ),
        max_size=5,
    )
)
def test_memories(nodes: list[MemoryNode]) -> None:
    assert decoded(MemoryNode, USER, encoded(MemoryNode, nodes)) == nodes


def test_relationships() -> None:
    edges = [edge(number, number + 1, "é", metadata={"why": [number]}, version=number) for number in range(5)]
    assert decoded(Relationship, USER, encoded(Relationship, edges)) == edges
    assert decoded(Relationship, "eve", encoded(Relationship, edges)) == [replace(one, user_id="eve") for one in edges]


def test_a_row_that_comes_out_is_as_frozen_as_any_other() -> None:
    (node,) = decoded(MemoryNode, USER, encoded(MemoryNode, [fact(1, "x")]))
    with pytest.raises(AttributeError):
        node.summary = "changed"  # type: ignore[misc]
    assert replace(node, summary="y").summary == "y"
    assert hash((node.node_id, node.version)) == hash((fact(1).node_id, 1))


def test_rows_share_nothing_that_can_be_changed() -> None:
    nodes = [fact(number, content={"a": [1]}, metadata={}) for number in range(2)]
    one, other = decoded(MemoryNode, USER, encoded(MemoryNode, nodes))
    assert one.content is not other.content
    assert one.metadata is not other.metadata


@pytest.mark.parametrize(
    "change",
    [
        lambda columns: columns["each"].pop("node_id"),
        lambda columns: columns["same"].update(colour="red"),
        lambda columns: columns["each"].update(content=[]),
        lambda columns: columns.update(rows=3),
    ],
)
def test_columns_of_another_version_are_refused(change: Any) -> None:
    columns = json.loads(encoded(MemoryNode, [fact(1), fact(2)]))
    change(columns)
    with pytest.raises(ValueError, match=r"columns of another version|values of"):
        decoded(MemoryNode, USER, json.dumps(columns).encode())


def test_times_keep_their_microseconds() -> None:
    at = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
    (node,) = decoded(MemoryNode, USER, encoded(MemoryNode, [fact(1, created_at=at)]))
    assert node.created_at == at
