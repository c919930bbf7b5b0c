"""One user's vectors in the process: a matrix per model, brought up to date row by row.

A memory may have several vectors of a model, one for each field; it is as alike as the best of them. Belongs to one
thread, the manager's home loop.
"""

from collections.abc import Container, Iterator

import numpy as np

from hybrid_memory.graph.cosines import NONE, NOTHING, Cosines, Rows, Scores
from hybrid_memory.graph.directions import Direction, Vector, unit_of
from hybrid_memory.graph.quantised import QuantisedRows

_FIRST_ROWS = 64
# Up to here comparing exactly takes no longer.
_FEW = 512
# The rest of the matrix is read too where it takes no longer than gathering rows.
_GATHERED = 4
_NOBODY = ""


class VectorTable:
    """The vectors of one model: unit vectors, one below the other, so that a product is a cosine.

    A row stays where it is; those of what is gone are left behind until there are more of them than of others.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._silent_known: Rows | None = None
        self._begin()

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
        unit = unit_of(vector)
        if unit is not None and unit.size == self.dimensions:
            own = self._rows.setdefault(node_id, {})
            if field not in own:
                own[field] = self._new_row(node_id, next(iter(own.values()), None))
            self._set(own[field], unit)

    def drop(self, node_id: str) -> None:
        """Forget the vectors of a memory."""
        for row in self._rows.pop(node_id, {}).values():
            self._node_ids[row] = _NOBODY
            self._silent[row], self._first[row] = True, row
            self._silent_known = None
            self._quantised.drop(row)
            self._gone += 1
        if self._gone > max(_FIRST_ROWS, len(self._node_ids) // 2):
            self._close_up()

    def cosines(self, question: Direction) -> Cosines:
        """The cosine of a question with every memory that has a vector; of many about, until they are sharpened."""
        unit = question.unit
        if not self._rows or unit is None or unit.size != self.dimensions:
            return NOTHING
        count = len(self._node_ids)
        matrix, first, silent = self._matrix[:count], self._first, self._silent_rows()

        def by_memory(scores: Scores) -> Scores:
            if len(silent):
                np.maximum.at(scores, first[silent], scores[silent])
                scores[silent] = NONE
            return scores

        def exactly(places: Rows) -> Scores:
            if len(places) > count // _GATHERED:
                return by_memory(np.vecdot(matrix, unit))[places]
            scores: Scores = np.vecdot(matrix[places], unit)
            if len(silent):
                further = silent[np.isin(first[silent], places)]
                np.maximum.at(scores, np.searchsorted(places, first[further]), np.vecdot(matrix[further], unit))
            return scores

        if count <= _FEW:
            # `@` wakes a thread per core for a product that takes less time than waiting for them on a busy machine.
            return Cosines(self._node_ids, by_memory(np.vecdot(matrix, unit)))
        about, off = self._quantised.products(question, count)
        return Cosines(self._node_ids, by_memory(about), off, exactly)

    def _begin(self) -> None:
        self._matrix = np.zeros((_FIRST_ROWS, self.dimensions), dtype=np.float32)
        self._quantised = QuantisedRows(_FIRST_ROWS, self.dimensions)
        # Of which memory each row is; a new list when rows come to stand elsewhere.
        self._node_ids: list[str] = []
        # The row of the same memory's first vector; and which rows say nothing by themselves: others than these.
        self._first: Rows = np.zeros(_FIRST_ROWS, np.intp)
        self._silent = np.zeros(_FIRST_ROWS, np.bool_)
        self._silent_known = None
        self._rows: dict[str, dict[str, int]] = {}
        self._gone = 0

    def _new_row(self, node_id: str, first: int | None) -> int:
        row = len(self._node_ids)
        if row == len(self._matrix):
            self._matrix, self._first, self._silent = (
                np.concatenate([column, np.zeros_like(column)]) for column in (self._matrix, self._first, self._silent)
            )
            self._quantised.grow()
        self._first[row], self._silent[row] = (row, False) if first is None else (first, True)
        if first is not None:
            self._silent_known = None
        self._node_ids.append(node_id if first is None else _NOBODY)
        return row

    def _silent_rows(self) -> Rows:
        """Looked for again when there may be others."""
        if self._silent_known is None:
            self._silent_known = np.flatnonzero(self._silent)
        return self._silent_known

    def _set(self, row: int, unit: Vector) -> None:
        self._matrix[row] = unit
        self._quantised.put(row, unit)

    def _close_up(self) -> None:
        before, rows = self._matrix, self._rows
        self._begin()
        for node_id, fields in rows.items():
            own = self._rows[node_id] = dict[str, int]()
            for field, row in fields.items():
                own[field] = self._new_row(node_id, next(iter(own.values()), None))
                self._set(own[field], before[row])


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
