"""One user's vectors in the process: a matrix per model, brought up to date row by row, compared exactly.

A memory may have several vectors of a model, one for each field; it is as alike as the best of them. Belongs to one
thread, the manager's home loop.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hybrid_memory.graph.largest import nth_largest

Vector = npt.NDArray[np.float32]
_FIRST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Cosines:
    """The cosine of a question with memories: `scores[i]` is that of `node_ids[i]`, in no order."""

    node_ids: Sequence[str]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.node_ids)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.node_ids, self.scores.tolist(), strict=True)

    def by_node(self) -> dict[str, float]:
        """The same as a mapping."""
        return dict(self)

    def best_first(self) -> Iterator[tuple[str, float]]:
        """The most alike first; of equals the one with the smaller id, so that the order is always the same."""
        scores = self.scores
        taken, wanted = 0, 64
        while taken < len(scores):
            # Sorting all of a large user for ten of them would cost more than comparing.
            if wanted < len(scores):
                places = np.flatnonzero(scores >= nth_largest(scores, wanted))
            else:
                places = np.arange(len(scores))
            ids = (self.node_ids[place] for place in places.tolist())
            ordered = sorted(zip((-scores[places]).tolist(), ids, strict=True))
            yield from ((node_id, -negative) for negative, node_id in ordered[taken:])
            taken, wanted = len(ordered), wanted * 8


NOTHING = Cosines((), np.empty(0, dtype=np.float32))


class VectorTable:
    """The vectors of one model: unit vectors, one below the other, so that a product is a cosine."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._matrix = np.empty((_FIRST_ROWS, dimensions), dtype=np.float32)
        self._nodes: list[str] = []
        self._fields: list[str] = []
        self._rows: dict[str, dict[str, int]] = {}
        # The same object as long as the ids are the same: who looks places up in it does so once.
        self._shown: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """How many memories have one."""
        return len(self._rows)

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._rows

    def node_ids(self) -> Iterator[str]:
        """Which memories have one."""
        return iter(self._rows)

    def put(self, node_id: str, field: str, vector: Vector) -> None:
        """Keep a vector; one without a direction, or of another length, is as good as none."""
        unit = _unit(vector)
        if unit is None or unit.size != self.dimensions:
            return
        row = self._rows.get(node_id, {}).get(field)
        if row is None:
            row = len(self._nodes)
            if row == len(self._matrix):
                self._matrix = np.concatenate([self._matrix, np.empty_like(self._matrix)])
            self._nodes.append(node_id)
            self._fields.append(field)
            self._rows.setdefault(node_id, {})[field] = row
            self._shown = None
        self._matrix[row] = unit

    def drop(self, node_id: str) -> None:
        """Forget the vectors of a memory; the last rows fill the gaps."""
        for row in sorted(self._rows.pop(node_id, {}).values(), reverse=True):
            self._shown = None
            last = len(self._nodes) - 1
            owner, field = self._nodes.pop(), self._fields.pop()
            if row != last:
                self._matrix[row] = self._matrix[last]
                self._nodes[row], self._fields[row] = owner, field
                self._rows[owner][field] = row

    def cosines(self, question: Vector) -> Cosines:
        """The cosine of a question with every memory that has a vector."""
        unit = _unit(question)
        if not self._nodes or unit is None or unit.size != self.dimensions:
            return NOTHING
        # `@` wakes a thread per core for a product that takes less time than waiting for them on a busy machine.
        scores = np.vecdot(self._matrix[: len(self._nodes)], unit)
        several = len(self._rows) < len(self._nodes)
        if self._shown is None:
            self._shown = tuple(self._rows if several else self._nodes)
        if several:
            scores = np.array([max(scores[row] for row in rows.values()) for rows in self._rows.values()], np.float32)
        return Cosines(self._shown, scores)


class UserVectors:
    """The vectors of one user by model and length, up to one version of one incarnation."""

    def __init__(self) -> None:
        self.incarnation: str | None = None
        self.version = 0
        self._tables: dict[tuple[str, int], VectorTable] = {}

    def put(self, node_id: str, field: str, model: str, vector: Vector) -> None:
        """Keep a vector."""
        key = (model, vector.size)
        if key not in self._tables:
            self._tables[key] = VectorTable(vector.size)
        self._tables[key].put(node_id, field, vector)

    def drop(self, node_id: str) -> None:
        """Forget a memory's vectors of every model."""
        for table in self._tables.values():
            table.drop(node_id)

    def has(self, node_id: str) -> bool:
        """Whether it has any."""
        return any(node_id in table for table in self._tables.values())

    def keep_only(self, there: Container[str]) -> None:
        """Forget the vectors of memories that are not there any more."""
        for table in self._tables.values():
            for node_id in [one for one in table.node_ids() if one not in there]:
                table.drop(node_id)

    def table(self, model: str, dimensions: int) -> VectorTable | None:
        """The vectors of a model."""
        return self._tables.get((model, dimensions))

    def sizes(self, model: str) -> dict[int, int]:
        """How many memories have a vector of a model, by the length of the vectors."""
        return {table.dimensions: len(table) for (name, _), table in self._tables.items() if name == model and table}


def _unit(vector: Vector) -> Vector | None:
    """The same direction at length one; None where there is no direction. The squares of large numbers need room."""
    whole = vector.astype(np.float64)
    length = float(np.linalg.norm(whole))
    return (whole / length).astype(np.float32) if 0 < length < float("inf") else None
