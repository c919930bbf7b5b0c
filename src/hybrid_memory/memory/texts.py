"""What of a memory is made a vector: its text as somebody would say it, with who said it.

The text depends on what a memory says and not on how important it is or how it is tagged: as long as its content stays
the same, so does its vector.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from hybrid_memory.items import WHOLE, searched_texts
from hybrid_memory.models import MemoryNode

Texts: TypeAlias = Callable[[MemoryNode], Mapping[str, str]]
CONTENT = "content"
# Below what the models in use take, even where every character is a token.
LONGEST_TEXT = 8000
_LONGEST_NAME = 200


def texts_of(node: MemoryNode) -> dict[str, str]:
    """The texts of a memory by the field they stand for; none when there is nothing to compare."""
    texts = searched_texts(node)
    if texts is None:
        texts = {CONTENT: _text_of(node)}
    shortened = {CONTENT if path == WHOLE else path: text[:LONGEST_TEXT].strip() for path, text in texts.items()}
    return {field: text for field, text in shortened.items() if text}


def hash_of(text: str) -> bytes:
    """What a text is known by in a cache."""
    return hashlib.sha256(text.encode()).digest()


def _text_of(node: MemoryNode) -> str:
    content = node.content
    if node.text is not None:
        return node.text
    if node.context_type == "conversation_message" and isinstance(content, Mapping):
        return _said(content)
    if node.context_type == "domain_entity" and isinstance(content, Mapping):
        return "\n".join(_entity(content))
    return "\n".join([node.summary, *_lines(content)])


def _said(turn: Mapping[str, Any]) -> str:
    """With who said it. Not with the day: vectors of many days are less alike than what was said on them."""
    speaker = turn.get("name") or turn.get("role") or ""
    said = turn.get("content")
    text = said if isinstance(said, str) else "\n".join(_lines(said))
    return f"{speaker}: {text}" if text else ""


def _entity(content: Mapping[str, Any]) -> Iterator[str]:
    yield f"{content.get('entity_type') or 'thing'} {content.get('entity_name') or content.get('entity_id')}"
    aliases = content.get("aliases")
    if isinstance(aliases, list) and aliases:
        yield ", ".join(map(str, aliases))
    yield from _lines(content.get("entity_data"))


def _lines(content: Any, name: str = "") -> Iterator[str]:
    """Data as lines `name: value`, which reads more like language than JSON does."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _lines(value, str(key)[:_LONGEST_NAME])
    elif isinstance(content, list):
        for value in content:
            yield from _lines(value, name)
    elif content is not None:
        yield f"{name}: {content}" if name else str(content)
