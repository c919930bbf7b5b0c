"""What an item of a store is when it is written: checked at the border, with what it keeps about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

from hybrid_memory.errors import InvalidInput
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.items import STORE_ITEM, Index, store_metadata
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.namespaces import ItemAddress
from hybrid_memory.memory.summaries import summary_of

MOST_INDEX_PATHS = 100


@dataclass(frozen=True, slots=True)
class ItemDraft:
    """A checked item, ready to be written."""

    address: ItemAddress
    row: Mapping[str, Any]


class ItemDrafts:
    """The checks, with the limits of the border."""

    def __init__(self, border: Border) -> None:
        self._border = border

    def draft(self, address: ItemAddress, value: object, index: object, ttl: object) -> ItemDraft:
        """Check everything about an item.

        Args:
            address: where it is.
            value: a mapping of JSON values.
            index: what of it is searched: all for None, nothing for False, or LangGraph's paths.
            ttl: for how many minutes, counted anew when it is read; for good when None.

        Raises:
            InvalidInput: naming the field.
        """
        content, text = self._border.item(value)
        paths, minutes = self._index(index), self._minutes(ttl)
        expires_at = None if minutes is None else self._border.expiry(timedelta(minutes=minutes), utc_now())
        # Another index makes other vectors of the same content.
        hashed = f"json:{text}" if paths is None else f"json:{text}:{paths}"
        row = {
            "node_id": address.node_id,
            "external_id": None,
            "context_type": STORE_ITEM,
            "content": content,
            "content_kind": "json",
            "content_hash": sha256(hashed.encode()).hexdigest(),
            "only_once": False,
            "summary": summary_of(content, "json", STORE_ITEM) if paths is None else "",
            "tags": [],
            "metadata": store_metadata(minutes, paths),
            "importance": 0.5,
            "confidence": 1.0,
            "thread_id": None,
            "expires_at": expires_at.isoformat() if expires_at else None,
            "namespace": list(address.namespace),
            "key": address.key,
        }
        return ItemDraft(address, row)

    def _index(self, index: object) -> Index:
        if index is None:
            return None
        if index is False:
            return False
        if not isinstance(index, (list, tuple)) or not all(isinstance(path, str) for path in index):
            raise InvalidInput("index must be None, False or a list of paths")
        if len(index) > MOST_INDEX_PATHS:
            raise InvalidInput(f"index has {len(index)} paths, {MOST_INDEX_PATHS} are allowed")
        return [self._border.line(path, f"index[{place}]") for place, path in enumerate(index)]

    def _minutes(self, ttl: object) -> float | None:
        if ttl is None:
            return None
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
            raise InvalidInput(f"ttl must be a number of minutes, not {ttl!r}")
        try:
            self._border.span(timedelta(minutes=ttl), "ttl")
        except (OverflowError, ValueError):
            raise InvalidInput(f"ttl must be a positive number of minutes, not {ttl!r}") from None
        return float(ttl)
