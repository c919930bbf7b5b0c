"""`state.db` as the place of users' memories: what Postgres does for the others, with the same answers."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Any

from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import Clock, utc_now
from hybrid_memory.memory.item_index import newest_first
from hybrid_memory.memory.places import Arrived
from hybrid_memory.models import MemoryNode, Swept
from hybrid_memory.postgres.housekeeping import MOST_ROWS, Chore, Reads
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.sqlite import local_users
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_rows import LocalRows


class LocalSource:
    """Reads users' rows in `state.db`."""

    def __init__(self, state: Database, stamps: HybridClock) -> None:
        self._state = state
        self._stamps = stamps

    async def everything(self, user_id: str, arrived: Arrived) -> Delta:
        """All rows of a user, of one moment."""
        delta = await self._state.read(lambda sql: self._delta(LocalRows(sql, user_id), None))
        rows = len(delta.nodes) + len(delta.relationships)
        arrived(rows, rows)
        return delta

    async def changes(self, user_id: str, incarnation: str | None, since: int, *, counting: bool) -> Delta | None:
        """What changed since a version of one incarnation; None when only a load can tell."""
        del counting  # nobody changes these rows by hand: they are sealed

        def query(sql: Statements) -> Delta | None:
            rows = LocalRows(sql, user_id)
            state = rows.state()
            if state is None:
                return Delta(incarnation=None, version=0, since=0) if since == 0 else None
            if state.version < since or state.incarnation != (incarnation if since else state.incarnation):
                return None
            if state.version == since:
                return Delta(incarnation=state.incarnation, version=since, since=since)
            return self._delta(rows, since)

        return await self._state.read(query)

    async def node(self, user_id: str, node_id: str) -> MemoryNode | None:
        """One memory, expired or not."""
        found = await self._state.read(lambda sql: LocalRows(sql, user_id).node(node_id))
        self._stamps.observe(found.node.written_at if found else None)
        return found.node if found else None

    def _delta(self, rows: LocalRows, since: int | None) -> Delta:
        """What came after a version, or all there is; what is written from now on is later than it."""
        state = rows.state()
        if state is None:
            return Delta(incarnation=None, version=0, complete=True)
        found = rows.since() if since is None else rows.since(since)
        nodes = [one.node for one in found.nodes]
        self._stamps.observe(*(node.written_at for node in nodes), *(at for at, _ in found.tombstones.values()))
        return Delta(
            incarnation=state.incarnation,
            version=state.version,
            nodes=nodes,
            relationships=[one.relationship for one in found.relationships],
            deleted=() if since is None else list(found.tombstones),
            complete=since is None,
            since=since,
        )


class LocalTidying:
    """Keeps `state.db` small. Every process does it: twice does no harm.

    Deletions are remembered for good: when the user moves to Postgres they win over what is there.
    """

    def __init__(self, state: Database, clock: Clock = utc_now) -> None:
        self._state = state
        self._clock = clock

    async def claim(self, chore: Chore, seconds: float) -> bool:
        """Whether there is anything to do for a chore."""
        del seconds
        return chore == "sweep"

    async def users_to_sweep(self, before: datetime | None, *, everybody: bool = True) -> AsyncIterator[str]:
        """Users with memories that have expired, or were not changed since `before`; all of them are at home here."""
        del everybody
        for user_id in await local_users.users_to_sweep(self._state, self._clock(), before):
            yield user_id

    async def users_to_trim(self, before: datetime) -> AsyncIterator[str]:
        """Nobody."""
        del before
        nobody: tuple[str, ...] = ()
        for user_id in nobody:
            yield user_id

    async def sweep(self, user_id: str, before: datetime | None, keep_tags: Sequence[str]) -> AsyncIterator[Swept]:
        """Remove in batches what has expired, and what was not changed since `before` and has none of the tags."""
        while True:
            now = self._clock()
            swept = await local_users.sweep(self._state, user_id, now, before, keep_tags, MOST_ROWS)
            if swept.removed:
                yield swept
            if swept.removed < MOST_ROWS:
                return

    async def trim(self, user_id: str, before: datetime) -> tuple[int, int]:
        """Nothing."""
        del user_id, before
        return 0, 0

    async def count_accesses(self, user_id: str, reads: Reads) -> None:
        """Add what was read; memories that are gone are passed over."""
        counted = zip(map(str, reads.nodes), zip(reads.reads, reads.last, strict=True), strict=True)
        await local_users.count_reads(self._state, user_id, dict(counted))

    async def forget_watermarks(self, users: Sequence[str], instance_id: str) -> None:
        """Remove what says how far an instance is that will write no more."""

        def job(sql: Statements) -> None:
            for user_id in users:
                LocalRows(sql, user_id).forget_mark(instance_id)

        await self._state.write(job)


class LocalCounting:
    """Figures about users in `state.db`, counted when asked for. There are no views over all of them."""

    def __init__(self, state: Database) -> None:
        self._state = state

    async def of_user(self, user_id: str, at: datetime) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What a user has at this moment, without what has expired at `at`: as a whole, and by type."""
        return await local_users.figures(self._state, user_id, at)

    async def refresh(self) -> bool:
        """False: there is nothing to refresh."""
        return False


class LocalItems:
    """Items of stores in `state.db`; see `StoredItems`. Whoever is loaded is asked in the process."""

    def __init__(self, state: Database, clock: Clock = utc_now) -> None:
        self._state = state
        self._clock = clock

    async def several(self, owner: str, node_ids: Collection[str]) -> list[MemoryNode]:
        """Items of an owner, expired or not."""

        def query(sql: Statements) -> list[MemoryNode]:
            rows = LocalRows(sql, owner)
            return [there.node for node_id in node_ids if (there := rows.node(node_id)) is not None]

        return await self._state.read(query)

    async def under(
        self, owner: str, prefix: Sequence[str], at: datetime, *, most: int | None = None
    ) -> Sequence[MemoryNode]:
        """The items of an owner whose namespace begins so, the newest change first; so many, or all."""
        nodes = (one.node for one in (await self._state.read(lambda sql: LocalRows(sql, owner).since())).nodes)
        alive = (node for node in nodes if node.expires_at is None or node.expires_at > at)
        begins = tuple(prefix)
        below = (node for node in alive if node.namespace is not None and node.namespace[: len(begins)] == begins)
        return newest_first(below)[:most]

    async def namespaces(self, owner: str, at: datetime) -> list[tuple[str, ...]]:
        """In which namespaces an owner has items."""
        return list({node.namespace for node in await self.under(owner, (), at) if node.namespace is not None})

    async def owners(self) -> AsyncIterator[str]:
        """Everybody who may have items."""
        for user_id in await local_users.everybody(self._state):
            yield user_id

    async def refresh(self, owner: str, node_ids: Collection[str]) -> int:
        """Put off the expiry of items that were read; the owner's version afterwards."""
        return await local_users.put_off_expiry(self._state, owner, node_ids, self._clock())
