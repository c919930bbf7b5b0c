"""What the columns of an operation have to be, wherever it is applied: the checks of the tables in Postgres.

The border lets nothing else through; this is for what comes out of a file or from another version.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from hybrid_memory.postgres.batches import Kind, Operation

_STAMP = ("written_at", "written_by")
_MEMORY = ("node_id", "content", "summary", "tags", "metadata", "importance", "confidence", *_STAMP)
_REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "nodes": (*_MEMORY, "context_type", "content_kind"),
    "entities": _MEMORY,
    "edges": ("from_node_id", "to_node_id", "relationship_type", "strength", "metadata", *_STAMP),
    "counts": ("node_id", "reports", "reads", *_STAMP),
    "deletes": ("node_id", *_STAMP),
}
_IDS = ("node_id", "from_node_id", "to_node_id", "written_by")
_TIMES = ("written_at", "created_at", "updated_at", "last_accessed_at", "expires_at")
_SHARES = ("importance", "confidence", "strength")
_NAMES = ("context_type", "relationship_type")


def complaint_about(operation: Operation) -> tuple[str, str] | None:
    """The SQLSTATE and the reason for which Postgres would refuse it whatever else there is; None when it is fine."""
    row = operation.row
    missing = next((column for column in _REQUIRED[operation.kind] if row.get(column) is None), None)
    if missing:
        return "23502", f"{missing} is missing"
    return _unreadable(row, _IDS, UUID, "22P02") or _unreadable(row, _TIMES, _moment, "22007") or _unfit(row)


def _unreadable(
    row: Mapping[str, Any], columns: tuple[str, ...], read: Callable[[str], object], sqlstate: str
) -> tuple[str, str] | None:
    for column in columns:
        value = row.get(column)
        try:
            if value is not None:
                read(value)
        except (ValueError, TypeError, AttributeError):
            return sqlstate, f"{column} cannot be read"
    return None


def _moment(value: str) -> None:
    if datetime.fromisoformat(value).tzinfo is None:
        raise ValueError("a time without its zone")


def _unfit(row: Mapping[str, Any]) -> tuple[str, str] | None:
    for column in _SHARES:
        value = row.get(column, 0)
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            return "23514", f"{column} is not from 0 to 1"
    for column in _NAMES:
        if row.get(column) == "":
            return "23514", f"{column} is empty"
    if row.get("content_kind", "json") not in ("text", "json"):
        return "23514", "content_kind is unknown"
    if (row.get("namespace") is None) != (row.get("key") is None):
        return "23514", "an address in the store is whole"
    return None
