"""Filling a user's graph: from the copy that was kept, from where the user is at home, and with what changed since."""

from typing import Literal

from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.homes import Homes
from hybrid_memory.memory.keeping import Keeper
from hybrid_memory.memory.loading import taken_in
from hybrid_memory.memory.places import Source
from hybrid_memory.memory.progress import Arrivals
from hybrid_memory.observability import Events


class Filling:
    """What brings graphs up to date, one call at a time for each. Copies are kept of what is in Postgres."""

    def __init__(self, homes: Homes, source: Source, keeper: Keeper | None, events: Events) -> None:
        self._homes = homes
        self._source = source
        self._keeper = keeper
        self._events = events

    async def begin(self, graph: UserGraph, arrivals: Arrivals) -> None:
        """Fill an empty graph."""
        with self._events.timed("user_memories_loaded", user_id=graph.user_id) as report:
            report["source"] = await self._filled(graph, arrivals)
            report |= {"nodes": graph.node_count, "relationships": graph.edge_count, "version": graph.version}

    async def compare(self, graph: UserGraph, arrivals: Arrivals, *, counting: bool) -> None:
        """Ask what changed since the graph's version, and load anew where that cannot be told."""
        delta = await self._source.changes(graph.user_id, graph.incarnation, graph.version, counting=counting)
        if delta is None or not await taken_in(graph, delta):
            await self._load_anew(graph, arrivals, graph.version)
        else:
            self.keep(graph, delta)

    def keep(self, graph: UserGraph, delta: Delta) -> None:
        """What a graph has taken without a gap is for the next process too."""
        keeper = self._keeper_of(graph)
        if keeper is not None:
            keeper.note(graph, delta)

    def start_anew(self) -> None:
        """The database was replaced: what is kept is of another one."""
        if self._keeper is not None:
            self._keeper.start_anew()

    async def _filled(self, graph: UserGraph, arrivals: Arrivals) -> Literal["cache", "postgres", "local"]:
        """Fill an empty graph: with the copy that was kept and what changed since, or with everything."""
        keeper = self._keeper_of(graph)
        kept = await keeper.copy_of(graph.user_id) if keeper else None
        if keeper is None or kept is None:
            await self._load(graph, arrivals)
            return "local" if self._homes.is_local(graph.user_id) else "postgres"
        copy = kept.delta
        try:
            delta = await self._source.changes(graph.user_id, copy.incarnation, copy.version, counting=True)
        except StorageUnavailable:
            await taken_in(graph, copy)
            graph.was_confirmed(kept.confirmed_at)
            raise
        if delta is None:
            await keeper.drop(graph.user_id)
            await self._load_anew(graph, arrivals, copy.version)
            return "postgres"
        rows = len(copy.nodes) + len(copy.relationships)
        arrivals.tell(rows, rows)
        await taken_in(graph, copy)
        await taken_in(graph, delta)
        keeper.note(graph, delta)
        return "cache"

    async def _load_anew(self, graph: UserGraph, arrivals: Arrivals, version: int) -> None:
        self._events.info("user_cache_invalidated", user_id=graph.user_id, version=version)
        await self._load(graph, arrivals)

    async def _load(self, graph: UserGraph, arrivals: Arrivals) -> None:
        if not self._homes.is_local(graph.user_id):
            self._events.info("loading_user_memories_from_postgres", user_id=graph.user_id)
        delta = await self._source.everything(graph.user_id, arrivals.tell)
        await taken_in(graph, delta)
        self.keep(graph, delta)

    def _keeper_of(self, graph: UserGraph) -> Keeper | None:
        return None if self._homes.is_local(graph.user_id) else self._keeper
