"""What the graph of a user is missing, read from Postgres: everything, or the changes since its version."""

import asyncio
from collections.abc import Callable, Iterable

from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.continuity import Continuity
from hybrid_memory.postgres.echo import NOTHING_WRITTEN, Written
from hybrid_memory.postgres.news import Newsroom
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.relationships import Relationships
from hybrid_memory.postgres.users import Users, UserState
from hybrid_memory.replication.clock import HybridClock

# So many come at once in the time that a cursor takes.
_FEW_ROWS = 500

# The loop goes on while a larger one is taken in by a thread.
_LARGE = 2000

Arrived = Callable[[int, int], None]


async def taken_in(graph: UserGraph, delta: Delta) -> bool:
    """`UserGraph.apply` without holding up other tasks."""
    if len(delta.nodes) + len(delta.relationships) < _LARGE:
        return graph.apply(delta)
    return await asyncio.to_thread(graph.apply, delta)


class Loader:
    """Reads all rows of one moment: in one transaction of one user, or in one statement where they are few.

    `continuity` is shown which database they came from, and told when that is not as far as it was.
    """

    def __init__(self, database: Access, stamps: HybridClock, continuity: Continuity) -> None:
        self._database = database
        self._newsroom = Newsroom(database)
        self._stamps = stamps
        self._continuity = continuity

    async def close(self) -> None:
        """Wait for no news any more."""
        await self._newsroom.close()

    async def everything(self, user_id: str, arrived: Arrived) -> Delta:
        """All rows. Rows that somebody changed by hand are counted anew, and every cache is told."""
        delta, by_hand = await self._all_rows(user_id, arrived)
        if by_hand:
            async with self._database.transaction([user_id]) as transaction:
                await Users(transaction, user_id).touch()
            delta, _ = await self._all_rows(user_id, arrived)
        return delta

    async def changes(self, user_id: str, incarnation: str | None, since: int, *, counting: bool) -> Delta | None:
        """What changed since a version of one incarnation; None when only a load can tell."""
        news = None if counting else await self._newsroom.since(user_id, since)
        if news is not None:
            leads = self._leads(news.state, incarnation, since)
            return self._delta(news.state, news.changes, since) if leads else None
        async with self._database.transaction([user_id], isolation="repeatable_read") as transaction:
            users = Users(transaction, user_id)
            if counting:
                await self._continuity.check(lambda: transaction.fetchrow("deployment.standing"))
            state = await users.state(since)
            expected = (state.node_count, state.relationship_count) if state else (0, 0)
            if counting and await users.row_counts() != expected:
                return None
            if not self._leads(state, incarnation, since):
                return None
            if state is None or state.version == since:
                changes = NOTHING_WRITTEN
            else:
                changes = Written(
                    await Nodes(transaction, user_id).changed_since(since),
                    await Relationships(transaction, user_id).changed_since(since),
                    frozenset(await users.deleted_since(since) if state.last_deletion else ()),
                )
        return self._delta(state, changes, since)

    async def node(self, user_id: str, node_id: str) -> MemoryNode | None:
        """One memory, expired or not."""
        async with self._database.transaction([user_id]) as transaction:
            node = await Nodes(transaction, user_id).get(node_id)
        self._stamps.observe(node.written_at if node else None)
        return node

    async def knows(self, user_id: str) -> bool:
        """Whether the user has ever written."""
        async with self._database.transaction([user_id]) as transaction:
            return await Users(transaction, user_id).state() is not None

    async def _all_rows(self, user_id: str, arrived: Arrived) -> tuple[Delta, bool]:
        """All rows, and whether they were changed by hand: other counts than the counters say."""
        nodes: list[MemoryNode] = []
        edges: list[Relationship] = []
        async with self._database.transaction([user_id], isolation="repeatable_read") as transaction:
            state = await Users(transaction, user_id).state()
            expected = (state.node_count, state.relationship_count) if state else (0, 0)
            total = sum(expected)
            if total <= _FEW_ROWS:
                nodes = await Nodes(transaction, user_id).changed_since()
                edges = await Relationships(transaction, user_id).changed_since()
                arrived(len(nodes) + len(edges), total)
            else:
                async for more_nodes in Nodes(transaction, user_id).arriving():
                    nodes += more_nodes
                    arrived(len(nodes), total)
                async for more_edges in Relationships(transaction, user_id).arriving():
                    edges += more_edges
                    arrived(len(nodes) + len(edges), total)
        self._observe(state, nodes)
        delta = Delta(
            incarnation=state.incarnation if state else None,
            version=state.version if state else 0,
            nodes=nodes,
            relationships=edges,
            complete=True,
        )
        return delta, (len(nodes), len(edges)) != expected

    def _leads(self, state: UserState | None, incarnation: str | None, since: int) -> bool:
        """Whether what changed after a version is all that is missing in a cache of that version."""
        if state is None:
            return since == 0
        if state.incarnation != incarnation:
            return False
        if state.version < since:
            self._continuity.broken("a user's version is behind one that was seen")
        return state.tombstone_floor <= since <= state.version

    def _delta(self, state: UserState | None, changes: Written, since: int) -> Delta:
        if state is None:
            return Delta(incarnation=None, version=0, since=0)
        self._observe(state, changes.nodes)
        return Delta(
            incarnation=state.incarnation,
            version=state.version,
            nodes=changes.nodes,
            relationships=changes.relationships,
            deleted=changes.deleted,
            since=since,
        )

    def _observe(self, state: UserState | None, nodes: Iterable[MemoryNode]) -> None:
        """What is written from now on is later than what was read."""
        self._stamps.observe(state.last_deletion if state else None, *(node.written_at for node in nodes))
