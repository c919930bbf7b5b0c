"""Copies of users' memories from Postgres in `state.db`, for working without Postgres afterwards."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from functools import partial
from uuid import uuid4

from hybrid_memory.errors import ConfigurationError, StorageUnavailable
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.memory.homes import Homes
from hybrid_memory.memory.moving import Moving, Progress
from hybrid_memory.observability import Events
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.copies import Copies
from hybrid_memory.postgres.database import Transaction
from hybrid_memory.postgres.housekeeping import Upkeep
from hybrid_memory.postgres.users import Users, UserState
from hybrid_memory.replication.queue import Queue
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_arriving import add_to_copy, begin_copy, finish_copy
from hybrid_memory.sqlite.local_rows import LocalState
from hybrid_memory.stamped import Changes, StampedNode, StampedRelationship


class Fetching:
    """The copies that one manager makes. Belongs to its loop."""

    def __init__(
        self,
        state: Database,
        postgres: Access,
        *,
        homes: Homes,
        queue: Queue,
        moving: Moving,
        everybody: Upkeep | None,
        events: Events,
    ) -> None:
        self._state = state
        self._postgres = postgres
        self._homes = homes
        self._queue = queue
        self._moving = moving
        self._everybody = everybody
        self._events = events

    async def download(self, users: Iterable[str] | None, progress: Progress | None = None) -> int:
        """Copy the memories of users, of all by default; how many users.

        Raises:
            ConfigurationError: there is no Postgres to copy from.
            StorageUnavailable: Postgres does not answer, or writes still wait for it. Copies that are whole stay.
        """
        if self._everybody is None:
            raise ConfigurationError("there is no Postgres to copy from: MEMORY_TYPE=sqlite")
        count = 0
        async with self._moving.alone():
            async for user_id in _each(users) if users is not None else self._everybody.everybody():
                if await self._homes.settle(user_id):
                    continue
                if not await self._queue.has_emptied(user_id):
                    raise StorageUnavailable(f"writes of user {user_id!r} still wait for Postgres")
                await self._copy(user_id, progress)
                count += 1
        return count

    async def _copy(self, user_id: str, progress: Progress | None) -> None:
        await self._count_anew(user_id)
        await self._state.write(partial(begin_copy, user_id=user_id))
        with self._events.timed("user_memories_downloaded", user_id=user_id) as report:
            async with self._postgres.transaction([user_id], isolation="repeatable_read") as transaction:
                state = await Users(transaction, user_id).state()
                report["rows"] = 0 if state is None else await self._rows(transaction, user_id, state, progress)
            if state is not None:
                await self._state.write(partial(finish_copy, user_id=user_id, state=_copied(state)))

    async def _count_anew(self, user_id: str) -> None:
        """Give rows that somebody made by hand a version."""
        async with self._postgres.transaction([user_id]) as transaction:
            users = Users(transaction, user_id)
            state = await users.state()
            if await users.row_counts() != ((state.node_count, state.relationship_count) if state else (0, 0)):
                await users.touch()

    async def _rows(self, transaction: Transaction, user_id: str, state: UserState, progress: Progress | None) -> int:
        rows, expected = 0, state.node_count + state.relationship_count
        async for portion in _portions(Copies(transaction, user_id), state.version):
            await self._moving.lead()
            await self._state.write(partial(add_to_copy, user_id=user_id, portion=portion, version=state.version))
            rows += len(portion.nodes) + len(portion.relationships)
            if progress is not None:
                progress(user_id, rows, expected)
        return rows


async def _each(users: Iterable[str]) -> AsyncIterator[str]:
    for user_id in users:
        yield user_id


async def _portions(copies: Copies, version: int) -> AsyncIterator[Changes]:
    """All rows, none of a later version than the user's: rows that are older than that row may have one."""
    async for nodes in copies.nodes():
        yield Changes(nodes={one.node.node_id: _node_at_most(one, version) for one in nodes})
    async for edges in copies.relationships():
        yield Changes(relationships={one.key: _edge_at_most(one, version) for one in edges})
    async for tombstones in copies.tombstones():
        yield Changes(tombstones=tombstones)
    async for vectors in copies.vectors():
        yield Changes(vectors=vectors)


def _node_at_most(one: StampedNode, version: int) -> StampedNode:
    return replace(one, node=replace(one.node, version=min(one.node.version or 0, version)))


def _edge_at_most(one: StampedRelationship, version: int) -> StampedRelationship:
    return replace(one, relationship=replace(one.relationship, version=min(one.relationship.version or 0, version)))


def _copied(state: UserState) -> LocalState:
    return LocalState(
        incarnation=str(uuid4()),
        version=state.version,
        node_count=state.node_count,
        relationship_count=state.relationship_count,
        entity_count=state.entity_count,
        last_activity=utc_now(),
        delivered=state.version,
        is_copy=True,
    )
