"""Users' graphs in this process: loaded when first asked for, kept fresh, and gone when others are used instead."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import MemoryNode
from hybrid_memory.observability import Events
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.batches import Applied, Written
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.relationships import Relationships
from hybrid_memory.postgres.users import Users, UserState
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.settings import Settings

_NEVER = float("-inf")


@dataclass(slots=True)
class _Session:
    """One user's graph and its read face, when it was last compared with Postgres, and the comparison under way.

    Counting rows, which tells what was done by hand, takes longer the more there are: not after every own write.
    """

    graph: UserGraph
    memory: UserMemory
    checked_at: float = _NEVER
    refreshing: "asyncio.Task[None] | None" = None
    counting: bool = False


class Sessions:
    """The graphs of the users that were asked for last. Belongs to the manager's loop."""

    def __init__(
        self,
        database: Access,
        stamps: HybridClock,
        accesses: Accesses,
        settings: Settings,
        events: Events,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._stamps = stamps
        self._accesses = accesses
        self._settings = settings
        self._events = events
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    async def opened(self, user_id: str) -> UserMemory:
        """The user's memory, no older than the settings allow; callers that come together share one load.

        While Postgres does not answer, a memory that was loaded before is given as it is, marked stale.

        Raises:
            StorageUnavailable: Postgres does not answer and the user was not loaded before.
        """
        session = self._session(user_id)
        if self._clock() - session.checked_at >= self._settings.max_staleness_seconds or not session.graph.loaded:
            await self._refreshed(session)
        return session.memory

    def holds(self, user_id: str) -> bool:
        """Whether the user's memory is here, or on its way."""
        return user_id in self._sessions

    async def show(self, applied: Applied) -> None:
        """Bring a loaded graph to what this process has written; one that is not loaded needs nothing."""
        session = self._sessions.get(applied.user_id)
        if session is not None and applied.written is not None:
            session.graph.apply(_delta_of(applied, applied.written))
        await self.caught_up(applied.user_id, applied.version)

    async def caught_up(self, user_id: str, version: int) -> None:
        """Fetch what is missing in a loaded graph up to a version that this process knows to be committed."""
        session = self._sessions.get(user_id)
        # The first comparison may have begun before the write was committed; the second cannot have.
        for _ in range(2):
            if session is None or not session.graph.loaded or session.graph.version >= version:
                return
            await self._refreshed(session, counting=False)

    def loaded(self, user_id: str) -> UserMemory | None:
        """The user's memory, if it is here and fresh."""
        session = self._sessions.get(user_id)
        if session is None or not session.graph.loaded:
            return None
        fresh = self._clock() - session.checked_at < self._settings.max_staleness_seconds
        return session.memory if fresh else None

    async def close(self) -> None:
        """End comparisons that are under way."""
        tasks = [session.refreshing for session in self._sessions.values() if session.refreshing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sessions.clear()

    def _session(self, user_id: str) -> _Session:
        session = self._sessions.get(user_id)
        if session is None:
            graph = UserGraph(user_id)
            session = self._sessions[user_id] = _Session(graph, UserMemory(graph, self._accesses))
        self._sessions.move_to_end(user_id)
        for other in list(self._sessions):
            if len(self._sessions) <= self._settings.max_loaded_users:
                break
            if other != user_id and self._sessions[other].refreshing is None:
                del self._sessions[other]
        return session

    async def _refreshed(self, session: _Session, *, counting: bool = True) -> None:
        # A caller that gives up does not end the load that others wait for.
        while counting and session.refreshing is not None and not session.counting:
            await asyncio.shield(session.refreshing)
        if session.refreshing is None:
            session.counting = counting
            session.refreshing = asyncio.create_task(self._refresh(session, counting=counting))
            session.refreshing.add_done_callback(_heard)
        await asyncio.shield(session.refreshing)

    async def _refresh(self, session: _Session, *, counting: bool) -> None:
        graph, started = session.graph, self._clock()
        try:
            if graph.loaded:
                await self._compare(graph, counting=counting)
            else:
                self._events.info("loading_user_memories_from_postgres", user_id=graph.user_id)
                with self._events.timed("user_memories_loaded", user_id=graph.user_id) as report:
                    await self._load(graph)
                    report |= {"nodes": graph.node_count, "relationships": graph.edge_count, "version": graph.version}
            if counting:
                session.checked_at = started
            graph.confirm()
        except StorageUnavailable as error:
            graph.mark_stale()
            if not graph.loaded:
                raise
            session.checked_at = started
            self._events.warning("postgres_unavailable", user_id=graph.user_id, error=str(error))
        finally:
            session.refreshing = None

    async def _compare(self, graph: UserGraph, *, counting: bool) -> None:
        """Ask what changed since the graph's version, and load anew where that cannot be told."""
        delta = await self._changes(graph, counting=counting)
        if delta is None or not graph.apply(delta):
            self._events.info("user_cache_invalidated", user_id=graph.user_id, version=graph.version)
            await self._load(graph)

    async def _load(self, graph: UserGraph) -> None:
        delta, by_hand = await self._everything(graph.user_id)
        if by_hand:
            async with self._database.transaction([graph.user_id]) as transaction:
                await Users(transaction, graph.user_id).touch()
            delta, _ = await self._everything(graph.user_id)
        graph.apply(delta)

    async def _everything(self, user_id: str) -> tuple[Delta, bool]:
        """All rows of one moment, and whether they were changed by hand: other counts than the counters say."""
        async with self._database.transaction([user_id], isolation="repeatable_read") as transaction:
            state = await Users(transaction, user_id).state()
            nodes = await Nodes(transaction, user_id).changed_since()
            edges = await Relationships(transaction, user_id).changed_since()
        self._observe(state, nodes)
        expected = (state.node_count, state.relationship_count) if state else (0, 0)
        delta = Delta(
            incarnation=state.incarnation if state else None,
            version=state.version if state else 0,
            nodes=nodes,
            relationships=edges,
            complete=True,
        )
        return delta, (len(nodes), len(edges)) != expected

    async def _changes(self, graph: UserGraph, *, counting: bool) -> Delta | None:
        """What changed since the graph's version; None when only a load can tell."""
        user_id, since = graph.user_id, graph.version
        async with self._database.transaction([user_id], isolation="repeatable_read") as transaction:
            users = Users(transaction, user_id)
            state = await users.state(since)
            expected = (state.node_count, state.relationship_count) if state else (0, 0)
            if counting and await users.row_counts() != expected:
                return None
            if state is None:
                return Delta(incarnation=None, version=0, since=0) if since == 0 else None
            if state.incarnation != graph.incarnation or not state.tombstone_floor <= since <= state.version:
                return None
            if state.version == since:
                return Delta(incarnation=state.incarnation, version=since, since=since)
            nodes = await Nodes(transaction, user_id).changed_since(since)
            edges = await Relationships(transaction, user_id).changed_since(since)
            deleted = await users.deleted_since(since) if state.last_deletion else []
        self._observe(state, nodes)
        return Delta(
            incarnation=state.incarnation,
            version=state.version,
            nodes=nodes,
            relationships=edges,
            deleted=deleted,
            since=since,
        )

    def _observe(self, state: UserState | None, nodes: Iterable[MemoryNode]) -> None:
        """What is written from now on is later than what was read."""
        self._stamps.observe(state.last_deletion if state else None, *(node.written_at for node in nodes))


def _delta_of(applied: Applied, written: Written) -> Delta:
    return Delta(
        incarnation=applied.incarnation,
        version=applied.version,
        nodes=written.nodes,
        relationships=written.relationships,
        deleted=written.deleted,
        since=applied.version - 1,
    )


def _heard(task: "asyncio.Task[None]") -> None:
    """Whoever still waits is told of an error by the task itself; nobody may be waiting any more."""
    if not task.cancelled():
        task.exception()
