"""The memories of one user as they are searched: columns, and for every word who holds it."""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from hybrid_memory.graph.view import GraphView, is_stub
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.columns import GONE, NEVER, Columns, Slots, days
from hybrid_memory.recall.copies import marks
from hybrid_memory.recall.holders import Holders
from hybrid_memory.recall.language import Language, plain_words
from hybrid_memory.recall.passage import TEXT, Passage, passage_of
from hybrid_memory.recall.places import Places
from hybrid_memory.recall.relevance import half_life_hours, happened_at
from hybrid_memory.recall.threads import Threads
from hybrid_memory.recall.view_index import ViewIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_SECONDS = 3600.0
# Empty slots are left behind until there are so many.
_FEW_GONE = 256
_NO_SLOTS: Slots = np.zeros(0, np.intp)


class Corpus(ViewIndex):
    """Follows the snapshots of one user; a change costs what it changes."""

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.language = language
        self._begin()

    @contextmanager
    def at(self, view: GraphView) -> "Iterator[None]":
        """What is in here is this snapshot, until the end of the block."""
        with self._lock:
            self._follow(view)
            if self._gone > max(_FEW_GONE, len(self.slots)):
                self._begin()
                for node in view.nodes():
                    if self._is_indexed(node):
                        self._add(node)
            yield

    def holders(self, term: str) -> Holders | None:
        """Who holds a word; None when nobody does."""
        found = self._holders.get(term)
        return found if found is not None and found.alive else None

    def holding_all(self, terms: Iterable[str]) -> Slots:
        """The memories that hold each of some words; none for no words."""
        found: Slots | None = None
        for term in terms:
            holders = self.holders(term)
            slots = _NO_SLOTS if holders is None else np.array(holders.slots, np.intp)
            found = slots if found is None else np.intersect1d(found, slots, assume_unique=True)
        return _NO_SLOTS if found is None else found[self.columns.there[found]]

    def terms_of(self, slot: int) -> frozenset[str]:
        """The words of one memory."""
        return self._terms[slot]

    def marks_of(self, slot: int) -> Sequence[int]:
        """The numbers of the words by which what says the same as a memory is met."""
        return self._marks[slot]

    def node_at(self, slot: int) -> MemoryNode:
        """The memory of a slot that is not empty."""
        node = self._nodes[slot]
        if node is None:
            raise KeyError(slot)
        return node

    def speakers_named(self, words: "Sequence[str]") -> list[int]:
        """Who is named by the words of a question: the first word of a name is enough."""
        return [number for first, number in self._speakers.items() if first in words]

    def _begin(self) -> None:
        self.columns = Columns()
        self.threads = Threads(self.columns)
        self.slots: dict[str, int] = {}
        self.words_in_all = 0.0
        self._holders: dict[str, Holders] = {}
        self._terms: list[frozenset[str]] = [frozenset()]
        self._marks: list[Sequence[int]] = [()]
        self._nodes: list[MemoryNode | None] = [None]
        self._speakers: dict[str, int] = {}
        self.places = Places(self.columns)
        self._gone = 0

    def _is_indexed(self, node: MemoryNode) -> bool:
        return not is_stub(node)

    def _add(self, node: MemoryNode) -> None:
        passage = passage_of(node)
        amounts, length = self._amounts(passage)
        slot = self.slots[node.node_id] = self.columns.new()
        numbers = []
        for term, amount in amounts.items():
            holders = self._holders.get(term)
            if holders is None:
                holders = self._holders[term] = Holders(len(self._holders))
            holders.add(slot, amount)
            numbers.append(holders.number)
        self._terms.append(frozenset(amounts))
        self._marks.append(marks(numbers))
        self._nodes.append(node)
        self.words_in_all += length
        self._describe(slot, node, passage, length)
        self.places.entered(node.node_id, slot)

    def _drop(self, node: MemoryNode) -> None:
        slot = self.slots.pop(node.node_id)
        for term in self._terms[slot]:
            self._holders[term].alive -= 1
        self.words_in_all -= float(self.columns.length[slot])
        if self.columns.turn[slot] and node.thread_id is not None:
            self.threads.drop(node.thread_id, node.seq or 0, node.node_id, slot)
        self.columns.empty(slot)
        self._terms[slot], self._marks[slot], self._nodes[slot] = frozenset(), (), None
        self._gone += 1

    def _amounts(self, passage: Passage) -> tuple[dict[str, float], int]:
        """How much of each word there is: where it counts most; and how many words the text has."""
        amounts: dict[str, float] = {}
        length = 0
        for weight, text in passage.places:
            here: dict[str, float] = {}
            for term in self.language.terms(text):
                here[term] = here.get(term, 0.0) + weight
                length += weight == TEXT
            for term, amount in here.items():
                amounts[term] = max(amounts.get(term, 0.0), amount)
        return amounts, min(length, 1) if passage.is_record else length

    def _describe(self, slot: int, node: MemoryNode, passage: Passage, length: int) -> None:
        columns = self.columns
        columns.there[slot], columns.length[slot] = True, length
        columns.at[slot] = days(_seconds(happened_at(node)))
        columns.updated[slot] = _seconds(node.updated_at or node.created_at, GONE) / _HOUR_SECONDS
        columns.accessed[slot] = _seconds(node.last_accessed_at, NEVER) / _HOUR_SECONDS
        columns.half_life[slot] = half_life_hours(node.context_type)
        columns.importance[slot] = node.importance
        columns.asks[slot] = passage.asks
        if passage.speaker is not None:
            columns.turn[slot] = True
            columns.turns += 1
            columns.speaker[slot] = self._number_of(passage.speaker)
            if node.thread_id is not None:
                self.threads.add(node.thread_id, node.seq or 0, node.node_id, slot)

    def _number_of(self, speaker: str) -> int:
        first = next(iter(plain_words(speaker)), "")
        return self._speakers.setdefault(first, len(self._speakers) + 1)


def hours(moment: datetime) -> float:
    """Hours since 1970."""
    return _seconds(moment) / _HOUR_SECONDS


def _seconds(moment: datetime | None, without: float = 0.0) -> float:
    return without if moment is None else (moment - _EPOCH).total_seconds()


def distinct(terms: Iterable[str]) -> list[str]:
    """Each once, in one order."""
    return sorted(set(terms))
