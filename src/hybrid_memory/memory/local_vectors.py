"""Users' vectors in `state.db`; see `postgres.embeddings.Embeddings`, whose answers these are."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from hybrid_memory.graph.view import is_stub
from hybrid_memory.models import MemoryNode
from hybrid_memory.postgres.embeddings import KeptVectors, Lacking, MadeForUser, NewVectors, Space, VectorRow
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_rows import LocalRows
from hybrid_memory.sqlite.local_users import everybody
from hybrid_memory.stamped import Changes, NodeVector


class LocalVectors:
    """The vectors of users who are at home here. How far each of them is, every process finds out for itself."""

    def __init__(self, state: Database) -> None:
        self._state = state
        self._done: dict[tuple[str, Space], tuple[str, int]] = {}

    async def keep(self, space: Space, several: Sequence[MadeForUser]) -> Mapping[str, KeptVectors]:
        """Keep vectors of memories that have not changed since, of each user once; who is gone is left out."""
        kept = await asyncio.gather(*(self._keep(space, user) for user in several))
        return {user.user_id: one for user, one in zip(several, kept, strict=True) if one is not None}

    async def lacking(
        self, user_id: str, space: Space, at: datetime, after: MemoryNode | None, most: int
    ) -> Lacking | None:
        """Memories without a vector: the first of those not known to have one, or the ones after another."""
        found = await self._lacking(user_id, space, at)
        if found is None:
            return None
        begin = (-1, "") if after is None else _place(after)
        return replace(found, nodes=[node for node in found.nodes if _place(node) > begin][:most])

    async def lacking_count(self, user_id: str, space: Space, at: datetime) -> int:
        """How many memories have no vector and may get one."""
        found = await self._lacking(user_id, space, at)
        return 0 if found is None else len(found.nodes)

    async def users_to_embed(self, space: Space, seconds: float) -> AsyncIterator[str]:
        """Users who may have memories without a vector; every process looks after the users here."""
        del space, seconds
        for user_id in await everybody(self._state):
            yield user_id

    async def spaces(self, user_id: str) -> dict[Space, int]:
        """Which vectors a user has, and how many of each kind."""
        vectors = (await self._state.read(lambda sql: LocalRows(sql, user_id).since())).vectors
        return dict(Counter(Space(one.model, len(one.values)) for one in vectors).most_common())

    async def news(
        self, user_id: str, models: Sequence[str], incarnation: str | None, since: int, *, timeout: float | None = None
    ) -> NewVectors:
        """What changed of the vectors of some models since a version of an incarnation; everything of another one."""

        def query(sql: Statements) -> NewVectors:
            rows = LocalRows(sql, user_id)
            state = rows.state()
            if state is None:
                return NewVectors(None, 0, [], frozenset(), complete=True)
            complete = state.incarnation != incarnation
            found = rows.since(-1 if complete else since)
            vectors, outdated = found.vectors, frozenset[str]()
            if not complete:
                changed = {one.node.node_id for one in found.nodes} | {one.node_id for one in vectors}
                vectors = [one for node_id in changed for one in rows.vectors_of(node_id)]
                outdated = frozenset(changed | found.tombstones.keys())
            return NewVectors(state.incarnation, state.version, list(_of(models, vectors)), outdated, complete=complete)

        return await self._state.read(query, timeout=timeout)

    async def _keep(self, space: Space, user: MadeForUser) -> KeptVectors | None:
        def job(sql: Statements) -> KeptVectors | None:
            rows = LocalRows(sql, user.user_id)
            state = rows.state()
            if state is None or state.incarnation != user.incarnation:
                return None
            vectors = []
            for one in user.made:
                there = rows.node(one.node.node_id)
                if there is not None and there.node.version == one.node.version:
                    values = one.values.tolist()
                    vectors.append(NodeVector(one.node.node_id, one.field, space.model, values, there.content_hash))
            version = state.version + bool(vectors)
            if vectors:
                rows.keep(Changes(vectors=vectors), version)
                rows.keep_state(replace(state, version=version, is_copy=False))
            return KeptVectors(state.incarnation, state.version, version, frozenset(one.node_id for one in vectors))

        kept = await (self._state.write(job) if user.made else self._state.read(job))
        if kept is not None and user.done is not None:
            incarnation, done = self._done.get((user.user_id, space), (kept.incarnation, 0))
            if incarnation != kept.incarnation:
                done = 0
            if done >= user.since:
                done = max(done, kept.version if user.done == kept.before else user.done)
                self._done[user.user_id, space] = (kept.incarnation, done)
        return kept

    async def _lacking(self, user_id: str, space: Space, at: datetime) -> Lacking | None:
        """All of them, those that changed first coming first; None when it is known that there are none."""
        incarnation, done = self._done.get((user_id, space), (None, -1))

        def query(sql: Statements) -> Lacking | None:
            rows = LocalRows(sql, user_id)
            state = rows.state()
            if state is None or (state.incarnation == incarnation and done >= state.version):
                return None
            found = rows.since(done if state.incarnation == incarnation else -1).nodes
            nodes = [
                one.node for one in found if _may_have_vectors(one.node, at) and not _has_one(rows, one.node, space)
            ]
            return Lacking(state.incarnation, state.version, sorted(nodes, key=_place))

        return await self._state.read(query)


def _place(node: MemoryNode) -> tuple[int, str]:
    return node.version or 0, node.node_id


def _may_have_vectors(node: MemoryNode, at: datetime) -> bool:
    return not is_stub(node) and (node.expires_at is None or node.expires_at > at)


def _has_one(rows: LocalRows, node: MemoryNode, space: Space) -> bool:
    vectors = rows.vectors_of(node.node_id)
    return any(one.model == space.model and len(one.values) == space.dimensions for one in vectors)


def _of(models: Sequence[str], vectors: Sequence[NodeVector]) -> Iterator[VectorRow]:
    for one in vectors:
        if one.model in models:
            yield VectorRow(one.node_id, one.field, one.model, np.asarray(one.values, dtype=np.float32))
