"""Lists by their elements: how a list is put together from rows, so that appending to it writes what is appended.

A row holds the elements that were new in its list. Its layout says how the whole list is made: so many elements from
the beginning of an earlier list, then runs of elements out of rows. Which earlier list is chosen as in a Fenwick tree:
the n-th list of a chain builds on the one whose number is n with its lowest bit cleared. So a list that was appended to
a thousand times is read through ten layouts at most, and a layout names a handful of runs on average.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from hybrid_memory.sqlite.checkpoints.json_text import json_writer

_written = json_writer()
# No row has this number.
_NOWHERE = 0


class Run(NamedTuple):
    """Elements that lie one after another in a row."""

    row: int
    first: int
    length: int


class Place(NamedTuple):
    """Where one element lies."""

    row: int
    position: int


class _Link(NamedTuple):
    """A list that a later one may build on, and how many elements from the beginning they have in common."""

    row: int
    ordinal: int
    shared: int

    def reduced(self, shared: int) -> "_Link":
        """The same with no more than so many in common."""
        return self if self.shared <= shared else _Link(self.row, self.ordinal, shared)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a list is put together: `taken` elements of the list in row `base`, then `runs`."""

    ordinal: int
    base: int | None
    taken: int
    runs: Sequence[Run]

    def stored(self, row: int) -> tuple[int | None, str]:
        """As the table keeps it in `row`: how far back the base is, and the rest as JSON.

        Rows are named by their distance, so that rows close together have short layouts.
        """
        runs = [[row - run.row, run.first, run.length] for run in self.runs]
        base = None if self.base is None else row - self.base
        return base, _written([self.ordinal, self.taken, runs])

    def moved(self, places: Mapping[int, int]) -> "Layout":
        """The same where its rows are elsewhere; what is lost stays lost."""
        base = None if self.base is None else places.get(self.base, _NOWHERE)
        runs = [run._replace(row=places.get(run.row, _NOWHERE)) for run in self.runs]
        return Layout(self.ordinal, base, self.taken, runs)

    @classmethod
    def of_row(cls, row: int, base: int | None, text: str) -> "Layout":
        """The other way."""
        ordinal, taken, runs = json.loads(text)
        return cls(
            ordinal,
            None if base is None else row - base,
            taken,
            [Run(row - back, first, length) for back, first, length in runs],
        )


@dataclass(frozen=True, slots=True)
class Known:
    """A stored list: where its elements lie and what it is built on. What the next list needs to be built on it."""

    places: Sequence[Place]
    digests: Sequence[bytes]
    chain: Sequence[_Link]


@dataclass(frozen=True, slots=True)
class Composed:
    """A new list: its layout, which of its elements its own row has to hold, and what is known of it then."""

    layout: Layout
    fresh: Sequence[int]
    known: Known


def compose(digests: Sequence[bytes], row: int, previous: Known | None) -> Composed:
    """Put a list together that will be in `row`, out of what the previous one of its channel consists of."""
    kept = _common_beginning(digests, previous.digests) if previous else 0
    places = [*previous.places[:kept]] if previous else []
    fresh: list[int] = []
    if kept < len(digests):
        elsewhere = _by_digest(previous, kept) if previous else {}
        for index in range(kept, len(digests)):
            digest = digests[index]
            place = elsewhere.get(digest)
            if place is None:
                place = elsewhere[digest] = Place(row, len(fresh))
                fresh.append(index)
            places.append(place)
    layout, below = _built_on(previous, kept, places)
    chain = [_Link(row, layout.ordinal, len(digests)), *below]
    return Composed(layout, fresh, Known(places, list(digests), chain))


def remembered(row: int, layouts: Mapping[int, Layout], digests_of: Mapping[int, Sequence[bytes]]) -> Known:
    """What is known of a list, from its stored layouts and the digests of the elements in each row."""
    places = [Place(run.row, run.first + step) for run in unfolded(row, layouts) for step in range(run.length)]
    chain, shared = [], len(places)
    following: int | None = row
    while following is not None:
        layout = layouts[following]
        chain.append(_Link(following, layout.ordinal, shared))
        shared = min(shared, layout.taken)
        following = layout.base
    return Known(places, [digests_of[place.row][place.position] for place in places], chain)


def unfolded(row: int, layouts: Mapping[int, Layout]) -> list[Run]:
    """Where the elements of the list in `row` lie. `layouts` has its layout and those it is built on."""
    path = []
    following: int | None = row
    while following is not None:
        path.append(layouts[following])
        following = path[-1].base
    runs: list[Run] = []
    for layout in reversed(path):
        runs = [*_beginning(runs, layout.taken), *layout.runs]
    return runs


def _beginning(runs: Iterable[Run], length: int) -> Iterator[Run]:
    """The first elements of a list."""
    for run in runs:
        if length <= 0:
            return
        yield run if run.length <= length else run._replace(length=length)
        length -= run.length


def _built_on(previous: Known | None, kept: int, places: Sequence[Place]) -> tuple[Layout, list[_Link]]:
    """The layout of a list that has `kept` elements in common with the previous one, and the chain below it."""
    if previous is not None and kept:
        ordinal = previous.chain[0].ordinal + 1
        base_ordinal = ordinal & (ordinal - 1)
        for step, link in enumerate(previous.chain):
            taken = min(kept, link.shared)
            if link.ordinal == base_ordinal and taken:
                below = [one.reduced(taken) for one in islice(previous.chain, step, None)]
                return Layout(ordinal, link.row, taken, _runs(places[taken:])), below
    return Layout(0, None, 0, _runs(places)), []


def _runs(places: Sequence[Place]) -> list[Run]:
    runs: list[Run] = []
    for row, position in places:
        last = runs[-1] if runs else None
        if last and last.row == row and last.first + last.length == position:
            runs[-1] = Run(row, last.first, last.length + 1)
        else:
            runs.append(Run(row, position, 1))
    return runs


def _common_beginning(new: Sequence[bytes], old: Sequence[bytes]) -> int:
    if len(new) >= len(old) and new[: len(old)] == old:
        return len(old)
    return next((step for step, (one, other) in enumerate(zip(new, old, strict=False)) if one != other), len(new))


def _by_digest(previous: Known, kept: int) -> dict[bytes, Place]:
    """The elements of the previous list that are not in the common beginning: they may have moved."""
    return dict(zip(previous.digests[kept:], previous.places[kept:], strict=True))
