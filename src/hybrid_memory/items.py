"""What makes a memory an item of a store: its address, and what is kept with it about expiry and search."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from langgraph.store.base import get_text_at_path, tokenize_path

from hybrid_memory.models import MemoryNode

STORE_ITEM = "store_item"
# Where in a memory's metadata that is: `ttl` in minutes, `index`, and `version`, see `item_version`.
STORE = "store"
# A reader puts off an expiry that has come nearer by this share of the time the item was stored for.
_REFRESHED_AFTER = 0.1
WHOLE = "$"
_NESTS = (dict, list)
_PATHS_KNOWN = 1000

Index = Literal[False] | list[str] | None


def is_item(node: MemoryNode) -> bool:
    """Whether it has an address in a store."""
    return node.namespace is not None and node.key is not None


def store_metadata(ttl: float | None, index: Index) -> dict[str, Any]:
    """What an item keeps about itself: for how many minutes it was stored, and what of it is searched."""
    kept = {"ttl": ttl} if ttl is not None else {}
    return {STORE: kept if index is None else kept | {"index": index}}


def item_version(node: MemoryNode) -> int | None:
    """The version of an item's last write, which stays the same while its expiry is put off; None while it waits."""
    kept = None if node.expires_at is None else _about(node).get("version")
    return kept if isinstance(kept, int) else node.version


def refresh_is_due(node: MemoryNode, now: datetime) -> bool:
    """Whether reading an item is to put off its expiry; it is written at most once per tenth of its time."""
    if node.expires_at is None:
        return False
    ttl = _about(node).get("ttl")
    return isinstance(ttl, (int, float)) and node.expires_at - now < (1 - _REFRESHED_AFTER) * timedelta(minutes=ttl)


def refreshed(node: MemoryNode, now: datetime, version: int) -> MemoryNode:
    """An item that was read: its whole time is before it again, and the version of its last write stays known."""
    about = dict(_about(node)) | {"version": item_version(node)}
    expires_at = now + timedelta(minutes=about["ttl"])
    return replace(node, metadata={**node.metadata, STORE: about}, expires_at=expires_at, version=version)


def is_searched(node: MemoryNode) -> bool:
    """Whether words and vectors can find it: an item stored with `index=False`, or with paths to nothing, is listed."""
    index = _about(node).get("index")
    if index is None or index is False:
        return index is None
    return any(_holds_text(node, path) for path in index or [WHOLE])


def is_searched_whole(node: MemoryNode) -> bool:
    """Whether all of it is searched; a summary of an item would tell what is not to be."""
    return _about(node).get("index") is None


def searched_texts(node: MemoryNode) -> dict[str, str] | None:
    """The texts of an item that words and vectors find, by the path they are at; None for a memory that is no item.

    Paths are those of LangGraph; a path with several texts has one entry for each, `path.0`, `path.1`.
    """
    if not is_item(node):
        return None
    index = _about(node).get("index")
    if index is False:
        return {}
    found: dict[str, str] = {}
    for path in index or [WHOLE]:
        texts = _texts_at(node, path)
        found |= {path: texts[0]} if len(texts) == 1 else {f"{path}.{place}": text for place, text in enumerate(texts)}
    return found


def indexed_content(node: MemoryNode) -> Any:
    """What of a memory's content is searched by its words: all of it, unless it is an item that says what."""
    if is_searched_whole(node):
        return node.content
    return list((searched_texts(node) or {}).values())


def value_of(node: MemoryNode) -> Any:
    """A copy of an item's value, which the caller may change."""
    return _copied(node.content)


def with_metadata(node: MemoryNode, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """New metadata of an item, without losing what it keeps about itself; its next write has a version of its own."""
    if not is_item(node):
        return dict(metadata)
    return {**metadata, STORE: {name: kept for name, kept in _about(node).items() if name != "version"}}


def _holds_text(node: MemoryNode, path: str) -> bool:
    # Asked of every hit: most paths are the name of a field, and whatever is in it has a text.
    return node.content.get(path) is not None if _is_field(path) else bool(_texts_at(node, path))


@lru_cache(_PATHS_KNOWN)
def _is_field(path: str) -> bool:
    return path != WHOLE and _steps(path) == [path] and path[0] not in "[{*"


def _texts_at(node: MemoryNode, path: str) -> list[str]:
    return get_text_at_path(node.content, path if path == WHOLE else _steps(path))


@lru_cache(_PATHS_KNOWN)
def _steps(path: str) -> list[str]:
    """A path, taken apart: the same few are asked of every item."""
    return tokenize_path(path)


def _copied(value: Any) -> Any:
    # JSON has no cycles and few types; copy.deepcopy takes several times as long.
    if isinstance(value, dict):
        return {key: _copied(one) if isinstance(one, _NESTS) else one for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def _about(node: MemoryNode) -> Mapping[str, Any]:
    about = node.metadata.get(STORE) if is_item(node) else None
    return about if isinstance(about, dict) else {}
