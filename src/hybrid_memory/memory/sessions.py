"""Users' graphs in this process: loaded when first asked for, kept fresh, and gone when others are used instead."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakValueDictionary

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.filling import Filling
from hybrid_memory.memory.homes import Homes
from hybrid_memory.memory.keeping import Keeper
from hybrid_memory.memory.places import Source
from hybrid_memory.memory.progress import Arrivals, Progress
from hybrid_memory.memory.showing import delta_of, shows, uncover
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Applied
from hybrid_memory.postgres.users import Version
from hybrid_memory.replication.pending import Pending
from hybrid_memory.replication.queue import Queue, Queued
from hybrid_memory.settings import Settings

_NEVER = float("-inf")
_SOON_SECONDS = 0.75
# Of users in `state.db`, whose other writers do not tell: asking costs a fraction of a millisecond.
_LOCAL_STALENESS_SECONDS = 0.25


@dataclass(slots=True)
class _Session:
    """One user's graph and its read face, when it was last compared with Postgres, and the comparison under way.

    Counting rows, which tells what was done by hand, takes longer the more there are: not after every own write.
    `databases` counts how often the database was found to be another one.
    """

    graph: UserGraph
    memory: UserMemory
    arrivals: Arrivals
    checked_at: float = _NEVER
    refreshing: "asyncio.Task[None] | None" = None
    counting: bool = False
    pending: Pending | None = None
    databases: int = 0


class Sessions:
    """The graphs of the users that were asked for last. Belongs to the manager's loop.

    A user who has left is here again as long as somebody holds his memory: nobody is to read one that stands still.
    """

    def __init__(
        self,
        homes: Homes,
        source: Source,
        keeper: Keeper | None,
        accesses: Accesses,
        queue: Queue | None,
        settings: Settings,
        events: Events,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._homes = homes
        self._filling = Filling(homes, source, keeper, events)
        self._accesses = accesses
        self._queue = queue
        self._settings = settings
        self._events = events
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._held: WeakValueDictionary[str, UserGraph] = WeakValueDictionary()
        self.on_entered: Callable[[str], None] = lambda _: None
        """Called when the memory of a user comes here."""

    async def opened(self, user_id: str, progress: Progress | None = None) -> UserMemory:
        """The user's memory, no older than the settings allow; callers that come together share one load.

        While Postgres does not answer, a memory that was loaded before, or a copy that was kept, or an empty memory is
        given, marked stale. What waits for Postgres is in it. It is completed when Postgres answers again.
        """
        session = self._session(user_id)
        if not self._is_fresh(session):
            with session.arrivals.heard_by(progress):
                await self._refreshed(session)
        return session.memory

    async def opened_soon(self, user_id: str) -> UserMemory:
        """`opened` within a moment, as far as it is here by then: for a write, which has a deadline of its own."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON_SECONDS):
                await self.opened(user_id)
        return self._session(user_id).memory

    async def current(self, user_id: str) -> UserMemory:
        """The user's memory with everything that was committed before this call, by whomever.

        Raises:
            StorageUnavailable: Postgres does not answer.
        """
        session = self._session(user_id)
        if session.refreshing is not None:
            # It may have begun before what has to be seen was committed.
            await asyncio.shield(session.refreshing)
        await self._refreshed(session, counting=False)
        if session.graph.stale:
            raise StorageUnavailable(f"Postgres cannot be asked what is new of {user_id!r}")
        return session.memory

    def awaiting(self) -> Iterable[str]:
        """Of whom something waits in the outbox, as far as this process knows."""
        return () if self._queue is None else self._queue.users

    def holds(self, user_id: str) -> bool:
        """Whether the user's memory is here, or on its way."""
        return user_id in self._sessions or user_id in self._held

    def incarnation_of(self, user_id: str) -> str | None:
        """Which incarnation of the user the memory that is here belongs to, if one is here."""
        session = self._sessions.get(user_id)
        return None if session is None else session.graph.incarnation

    async def show(self, applied: Applied) -> None:
        """Bring a loaded graph to what this process has written; one that is not loaded needs nothing."""
        session = self._known(applied.user_id)
        if session is None:
            return
        # It went to Postgres itself, so nothing waits there that is to come after it.
        if session.pending and applied.written is not None and applied.written.deleted:
            session.pending.forget(applied.written.deleted)
            session.graph.lay_over(session.pending.over)
        await self._bring_up(applied)

    async def _bring_up(self, applied: Applied) -> None:
        session = self._known(applied.user_id)
        if session is not None and session.graph.incarnation not in (None, applied.incarnation):
            # Another life of the user's memory, whose versions are other ones.
            await self._refreshed(session, counting=False)
        self._take_in(applied)
        await self.caught_up(applied.user_id, applied.version)

    async def caught_up(self, user_id: str, version: int) -> None:
        """Fetch what is missing in a loaded graph up to a version that this process knows to be committed."""
        session = self._known(user_id)
        # The first load or comparison may have begun before the write was committed; the second cannot have.
        for _ in range(2):
            if session is None or not (session.graph.loaded or session.refreshing) or session.graph.version >= version:
                return
            await self._refreshed(session, counting=False)

    def awaits_delivery(self, user_id: str) -> bool:
        """Whether something of the user waits in the outbox, as far as this process knows, and shows only here."""
        return self._queue is not None and self._queue.may_hold(user_id) and not self._homes.is_local(user_id)

    async def is_undelivered(self, user_id: str) -> bool:
        """Whether something of the user has yet to reach the place where his memory is."""
        if self._queue is None or await self._homes.settle(user_id):
            return False
        return await self._queue.still_holds(user_id)

    def lacks(self, user_id: str, node_ids: Iterable[str]) -> list[str]:
        """Which of these are surely not there; of a user of whom not everything is here, nothing is sure."""
        session = self._known(user_id)
        if session is None or not session.graph.loaded:
            return []
        view = session.graph.view()
        return sorted(node_id for node_id in node_ids if node_id not in view)

    def show_queued(self, queued: Queued) -> None:
        """Show what this process has put into the outbox."""
        session = self._known(queued.user_id)
        if session is not None and session.pending is not None:
            session.pending.add(queued.instance_id, queued.operations)
            session.graph.lay_over(session.pending.over)

    async def delivered(self, user_id: str, delivered: Sequence[tuple[str, Applied]]) -> None:
        """Operations of a user that waited have taken effect, those of each run up to its mark; one change to see."""
        for _, applied in delivered:
            self._take_in(applied)
        await self._bring_up(delivered[-1][1])
        session = self._known(user_id)
        # What could not be read back stays on top, until it can be.
        if session is not None and shows(session.graph, delivered):
            uncover(session.graph, session.pending, {run: applied.mark for run, applied in delivered})

    async def dropped(self, user_id: str) -> None:
        """Something that waited will not take effect, or others have sent it: what waits is read anew."""
        session = self._known(user_id)
        if session is not None:
            session.pending = None
            await self._recall(session)
            session.checked_at = _NEVER

    async def moved(self, user_id: str) -> None:
        """The user's memory is in Postgres from now on: shown from there, with what still waits on top."""
        session = self._known(user_id)
        if session is not None:
            session.pending = None
            session.checked_at = _NEVER
            await self._refreshed(session)

    async def settled(self) -> None:
        """Where another process has emptied the outbox of somebody whose memory is here, show what it sent."""
        for session in list(self._sessions.values()):
            if not session.pending or self._queue is None:
                continue
            # More may be put there from now on.
            user_id, waited = session.graph.user_id, session.pending.last_numbers()
            if await self._queue.has_emptied(user_id):
                # Until all of it is here, what waited stays on top.
                with suppress(StorageUnavailable):
                    await self.current(user_id)
                    uncover(session.graph, session.pending, waited)

    def recovered(self) -> None:
        """Postgres answers again: what was not loaded is completed, the rest is compared when it is opened."""
        for session in self._sessions.values():
            session.checked_at = _NEVER
        self.complete()

    def complete(self) -> None:
        """Load what could not be loaded when it was asked for."""
        for session in list(self._sessions.values()):
            if session.graph.stale and not session.graph.loaded and session.refreshing is None:
                self._start_refreshing(session, counting=True)

    @property
    def users(self) -> list[str]:
        """Whose memory is here."""
        return list(dict.fromkeys((*self._sessions, *self._held)))

    def versions(self) -> dict[str, Version]:
        """Where the memories stand that are here and of Postgres."""
        graphs = [*(session.graph for session in self._sessions.values()), *self._held.values()]
        there = (graph for graph in graphs if graph.loaded and not self._homes.is_local(graph.user_id))
        return {graph.user_id: (graph.incarnation, graph.version) for graph in there}

    def confirm(self, users: Iterable[str]) -> None:
        """Postgres was asked, and these memories were what it held."""
        for user_id in users:
            if (graph := self._graph(user_id)) is not None and graph.loaded:
                graph.confirm()

    def mark_stale(self) -> None:
        """Postgres does not answer: nobody can say what has changed."""
        for user_id in filter(self._is_of_postgres, self.users):
            if (graph := self._graph(user_id)) is not None:
                graph.mark_stale()

    def start_anew(self) -> list[str]:
        """The database was replaced: what is here is stale until it has been loaded from the one there is; whose."""
        self._filling.start_anew()
        users = list(filter(self._is_of_postgres, self.users))
        for user_id in users:
            session = self._session(user_id)
            self._events.info("user_cache_invalidated", user_id=user_id, version=session.graph.version)
            session.databases += 1
            session.checked_at = _NEVER
            session.graph.doubt()
        return users

    async def changed(self, user_id: str, version: int | None) -> None:
        """Another process has brought a user to a version; what is here follows, to whatever there is now if None.

        Raises:
            StorageUnavailable: it cannot follow now.
        """
        graph = self._graph(user_id)
        if graph is None:
            return
        if version is None:
            await self.current(user_id)
        else:
            await self.caught_up(user_id, version)
            if graph.version < version:
                raise StorageUnavailable(f"version {version} of {user_id!r} cannot be read now")

    def loaded(self, user_id: str) -> UserMemory | None:
        """The user's memory, if it is here and fresh."""
        session = self._known(user_id)
        return session.memory if session is not None and self._is_fresh(session) else None

    async def close(self) -> None:
        """End comparisons that are under way."""
        tasks = [session.refreshing for session in self._sessions.values() if session.refreshing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sessions.clear()

    def _take_in(self, applied: Applied) -> None:
        """Show what was written at once, whatever is missing before it."""
        session = self._known(applied.user_id)
        # Callers that shared a batch all come with the same.
        if session is not None and applied.written is not None and session.graph.version < applied.version:
            delta = delta_of(applied, applied.written)
            if session.graph.apply(delta):
                self._filling.keep(session.graph, delta)

    def _graph(self, user_id: str) -> UserGraph | None:
        session = self._sessions.get(user_id)
        return self._held.get(user_id) if session is None else session.graph

    def _is_of_postgres(self, user_id: str) -> bool:
        return not self._homes.is_local(user_id)

    def _is_fresh(self, session: _Session) -> bool:
        longest = self._settings.max_staleness_seconds
        if self._homes.is_local(session.graph.user_id):
            longest = min(longest, _LOCAL_STALENESS_SECONDS)
        return session.graph.loaded and self._clock() - session.checked_at < longest

    def _session(self, user_id: str) -> _Session:
        return self._known(user_id) or self._entered(UserGraph(user_id))

    def _known(self, user_id: str) -> _Session | None:
        session = self._sessions.get(user_id)
        if session is not None:
            self._sessions.move_to_end(user_id)
            return session
        graph = self._held.get(user_id)
        return None if graph is None else self._entered(graph)

    def _entered(self, graph: UserGraph) -> _Session:
        """A session for a graph; the least recently used ones make room."""
        memory = UserMemory(graph, self._accesses, self._settings.language)
        session = _Session(graph, memory, Arrivals(graph.user_id, self._events))
        self._sessions[graph.user_id] = session
        self.on_entered(graph.user_id)
        for other in list(self._sessions):
            if len(self._sessions) <= self._settings.max_loaded_users:
                break
            there = self._sessions[other]
            if other != graph.user_id and there.refreshing is None and not there.pending:
                self._held[other] = self._sessions.pop(other).graph
        return session

    async def _refreshed(self, session: _Session, *, counting: bool = True) -> None:
        # A caller that gives up does not end the load that others wait for.
        while counting and session.refreshing is not None and not session.counting:
            await asyncio.shield(session.refreshing)
        if session.refreshing is None:
            self._start_refreshing(session, counting=counting)
        if session.refreshing is not None:
            await asyncio.shield(session.refreshing)

    def _start_refreshing(self, session: _Session, *, counting: bool) -> None:
        session.counting = counting
        session.refreshing = asyncio.create_task(self._refresh(session, counting=counting))
        session.refreshing.add_done_callback(_heard)

    async def _recall(self, session: _Session) -> None:
        """What waits for Postgres is part of a user's memory, from whichever process it comes."""
        user_id = session.graph.user_id
        if self._queue is None or session.pending is not None or await self._homes.settle(user_id):
            return
        pending = session.pending = Pending(user_id)
        try:
            pending.begin_with(await self._queue.of_user(user_id) if self._queue.may_hold(user_id) else ())
        except StorageUnavailable:
            session.pending = None if session.pending is pending else session.pending
            raise
        session.graph.lay_over(session.pending.over if session.pending else None)

    async def _refresh(self, session: _Session, *, counting: bool) -> None:
        graph, started = session.graph, self._clock()
        try:
            await self._recall(session)
            databases = None
            while databases != session.databases:
                if databases is not None:
                    # What was read meanwhile was still of the one before.
                    graph.doubt()
                databases = session.databases
                if graph.loaded:
                    await self._filling.compare(graph, session.arrivals, counting=counting)
                else:
                    await self._filling.begin(graph, session.arrivals)
            if counting:
                session.checked_at = started
            graph.confirm()
        except StorageUnavailable as error:
            if self._homes.is_local(graph.user_id):
                raise
            graph.mark_stale()
            session.checked_at = started if graph.loaded else _NEVER
            self._events.warning("postgres_unavailable", user_id=graph.user_id, age=graph.age, error=str(error))
        finally:
            session.refreshing = None


def _heard(task: "asyncio.Task[None]") -> None:
    """Whoever still waits is told of an error by the task itself; nobody may be waiting any more."""
    if not task.cancelled():
        task.exception()
