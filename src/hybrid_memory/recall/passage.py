"""What a memory says: the words it is found by, who said them, and when."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_memory.items import indexed_content
from hybrid_memory.models import MemoryNode

MESSAGE = "conversation_message"
ENTITY = "domain_entity"
# How often a word counts that stands there.
TEXT = 1.0
_NAME, _TAG, _SUMMARY = 3.0, 2.5, 2.0
_LAST_WORDS = 60


@dataclass(frozen=True, slots=True)
class Passage:
    """A memory as it is indexed: texts with how much a word in them counts; who speaks, and whether to ask.

    A word tells less in a long text; what a record is called is not told less by what else it holds.
    """

    places: tuple[tuple[float, str], ...]
    is_record: bool = False
    speaker: str | None = None
    asks: bool = False


def passage_of(node: MemoryNode) -> Passage:
    """What is indexed of a memory."""
    if node.context_type == MESSAGE and isinstance(node.content, Mapping):
        return _of_message(node, node.content)
    return Passage(tuple(_places(node)), is_record=node.context_type == ENTITY)


def _of_message(node: MemoryNode, content: Mapping[str, Any]) -> Passage:
    """Its summary is made from what it says, so that is not another place."""
    speaker = _speaker(content)
    said = tuple(_said(content.get("content")))
    places = [(_TAG, tag) for tag in node.tags] + [(TEXT, text) for text in (speaker, *said) if text]
    asks = bool(said) and "?" in said[-1][-_LAST_WORDS:]
    return Passage(tuple(places), speaker=speaker, asks=asks)


def _speaker(content: Mapping[str, Any]) -> str | None:
    name = content.get("name") or content.get("role")
    return name if isinstance(name, str) else None


def _places(node: MemoryNode) -> Iterator[tuple[float, str]]:
    if node.context_type == ENTITY and isinstance(node.content, Mapping):
        yield from ((_NAME, said) for key in ("entity_name", "aliases") for said in _said(node.content.get(key)))
    yield from ((_TAG, tag) for tag in node.tags)
    yield _SUMMARY, node.summary
    yield from ((TEXT, said) for said in _said(indexed_content(node)))


def _said(content: Any) -> Iterator[str]:
    """Every string and number of a content, at any depth."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _said(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _said(value)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield str(content)
