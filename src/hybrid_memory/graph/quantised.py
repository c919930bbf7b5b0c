"""Vectors with a byte per dimension: a quarter of what has to be read for a comparison, and how far off that may be."""

import numpy as np
import numpy.typing as npt
import simsimd

from hybrid_memory.graph.directions import Direction, Vector, quantised

# What sums in single precision lose, for vectors of any length.
_ROUNDING = 1e-5


class QuantisedRows:
    """Unit vectors, one below the other; each component is a whole number of steps, and each row has a step of its own.

    With `q` and `x` exact, and `q'` and `x'` as they are here, `q.x - q'.x' = (q - q').x + q'.(x - x')`: no product is
    further off than `|q - q'| + |q'||x - x'|`.
    """

    def __init__(self, rows: int, dimensions: int) -> None:
        self._steps: npt.NDArray[np.int8] = np.zeros((rows, dimensions), dtype=np.int8)
        self._step: Vector = np.zeros(rows, dtype=np.float32)
        self._off: Vector = np.zeros(rows, dtype=np.float32)
        self._furthest_off: float | None = 0.0

    def grow(self) -> None:
        """Room for twice as many."""
        self._steps, self._step, self._off = (
            np.concatenate([column, np.zeros_like(column)]) for column in (self._steps, self._step, self._off)
        )

    def put(self, row: int, unit: Vector) -> None:
        """Keep a vector of length one."""
        self._steps[row], self._step[row], self._off[row] = quantised(unit)
        self._furthest_off = None

    def drop(self, row: int) -> None:
        """Forget one."""
        self._off[row] = 0.0
        self._furthest_off = None

    def products(self, question: Direction, rows: int) -> tuple[Vector, float]:
        """About the products of a direction with the first rows, and how far off they are at most."""
        steps, step, off = question.quantised
        about: Vector = np.empty(rows, dtype=np.float32)
        simsimd.dot(steps, self._steps[:rows], out=about)
        about *= self._step[:rows]
        about *= step
        if self._furthest_off is None:
            self._furthest_off = float(self._off.max())
        return about, off + (1 + off) * self._furthest_off + _ROUNDING
