"""Rows as the write path takes them, for tests that write without a manager."""

from typing import Any


def fact_row(node_id: str, text: str = "a fact") -> dict[str, Any]:
    """A plain memory, before it has a stamp."""
    return {
        "node_id": node_id,
        "context_type": "conversation_fact",
        "content": {"text": text},
        "content_kind": "text",
        "summary": text,
        "tags": [],
        "metadata": {},
        "importance": 0.5,
        "confidence": 1,
    }
