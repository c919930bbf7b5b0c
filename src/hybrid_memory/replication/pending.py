"""What waits for Postgres, as it will be: the overlay that shows a user's own writes meanwhile."""

import threading
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.view import GraphView
from hybrid_memory.postgres.batches import Operation
from hybrid_memory.replication.batching import in_batches
from hybrid_memory.replication.known import KnownGraph, Overlay
from hybrid_memory.replication.local import applied_locally


class Pending:
    """One user's operations that Postgres has not confirmed, in the order in which they will be sent.

    They change on the manager's loop, and are shown to whatever thread reads.
    """

    def __init__(self, user_id: str) -> None:
        self._user_id = user_id
        self._lock = threading.Lock()
        self._operations: dict[tuple[str, int], Operation] = {}
        self._marks: dict[str, int] = {}
        self._view: GraphView | None = None
        self._result: Overlay | None = None
        self._unapplied: list[Operation] = []

    def __bool__(self) -> bool:
        return bool(self._operations)

    def add(self, instance_id: str, operations: Iterable[Operation]) -> None:
        """They wait, behind those that wait already, unless they have been removed in the meantime."""
        with self._lock:
            for one in operations:
                if (instance_id, one.n) not in self._operations and one.n > self._marks.get(instance_id, 0):
                    self._operations[instance_id, one.n] = one
                    self._unapplied.append(one)

    def begin_with(self, operations: Iterable[tuple[str, Operation]]) -> None:
        """These have been waiting for longer, unless they have been removed in the meantime."""
        with self._lock:
            first = {(run, one.n): one for run, one in operations if one.n > self._marks.get(run, 0)}
            self._operations = first | self._operations
            self._view = None

    def last_numbers(self) -> dict[str, int]:
        """Of each run whose operations wait, the last one."""
        return dict(sorted(self._operations))

    def remove(self, up_to: Mapping[str, int]) -> None:
        """Operations wait no more, those of each run up to a number."""
        with self._lock:
            for run, number in up_to.items():
                self._marks[run] = max(number, self._marks.get(run, 0))
            waiting = {(run, n): one for (run, n), one in self._operations.items() if n > self._marks.get(run, 0)}
            self._operations, self._view = waiting, None

    def forget(self, node_ids: Collection[str]) -> None:
        """Memories were deleted behind everything that is here: it has left the queue, and they do not come back."""
        ends = ("node_id", "from_node_id", "to_node_id")
        with self._lock:
            self._operations = {
                key: one
                for key, one in self._operations.items()
                if not any(one.row.get(end) in node_ids for end in ends)
            }
            self._view = None

    def over(self, view: GraphView) -> Delta:
        """What is different when all of them have taken effect."""
        with self._lock:
            return self._over(view)

    def _over(self, view: GraphView) -> Delta:
        if self._result is None or view is not self._view:
            self._view, self._result = view, Overlay(KnownGraph(view))
            self._unapplied = list(self._operations.values())
        for chunk in in_batches(self._unapplied):
            now = max(datetime.fromisoformat(one.row["written_at"]) for one in chunk)
            done = applied_locally(self._user_id, self._result, chunk, now=now, version=None)
            self._result.absorb(done.changes)
        self._unapplied = []
        return Delta(
            incarnation=view.incarnation,
            version=view.version,
            since=view.version,
            nodes=[one.node for one in self._result.nodes.values()],
            relationships=[one.relationship for one in self._result.relationships.values()],
            deleted=frozenset(self._result.deleted),
        )
