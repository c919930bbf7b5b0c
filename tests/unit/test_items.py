"""What of an item is searched: what LangGraph's rules find at its paths."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from langgraph.store.base import get_text_at_path

from hybrid_memory.items import STORE_ITEM, is_searched, searched_texts, store_metadata
from hybrid_memory.models import MemoryNode

PATHS = [
    "a",
    "$",
    "a.b",
    "*",
    "[0]",
    "{a,b}",
    "a[0]",
    "a[*]",
    ".",
    "a.",
    ".a",
    "a*",
    "*a",
    "$a",
    "{a",
    "[a",
    "a b",
    "é",
]
LEAVES = [None, "", "x", 0, False, 1.5, [], {}, ["a"], [None], {"b": "c"}, {"b": None}]


def contents(path: str) -> Iterator[dict[str, Any]]:
    yield {}
    for one, other in product(LEAVES, LEAVES):
        yield {"a": one, "b": other}
    for leaf in LEAVES:
        yield {path: leaf}
        yield {"a.b": leaf}


@pytest.mark.parametrize("path", PATHS)
def test_what_has_a_text_at_a_path_is_searched(path: str) -> None:
    for content in contents(path):
        item = MemoryNode(
            user_id="store:docs",
            node_id="1",
            context_type=STORE_ITEM,
            content=content,
            namespace=("docs",),
            key="1",
            metadata=store_metadata(None, ["nowhere", path]),
        )
        texts = get_text_at_path(content, path)
        assert is_searched(item) == bool(texts)
        assert list((searched_texts(item) or {}).values()) == texts
