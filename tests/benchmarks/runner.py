"""Runs contenders in turn, many times, and reports ratios: the machine's mood hits all of them alike."""

import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Contender:
    """Something to be timed: `run` does `operations` operations; what `before` does is not timed."""

    name: str
    run: Callable[[], Awaitable[object]]
    operations: int = 1
    before: Callable[[], Awaitable[object]] | None = None


@dataclass(frozen=True)
class Result:
    """Median seconds per operation of each contender, and each one's ratio to the first."""

    title: str
    seconds: dict[str, float]
    ratios: dict[str, float]


class Benchmark:
    """One run of the package; collects the results of every comparison."""

    def __init__(self, *, rounds: int, seed: int, files: Sequence[Path] = ()) -> None:
        self.rounds = rounds
        self.files = files
        self.results: list[Result] = []
        self._rng = random.Random(seed)
        self._console = Console(highlight=False, soft_wrap=True)

    async def compare(self, title: str, contenders: Sequence[Contender], *, in_a_row: int = 1) -> Result:
        """Time the contenders in a new random order each round; the first is what the others are measured against.

        Args:
            title: of the table.
            contenders: at least one.
            in_a_row: each runs so many times before it is the next one's turn; all of these count, each by itself.
        """
        for contender in contenders:
            await _timed(contender)
        taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _ in range(self.rounds):
            for contender in self._rng.sample(contenders, len(contenders)):
                taken[contender.name] += [await _timed(contender) for _ in range(in_a_row)]
        seconds = {name: statistics.median(times) for name, times in taken.items()}
        first = seconds[contenders[0].name]
        result = Result(title, seconds, {name: second / first for name, second in seconds.items()})
        self.results.append(result)
        self._show(result)
        return result

    def show(self, table: Table) -> None:
        """Print figures that are no times."""
        self._console.print(table)
        self._console.print()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    def _show(self, result: Result) -> None:
        table = Table(title=result.title, title_justify="left", box=None, pad_edge=False)
        table.add_column("contender")
        table.add_column("per operation", justify="right")
        table.add_column("time ratio", justify="right")
        for name, seconds in result.seconds.items():
            table.add_row(name, f"{seconds * 1000:.3f} ms", f"{result.ratios[name]:.2f}")
        self.show(table)


async def _timed(contender: Contender) -> float:
    """Seconds per operation."""
    if contender.before is not None:
        await contender.before()
    start = time.perf_counter()
    await contender.run()
    return (time.perf_counter() - start) / contender.operations
