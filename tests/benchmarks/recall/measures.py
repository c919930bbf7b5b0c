"""What is measured of an answer: how much of the evidence is on the first page, and how high."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean

from rich.table import Table

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open domain", 4: "single hop", 5: "adversarial"}
PAGES = (5, 10, 20)
_PAGE = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """The turns given for a question, the best first, and those that answer it."""

    category: int
    found: Sequence[str]
    evidence: frozenset[str]

    def recall(self, page: int) -> float:
        """The share of the evidence on a page of that length."""
        return len(self.evidence.intersection(self.found[:page])) / len(self.evidence)

    def any(self, page: int) -> float:
        """Whether there is any."""
        return float(not self.evidence.isdisjoint(self.found[:page]))

    def ndcg(self) -> float:
        """Of a page of ten: higher places count more."""
        gained = sum(1 / log2(2 + place) for place, one in enumerate(self.found[:_PAGE]) if one in self.evidence)
        return gained / sum(1 / log2(2 + place) for place in range(min(_PAGE, len(self.evidence))))


def mean_recall(answers: Iterable[Answer], category: int | None = None) -> float:
    """Recall at 10, of one category or of all."""
    return fmean(one.recall(_PAGE) for one in answers if category is None or one.category == category)


def table_of(title: str, variants: dict[str, list[Answer]]) -> Table:
    """A line per variant."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("found by", no_wrap=True)
    heads = [f"{what}@{page}" for what in ("recall", "any") for page in PAGES] + ["nDCG@10"]
    for head in heads:
        table.add_column(head, justify="right")
    for name, answers in variants.items():
        values = [fmean(one.recall(page) for one in answers) for page in PAGES]
        values += [fmean(one.any(page) for one in answers) for page in PAGES]
        values.append(fmean(one.ndcg() for one in answers))
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table


def table_by_category(variants: dict[str, list[Answer]]) -> Table:
    """Recall at 10 by category, with the number of questions."""
    table = Table(title="recall@10 by category", title_justify="left", box=None, pad_edge=False)
    table.add_column("found by", no_wrap=True)
    first = next(iter(variants.values()))
    there = [number for number in CATEGORIES if any(one.category == number for one in first)]
    for number in there:
        table.add_column(f"{CATEGORIES[number]} ({sum(one.category == number for one in first)})", justify="right")
    for name, answers in variants.items():
        table.add_row(name, *(f"{mean_recall(answers, number):.3f}" for number in there))
    return table
