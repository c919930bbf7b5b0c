"""What a store gives: LangGraph's items, which also know their version."""

from datetime import UTC, datetime
from typing import Any

from langgraph.store.base import Item, SearchItem

from hybrid_memory.items import item_version, value_of
from hybrid_memory.models import MemoryNode

_UNKNOWN = datetime.fromtimestamp(0, UTC)


class StoredItem(Item):
    """An item with the version that `put_if_version` takes; None while it waits for Postgres."""

    __slots__ = ("version",)

    def __init__(self, version: int | None, **fields: Any) -> None:
        super().__init__(**fields)
        self.version = version


class FoundItem(SearchItem):
    """The same for an item that was searched."""

    __slots__ = ("version",)

    def __init__(self, version: int | None, **fields: Any) -> None:
        super().__init__(**fields)
        self.version = version


def stored_item(node: MemoryNode) -> StoredItem:
    """A memory as an item."""
    created_at = node.created_at or _UNKNOWN
    return StoredItem(
        item_version(node),
        value=value_of(node),
        key=node.key,
        namespace=node.namespace or (),
        created_at=created_at,
        updated_at=node.updated_at or created_at,
    )


def found_item(node: MemoryNode, score: float | None) -> FoundItem:
    """A memory as an item that was found."""
    created_at = node.created_at or _UNKNOWN
    return FoundItem(
        item_version(node),
        score=score,
        value=value_of(node),
        key=node.key,
        namespace=node.namespace or (),
        created_at=created_at,
        updated_at=node.updated_at or created_at,
    )
