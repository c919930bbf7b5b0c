"""Vectors as they are compared: by their direction, exactly and with a byte per dimension."""

from functools import cached_property
from math import isfinite, sqrt

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
# A unit vector in whole steps, how large these are, and how far it is from the vector itself.
Quantised = tuple[npt.NDArray[np.int8], np.float32, float]
_MOST_STEPS = 127


class Direction:
    """Where a question's vector points to; what it takes to compare it is reckoned once, however often it is asked.

    Attributes:
        vector: as it was given.
        unit: at length one; None where there is no direction.
    """

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        self.unit = unit_of(vector)

    @cached_property
    def quantised(self) -> Quantised:
        """The same in steps.

        Raises:
            ValueError: there is no direction.
        """
        if self.unit is None:
            raise ValueError("a vector without a direction has no steps")
        return quantised(self.unit)


def unit_of(vector: Vector) -> Vector | None:
    """The same direction at length one; None where there is no direction. The squares of large numbers need room."""
    whole = vector.astype(np.float64)
    length = sqrt(whole @ whole)
    return (whole / length).astype(np.float32) if isfinite(length) and length > 0 else None


def quantised(unit: Vector) -> Quantised:
    """A vector of length one in steps."""
    step = np.float32(np.abs(unit).max() / _MOST_STEPS)
    steps = np.rint(unit / step)
    off = unit - steps * step
    return steps.astype(np.int8), step, sqrt(off @ off)
