"""What a question names: entities by their ids, names and aliases."""

from collections.abc import Iterator

from hybrid_memory.graph.view import GraphView, is_stub
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.entity_index import EntityIndex, folded

_AROUND_A_WORD = ".,;:!?()[]{}<>'\"`"
_LONGEST_NAME = 6
_ALIAS = 0.9


def exactly(index: EntityIndex, view: GraphView, query: str) -> list[MemoryNode]:
    """The entities whose id is the whole question."""
    return _of_id(index, view, query.strip())


def by_id(index: EntityIndex, view: GraphView, query: str) -> list[MemoryNode]:
    """The entities whose ids are words in it.

    Only words that could be an id count: entities called "sales" are not meant by everyone who says it.
    """
    found = (node for word in _words(index, view, query) if _could_be_id(word) for node in _of_id(index, view, word))
    return list({node.node_id: node for node in found}.values())


def named(index: EntityIndex, view: GraphView, query: str, empty: frozenset[str]) -> dict[str, float]:
    """What may be meant, with how surely: all nodes by the names in a question, of names within a name the longest."""
    words = _words(index, view, query)
    found: dict[str, float] = {}
    place = 0
    while place < len(words):
        length, meant = next(_names_at(index, view, words, place, empty), (1, {}))
        found |= meant
        place += length
    return found


def _names_at(
    index: EntityIndex, view: GraphView, words: list[str], place: int, empty: frozenset[str]
) -> Iterator[tuple[int, dict[str, float]]]:
    if not index.any_begins_with(view, words[place]):
        return
    for length in range(min(_LONGEST_NAME, len(words) - place), 0, -1):
        phrase = words[place : place + length]
        if all(word in empty for word in phrase):
            continue
        called = index.called(view, " ".join(phrase))
        meant = {
            node.node_id: _ALIAS if by == "alias" else 1.0
            for node, by in called
            if by != "id" or _could_be_id(" ".join(phrase))
        }
        if meant:
            yield length, meant


def _of_id(index: EntityIndex, view: GraphView, text: str) -> list[MemoryNode]:
    """By its own id or another one; of others a bare number does not count: whoever says 7 means no entity."""
    found = [
        node
        for node, by in index.called(view, text)
        if by == "id"
        and not is_stub(node)
        and (not text.isdecimal() or folded(str(node.content.get("entity_id"))) == folded(text))
    ]
    return sorted(found, key=lambda node: node.node_id)


def _words(index: EntityIndex, view: GraphView, query: str) -> list[str]:
    """The words that may name something; none where nothing has a name."""
    if index.is_empty(view):
        return []
    words = (word.strip(_AROUND_A_WORD).casefold() for word in query.split())
    return [word.removesuffix("'s").removesuffix("\N{RIGHT SINGLE QUOTATION MARK}s") for word in words if word]


def _could_be_id(word: str) -> bool:
    return any(letter.isdigit() for letter in word)
