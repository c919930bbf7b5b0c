"""What is asked: words, a vector's neighbours, filters, and how much of an answer is wanted."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.relevance import age_hours, happened_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which memories are looked at, however well others fit.

    Args:
        required_tags, excluded_tags: all of the ones and none of the others, as `tags_of` gives them.
        since, until: when it happened: what a message says of itself, else when the memory was made; both included.
        namespace: items of a store whose namespace begins so.
        admits: any other condition.
    """

    context_types: frozenset[str] | None = None
    required_tags: frozenset[str] = frozenset()
    excluded_tags: frozenset[str] = frozenset()
    thread_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None
    max_age_hours: float | None = None
    namespace: tuple[str, ...] | None = None
    admits: Callable[[MemoryNode], bool] | None = None

    @property
    def admit_all(self) -> bool:
        """Whether every memory is looked at."""
        return self is EVERYTHING or self == EVERYTHING

    def admit(self, node: MemoryNode, now: datetime) -> bool:
        """Whether a memory is looked at."""
        return (
            (self.admits is None or self.admits(node))
            and (self.context_types is None or node.context_type in self.context_types)
            and (self.thread_id is None or node.thread_id == self.thread_id)
            and self._admit_tags(node)
            and self._admit_time(node, now)
            and (self.namespace is None or (node.namespace or ())[: len(self.namespace)] == self.namespace)
            and all(key in node.metadata and node.metadata[key] == value for key, value in self.metadata.items())
        )

    def _admit_tags(self, node: MemoryNode) -> bool:
        if not self.required_tags and not self.excluded_tags:
            return True
        tags = {tag.casefold() for tag in node.tags}
        return self.required_tags <= tags and self.excluded_tags.isdisjoint(tags)

    def _admit_time(self, node: MemoryNode, now: datetime) -> bool:
        if self.max_age_hours is not None and not age_hours(node, now) <= self.max_age_hours:
            return False
        if self.since is None and self.until is None:
            return True
        at = happened_at(node) or now
        return (self.since is None or self.since <= at) and (self.until is None or at <= self.until)


EVERYTHING = Filters()


@dataclass(frozen=True, slots=True)
class Similarities:
    """How near the question's vector is to memories that have one, as in `Cosines`.

    Give the same `node_ids` object as long as ids are only added to it: their places are looked up once.
    """

    node_ids: Sequence[str]
    cosines: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One search.

    Args:
        text: what is asked, in the words of whoever asks. With neither it nor similarities: what matters now.
        similarities: the neighbours of its vector; without them the search is by words, time and relations.
        limit: that many at most.
        min_score: nothing that fits less.
        graph: whether relations of what the question names are followed.
        near_copies: whether memories that say the same as a better one are given too; exact searches want them.
        explain: whether each hit says why it was found.
    """

    text: str | None = None
    similarities: Similarities | None = None
    filters: Filters = EVERYTHING
    limit: int = 10
    min_score: float | None = None
    graph: bool = True
    near_copies: bool = False
    explain: bool = False


def types_of(given: Iterable[str] | None) -> frozenset[str] | None:
    """Context types as a caller gives them: any iterable, or one name; None is no filter."""
    return None if given is None else frozenset(_several(given))


def tags_of(given: Iterable[str] | None) -> frozenset[str]:
    """Tags as they are compared, without case."""
    return frozenset(tag.casefold() for tag in _several(given or ()))


def _several(given: Iterable[str]) -> Iterable[str]:
    return (given,) if isinstance(given, str) else given
