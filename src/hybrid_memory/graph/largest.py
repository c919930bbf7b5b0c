"""The largest of many numbers, without sorting them or looking at each of them twice."""

import numpy as np
from numpy.typing import NDArray

_ROWS = 32
# Columns have to be so many times as many as numbers are wanted: else most of them hold one.
_FEWEST_COLUMNS = 4


def about_nth_largest(values: NDArray[np.floating], n: int) -> float:
    """A number no larger than the n-th largest of at least n numbers, and hardly smaller."""
    columns = len(values) // _ROWS
    if columns >= _FEWEST_COLUMNS * n:
        # In n columns the largest is no smaller than the n-th of them.
        values = np.maximum.reduce(values[: columns * _ROWS].reshape(_ROWS, columns))
    return _nth(values, n)


def places_of_largest(values: NDArray[np.floating], n: int, margin: float, least: float) -> NDArray[np.intp]:
    """Where the n largest are, whatever is no further than a margin below the last of them, and hardly more.

    Nothing below `least`; of fewer numbers than n, where all others are.
    """
    if n < len(values):
        least = max(about_nth_largest(values, n) - margin, least)
    return (values >= least).nonzero()[0]


def nth_largest(values: NDArray[np.floating], n: int) -> float:
    """The n-th largest of at least n numbers; as large are n of them, or more where some are equal."""
    if len(values) // _ROWS >= _FEWEST_COLUMNS * n:
        values = values[values >= about_nth_largest(values, n)]
    return _nth(values, n)


def _nth(values: NDArray[np.floating], n: int) -> float:
    ordered, place = values.copy(), len(values) - n
    ordered.partition(place)
    return float(ordered[place])
