"""What a store gives: LangGraph's items, which also know their version."""

from datetime import UTC, datetime

from langgraph.store.base import Item, SearchItem

from hybrid_memory.items import item_version, value_of
from hybrid_memory.models import MemoryNode

_UNKNOWN = datetime.fromtimestamp(0, UTC)


class StoredItem(Item):
    """An item with the version that `put_if_version` takes; None while it waits for Postgres."""

    __slots__ = ("version",)
    version: int | None


class FoundItem(SearchItem):
    """The same for an item that was searched."""

    __slots__ = ("version",)
    version: int | None


def stored_item(node: MemoryNode) -> StoredItem:
    """A memory as an item."""
    created_at = node.created_at or _UNKNOWN
    item = StoredItem(
        value=value_of(node),
        key=node.key or "",
        namespace=node.namespace or (),
        created_at=created_at,
        updated_at=node.updated_at or created_at,
    )
    item.version = item_version(node)
    return item


def found_item(node: MemoryNode, score: float | None) -> FoundItem:
    """A memory as an item that was found."""
    created_at = node.created_at or _UNKNOWN
    item = FoundItem(
        score=score,
        value=value_of(node),
        key=node.key or "",
        namespace=node.namespace or (),
        created_at=created_at,
        updated_at=node.updated_at or created_at,
    )
    item.version = item_version(node)
    return item
