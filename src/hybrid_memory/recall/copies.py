"""Memories that say the same: nearly all words of one are those of the other."""

from collections.abc import Iterable, Sequence
from math import ceil

# The share of all words of both that they have in common.
_SAME = 0.9


def say_the_same(one: frozenset[str], two: frozenset[str]) -> bool:
    """Whether memories of these words do."""
    if len(one) < _SAME * len(two) or len(two) < _SAME * len(one):
        return False
    return len(one & two) >= _SAME * len(one | two) > 0


def marks(words: Iterable[int]) -> Sequence[int]:
    """A few of a memory's words, by their numbers: two memories that say the same have one of these in common.

    That is so for the first words in any one order of all words: what says the same lacks too few to lack all of them.
    In this one those come first that came up last, which few memories hold.
    """
    ordered = sorted(words, reverse=True)
    return ordered[: len(ordered) - ceil(_SAME * len(ordered)) + 1]
