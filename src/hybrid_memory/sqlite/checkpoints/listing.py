"""Listing checkpoints, newest first: no page takes more work than the first one, and nothing stays open in between."""

import json
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from hybrid_memory.sqlite.checkpoints.reading import complete, stored_checkpoint
from hybrid_memory.sqlite.checkpoints.rows import StoredCheckpoint
from hybrid_memory.sqlite.connection import Row, Statements

_Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which checkpoints are wanted; None leaves open. `filter` is a JSON object that the metadata must contain."""

    thread_id: str | None = None
    namespace: str | None = None
    checkpoint_id: str | None = None
    before: str | None = None
    filter: str = "{}"


class Listing:
    """A listing on its way."""

    def __init__(self, wanted: Selection) -> None:
        self._wanted = wanted
        self._below = wanted.before
        # Of several lines: the newest checkpoint of each that was not looked at yet, the newest of all last.
        self._newest: list[_Key] | None = None

    def page(self, sql: Statements, size: int) -> list[StoredCheckpoint]:
        """The next checkpoints, with their values and writes; fewer than `size` are the last."""
        of_one_line = self._wanted.thread_id is not None and self._wanted.namespace is not None
        rows = self._of_line(sql, size) if of_one_line else self._of_lines(sql, size)
        found = [stored_checkpoint(row) for row in rows]
        complete(sql, found)
        return found

    def _of_line(self, sql: Statements, size: int) -> Sequence[Row]:
        wanted = self._wanted
        rows = sql.rows(
            "checkpoints.page_of_line",
            thread_id=wanted.thread_id,
            namespace=wanted.namespace,
            checkpoint_id=wanted.checkpoint_id,
            below=self._below,
            filter=wanted.filter,
            page=size,
        )
        if rows:
            self._below = stored_checkpoint(rows[-1]).checkpoint_id
        return rows

    def _of_lines(self, sql: Statements, size: int) -> Sequence[Row]:
        rows: list[Row] = []
        while len(rows) < size and (keys := self._next_keys(sql, size - len(rows))):
            rows.extend(sql.rows("checkpoints.of_keys", keys=json.dumps(keys), filter=self._wanted.filter))
        return rows

    def _next_keys(self, sql: Statements, most: int) -> Sequence[_Key]:
        if self._newest is None:
            self._newest = self._newest_of_lines(sql)
        keys: list[_Key] = []
        while self._newest and len(keys) < most:
            checkpoint_id, line = self._newest.pop()
            keys.append((checkpoint_id, line))
            older = sql.value("checkpoints.place_of_older", line=line, below=checkpoint_id)
            if older is not None and self._wanted.checkpoint_id is None:
                insort(self._newest, (older, line))
        return keys

    def _newest_of_lines(self, sql: Statements) -> list[_Key]:
        rows = sql.rows("checkpoints.place_of_newest", thread_id=self._wanted.thread_id, below=self._below)
        newest = [(newest, line) for newest, line in rows if newest is not None]
        one = self._wanted.checkpoint_id
        return sorted(newest if one is None else [(one, line) for newest, line in newest if one <= newest])
