"""How often memories are read: counted in the process, written down together, lost at most since the last time.

An access is a memory asked for by its id or found by a question. Being listed, being a turn of a conversation that is
read again, or being looked at by an algorithm is none.
"""

import threading
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from hybrid_memory.errors import HybridMemoryError, StorageUnavailable
from hybrid_memory.graph.user_graph import Clock, utc_now
from hybrid_memory.memory.places import Tidying
from hybrid_memory.postgres.housekeeping import MOST_ROWS, Reads

# While Postgres is away counts gather; beyond this many memories new ones are not counted.
MOST_MEMORIES = 100_000

_Counts = dict[str, tuple[int, datetime]]


class Accesses:
    """Counts of one process. Any thread counts, the manager's loop writes."""

    def __init__(self, upkeep: Tidying, clock: Clock = utc_now) -> None:
        self._upkeep = upkeep
        self._clock = clock
        self._lock = threading.Lock()
        self._users: dict[str, _Counts] = {}
        self._memories = 0

    def count(self, user_id: str, node_ids: Iterable[str]) -> None:
        """Each of these was read once, now."""
        self._add(user_id, node_ids, 1, self._clock())

    async def write(self) -> None:
        """Write down what was counted; what could not be written is counted on.

        Raises:
            StorageUnavailable: Postgres does not answer; users who are not in it were counted all the same.
        """
        with self._lock:
            users = list(self._users)
        away: StorageUnavailable | None = None
        for user_id in users:
            try:
                await self.write_of(user_id)
            except StorageUnavailable as error:
                away = error
        if away is not None:
            raise away

    async def write_of(self, user_id: str) -> None:
        """Write down what was counted for one user."""
        with self._lock:
            counts = self._users.pop(user_id, {})
            self._memories -= len(counts)
        waiting = [(node_id, reads, last) for node_id, (reads, last) in counts.items()]
        while waiting:
            batch = waiting[:MOST_ROWS]
            nodes, reads, last = zip(*batch, strict=True)
            try:
                await self._upkeep.count_accesses(user_id, Reads([UUID(node_id) for node_id in nodes], reads, last))
            except BaseException as error:
                refused = isinstance(error, HybridMemoryError) and not getattr(error, "outcome_unknown", False)
                # Where it is not known whether they were written: rather once too few than once too often.
                for node_id, times, last_read in waiting if refused else waiting[len(batch) :]:
                    self._add(user_id, (node_id,), times, last_read)
                raise
            waiting = waiting[len(batch) :]

    def _add(self, user_id: str, node_ids: Iterable[str], reads: int, last: datetime) -> None:
        with self._lock:
            counts = self._users.setdefault(user_id, {})
            for node_id in node_ids:
                before = counts.get(node_id)
                if before is not None:
                    counts[node_id] = (before[0] + reads, max(before[1], last))
                elif self._memories < MOST_MEMORIES:
                    counts[node_id] = (reads, last)
                    self._memories += 1
