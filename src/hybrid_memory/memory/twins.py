"""Memories that are there already: the same content of the same type."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid_memory.models import MemoryNode

_Key = tuple[str, str, str]


def twins(memories: Iterable[MemoryNode], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of rows by id, those that are stored already, and the id of the memory that is there."""
    types = {row["context_type"] for row in rows.values()}
    there = {
        _key(node.context_type, node.content_kind, node.content): node.node_id
        for node in memories
        if node.context_type in types
    }
    found = {
        node_id: there.get(_key(row["context_type"], row["content_kind"], row["content"]))
        for node_id, row in rows.items()
    }
    return {node_id: twin for node_id, twin in found.items() if twin is not None and twin != node_id}


def _key(context_type: str, content_kind: str, content: object) -> _Key:
    return context_type, content_kind, json.dumps(content, sort_keys=True)
