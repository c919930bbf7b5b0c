"""The words of a text and of a memory, brought to one form so that a query meets them."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_memory.models import MemoryNode

# How much a word counts where it stands.
NAME, TAG, SUMMARY, TEXT = 1.0, 0.9, 0.8, 0.6

_WORD = re.compile(r"[^\W_]+")
_SHORTEST_PLURAL = 4
# English words that are in every text, and what is left of "don't" or "it's"; they tell nothing apart.
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        """
        a about all am an and any are as at be been but by can could did do does for from had has have he her his how
        i if in into is it its me my no not of on or our out she should so than that the their them then there these
        they this those to us was we were what when where which who whom whose why will with would you your
        s t d ll m re ve
        """,
    )
)


def words_of(text: str) -> list[str]:
    """The words, without case, accents and English plural endings."""
    return [_singular(word) for word in _plain_words(text)]


def terms_of(query: str) -> list[str]:
    """The words of a query that tell anything, each once, in order."""
    return sorted({_singular(word) for word in _plain_words(query) if word not in _EMPTY})


def weighted_terms(node: MemoryNode) -> dict[str, float]:
    """Every word of a memory with the best place it stands in."""
    weights: dict[str, float] = {}
    for weight, text in _places(node):
        for word in words_of(text):
            if weight > weights.get(word, 0.0):
                weights[word] = weight
    return weights


def entity_ids(node: MemoryNode) -> list[str]:
    """What an entity is called by in its own system, without case; nothing for other memories.

    Of its other ids those that are a bare number do not count: whoever says 7 means no entity.
    """
    content = node.content
    if node.context_type != "domain_entity" or not isinstance(content, Mapping) or not content.get("entity_id"):
        return []
    others = [str(one) for one in content.get("other_ids") or () if not str(one).isdecimal()]
    return list(dict.fromkeys(one.casefold() for one in (str(content["entity_id"]), *others)))


def _places(node: MemoryNode) -> Iterator[tuple[float, str]]:
    if node.context_type == "domain_entity" and isinstance(node.content, Mapping):
        yield from ((NAME, said) for key in ("entity_name", "aliases") for said in _said(node.content.get(key)))
    yield from ((TAG, tag) for tag in node.tags)
    yield SUMMARY, node.summary
    yield from ((TEXT, said) for said in _said(node.content))


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


def _plain_words(text: str) -> list[str]:
    # Most text is ASCII, and taking it apart letter by letter is most of the time that indexing takes.
    if text.isascii():
        return _WORD.findall(text.lower())
    plain = unicodedata.normalize("NFKD", text).casefold()
    return _WORD.findall("".join(letter for letter in plain if not unicodedata.combining(letter)))


def _singular(word: str) -> str:
    if len(word) < _SHORTEST_PLURAL or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
