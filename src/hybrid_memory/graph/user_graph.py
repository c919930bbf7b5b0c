"""One user's graph in the process: kept in step with Postgres by deltas, read by any thread through snapshots.

One thread applies (the manager's home loop), any thread reads. The rows change under a lock; a snapshot is copied under
the same lock when the first reader after a change asks for one, and handed out without it from then on. So a write
costs what it changes, and readers share one copy however many they are.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain

from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.rows import Rows
from hybrid_memory.graph.view import GraphView, Journal

Clock = Callable[[], datetime]
Overlay = Callable[[GraphView], Delta]
_BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
# So many ids of what is gone are noted for the next snapshot, if there is one.
_MOST_GONE_NOTED = 1000


def utc_now() -> datetime:
    """The time of the machine."""
    return datetime.now(UTC)


class UserGraph:
    """The nodes and edges of one user, at one version of one incarnation.

    Deltas of this process's own writes may run ahead of what the graph knows of other processes. They are visible at
    once, but the version stays behind the gap, and they are kept until it is closed: neither an older delta nor a load
    that began before the write undoes them.
    """

    def __init__(self, user_id: str, *, clock: Clock = utc_now) -> None:
        self.user_id = user_id
        self.clock = clock
        self._lock = threading.Lock()
        self._rows = Rows()
        self._incarnation: str | None = None
        self._version = 0
        self._loaded = False
        self._ahead: list[Delta] = []
        self._journal: list[tuple[str, ...]] = []
        self._journaled = 0
        self._overlay: Overlay | None = None
        self._below: GraphView | None = None
        self._view: GraphView | None = None
        self._confirmed_at: datetime | None = None
        self._stale = True

    @property
    def incarnation(self) -> str | None:
        """Which life of the user's memory this is a copy of."""
        return self._incarnation

    @property
    def version(self) -> int:
        """The version up to which nothing is missing."""
        return self._version

    @property
    def loaded(self) -> bool:
        """Whether a complete delta was ever applied."""
        return self._loaded

    @property
    def node_count(self) -> int:
        """How many rows there are, expired ones and stubs among them: what counters in Postgres are compared with."""
        return len(self._rows.nodes)

    @property
    def edge_count(self) -> int:
        """How many relationships there are, those of expired memories among them."""
        return self._rows.edge_count

    @property
    def stale(self) -> bool:
        """Whether Postgres did not answer when this was last compared with it, or was never asked."""
        return self._stale

    @property
    def age(self) -> float | None:
        """Seconds since this was last known to be what Postgres holds; None when it never was."""
        if self._confirmed_at is None:
            return None
        return max(0.0, (self.clock() - self._confirmed_at).total_seconds())

    @property
    def confirmed_at(self) -> datetime | None:
        """When this was last known to be what Postgres holds."""
        return self._confirmed_at

    def confirm(self) -> None:
        """Postgres was asked, and this is what it holds."""
        self._confirmed_at = self.clock()
        self._stale = False

    def was_confirmed(self, at: datetime) -> None:
        """This is a copy that somebody kept: it was what Postgres held then."""
        self._confirmed_at = at

    def mark_stale(self) -> None:
        """Postgres was asked and did not answer."""
        self._stale = True

    def doubt(self) -> None:
        """What is here is of a database that was replaced: it is shown as stale until the next load takes its place.

        What is written until then waits for that load, which counts whatever its version.
        """
        with self._lock:
            self._loaded, self._incarnation, self._version = False, None, 0
            self._ahead.clear()
            self._stale = True

    def apply(self, delta: Delta) -> bool:
        """Bring the graph to a delta; one that brings nothing new changes nothing.

        Returns:
            Whether nothing is missing up to the delta's version. If something is, the graph is to be brought up from
            `version`, or loaded when the incarnation is another.

        Raises:
            ValueError: it holds rows of another user.
        """
        if any(row.user_id != self.user_id for rows in (delta.nodes, delta.relationships) for row in rows):
            raise ValueError("a delta with rows of another user")
        delta = delta.bounded()
        # Built before the lock is taken: readers do not wait for a load.
        fresh = _rows_of(delta) if delta.complete else None
        with self._lock:
            if delta.incarnation == self._incarnation and self._loaded and self._is_known(delta):
                return True
            if fresh is not None:
                self._replace(fresh, delta)
            elif self._follows(delta):
                self._advance(delta)
            else:
                self._keep_ahead(delta)
            self._apply_ahead()
            self._view = self._below = None
            return delta.complete or (delta.incarnation == self._incarnation and delta.version <= self._version)

    def everything(self) -> Delta:
        """All rows, expired ones and stubs among them: what an equal graph could begin with.

        Rows that ran ahead of the version are among them; whoever brings a copy up from the version meets them again.
        """
        with self._lock:
            return Delta(
                incarnation=self._incarnation,
                version=self._version,
                nodes=list(self._rows.nodes.merged().values()),
                relationships=list(chain.from_iterable(self._rows.outgoing.merged().values())),
                complete=True,
            )

    def lay_over(self, overlay: Overlay | None) -> None:
        """Show what is not in Postgres yet on top of what is, whatever comes in from there; None shows the rows alone.

        Args:
            overlay: given all rows, what is different with it; given the same object as long as they are the same.
        """
        with self._lock:
            self._overlay = overlay
            self._view = None

    def view(self) -> GraphView:
        """What there is now, consistent in itself: every edge has both its ends, nothing in it has expired."""
        now = self.clock()
        view = self._view
        if view is None or not view.holds_at(now):
            with self._lock:
                view = self._view
                if view is None or not view.holds_at(now):
                    journal = self._entered() if self._overlay is None else None
                    view = self._view = self._view_of(self._shown(), now, journal)
        return view

    def _view_of(self, rows: Rows, at: datetime, journal: Journal | None = None) -> GraphView:
        return GraphView(rows, incarnation=self._incarnation, version=self._version, at=at, journal=journal)

    def _entered(self) -> Journal:
        """What changed since the last entry, as the next one; another journal is begun when looking at all is less."""
        touched = tuple(self._rows.touched)
        self._rows.touched.clear()
        self._journaled += len(touched)
        if self._journaled > len(self._rows.nodes):
            self._journal, self._journaled = [], 0
        if touched:
            self._journal.append(touched)
        return self._journal

    def _begin_journal(self) -> None:
        """Let the next snapshot be compared as a whole with those before."""
        self._rows.touched.clear()
        self._journal, self._journaled = [], 0

    def _shown(self) -> Rows:
        if self._overlay is None:
            return self._rows
        self._below = self._below or self._view_of(self._rows, _BEFORE_ALL)
        rows = self._rows.copy()
        rows.apply(self._overlay(self._below))
        return rows

    def _is_known(self, delta: Delta) -> bool:
        # A load at the same version replaces: it may show what was changed by hand.
        return delta.version < self._version or (delta.version == self._version and not delta.complete)

    def _is_of_this_life(self, delta: Delta) -> bool:
        """Whether both are of one incarnation; the first write of a new user begins one."""
        return self._incarnation is None or delta.incarnation == self._incarnation

    def _follows(self, delta: Delta) -> bool:
        """Whether a delta has everything that is missing here."""
        return self._loaded and self._is_of_this_life(delta) and delta.covers(self._version)

    def _replace(self, rows: Rows, delta: Delta) -> None:
        self._rows, self._loaded = rows, True
        self._begin_journal()
        self._incarnation, self._version = delta.incarnation, delta.version
        self._ahead = [one for one in self._ahead if self._is_of_this_life(one)]

    def _advance(self, delta: Delta) -> None:
        self._rows.apply(delta)
        if len(self._rows.touched) > len(self._rows.nodes) + _MOST_GONE_NOTED:
            self._begin_journal()
        self._incarnation, self._version = delta.incarnation, delta.version

    def _keep_ahead(self, delta: Delta) -> None:
        of_one_life = [one for one in self._ahead if one.incarnation == delta.incarnation]
        if any(
            one.version >= delta.version and delta.since is not None and one.covers(delta.since) for one in of_one_life
        ):
            return
        before = next((one for one in of_one_life if one.version == delta.since), None)
        if before is not None:
            self._ahead.remove(before)
            delta = before.then(delta)
        self._ahead.append(delta)
        self._ahead.sort(key=lambda one: one.version)

    def _apply_ahead(self) -> None:
        """Put what ran ahead on top again; what the graph has caught up with is no longer ahead."""
        waiting = []
        for delta in self._ahead:
            if self._follows(delta):
                if delta.version > self._version:
                    self._advance(delta)
                continue
            if self._is_of_this_life(delta):
                self._rows.apply(delta)
            waiting.append(delta)
        self._ahead = waiting


def _rows_of(delta: Delta) -> Rows:
    rows = Rows()
    rows.apply(delta)
    return rows
