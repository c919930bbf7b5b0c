"""The users whose memories are in `state.db`, and what is counted and cleaned up there without Postgres."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hybrid_memory.items import refresh_is_due, refreshed
from hybrid_memory.models import MemoryNode, Swept
from hybrid_memory.sqlite.connection import Row, Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.local_rows import LocalRows, LocalState
from hybrid_memory.sqlite.queued import microseconds, moment
from hybrid_memory.stamped import Changes

_FIGURES = ("context_type", "node_count", "importance", "accesses", "earliest", "latest")
_ENTITY = "domain_entity"


async def everybody(state: Database) -> dict[str, bool]:
    """All users who have rows here, and whether those are a mere copy of what Postgres has."""
    return {user: bool(is_copy) for user, is_copy in await state.read(lambda sql: sql.rows("local_users.everybody"))}


async def count_reads(database: Database, user_id: str, reads: Mapping[str, tuple[int, datetime]]) -> None:
    """Add what was read of a user; memories that are gone are passed over."""

    def job(sql: Statements) -> None:
        rows = LocalRows(sql, user_id)
        known = {node_id: rows.node(node_id) for node_id in reads}
        changed = {
            node_id: replace(there, node=_read(there.node, *reads[node_id]))
            for node_id, there in known.items()
            if there is not None
        }
        rows.keep(Changes(nodes=changed), 0)
        state = rows.state()
        if state is not None and state.is_copy:
            rows.keep_state(replace(state, is_copy=False))

    await database.write(job)


async def users_to_sweep(state: Database, now: datetime, before: datetime | None) -> list[str]:
    """Users with memories that have expired at `now`, or were not changed since `before`."""
    bound = {"now": microseconds(now), "before": None if before is None else microseconds(before)}
    return [user for (user,) in await state.read(lambda sql: sql.rows("local_nodes.users_to_sweep", **bound))]


async def sweep(  # noqa: PLR0913, PLR0917 - the conditions of one removal
    state: Database, user_id: str, now: datetime, before: datetime | None, keep_tags: Sequence[str], most: int
) -> Swept:
    """Remove, at most so many, what has expired, and what was not changed since `before` and has none of the tags."""
    bound = {"now": microseconds(now), "before": None if before is None else microseconds(before)}
    kept_tags = frozenset(keep_tags)

    def job(sql: Statements) -> Swept:
        rows = LocalRows(sql, user_id)
        known = rows.state()
        if known is None:
            return Swept(0, 0, 0, 0, 0)
        found = (_Candidate(*row) for row in sql.rows("local_nodes.to_sweep", user_id=user_id, **bound))
        going = [one for one in found if one.has_expired or not _stays(one, rows, kept_tags)][:most]
        return _removed(rows, known, going) if going else Swept(known.version, 0, 0, 0, 0)

    return await state.write(job)


async def put_off_expiry(state: Database, owner: str, node_ids: Collection[str], now: datetime) -> int:
    """Items of a store were read: those that expire after a time without being read have it before them again."""

    def job(sql: Statements) -> int:
        rows = LocalRows(sql, owner)
        known = rows.state()
        if known is None:
            return 0
        there = {node_id: rows.node(node_id) for node_id in node_ids}
        version = known.version + 1
        changed = {
            node_id: replace(one, node=refreshed(one.node, now, version))
            for node_id, one in there.items()
            if one is not None and refresh_is_due(one.node, now)
        }
        if not changed:
            return known.version
        rows.keep(Changes(nodes=changed), version)
        rows.keep_state(replace(known, version=version, is_copy=False))
        return version

    return await state.write(job)


async def figures(state: Database, user_id: str, at: datetime) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a user has at this moment, without what has expired: as a whole, and by type."""
    bound = {"user_id": user_id, "now": microseconds(at)}

    def query(sql: Statements) -> tuple[LocalState | None, int, list[Row]]:
        return (
            LocalRows(sql, user_id).state(),
            sql.value("local_relationships.count", **bound),
            sql.rows("local_nodes.by_type", **bound),
        )

    known, relationships, by_type = await state.read(query)
    whole = {"version": known.version if known else 0, "relationship_count": relationships, "views_age": None}
    rows = [dict(zip(_FIGURES, row, strict=True)) for row in by_type]
    return whole, [row | {name: moment(row[name]) for name in ("earliest", "latest")} for row in rows]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A memory that may be too old."""

    node_id: str
    context_type: str
    tags: str
    metadata: str
    written_at: int
    written_by: str
    has_expired: int

    @property
    def is_stub(self) -> bool:
        return self.context_type == _ENTITY and json.loads(self.metadata).get("stub") is True


def _read(node: MemoryNode, reads: int, last: datetime) -> MemoryNode:
    latest = last if node.last_accessed_at is None else max(last, node.last_accessed_at)
    return replace(node, access_count=node.access_count + reads, last_accessed_at=latest)


def _stays(one: _Candidate, rows: LocalRows, keep_tags: frozenset[str]) -> bool:
    """Whether an old memory stays for one of its tags; a stub stays while anything is related to it."""
    tagged = any(tag in keep_tags or tag.lower() in keep_tags for tag in json.loads(one.tags))
    return tagged or (one.is_stub and bool(rows.relationships_of(one.node_id)))


def _removed(rows: LocalRows, known: LocalState, going: Sequence[_Candidate]) -> Swept:
    """Remove memories with their relationships. The deletion has the stamp of what it removes: see `sweep_user`."""
    parted = {joined.key for one in going for joined in rows.relationships_of(one.node_id)}
    changes = Changes(
        deleted=frozenset(one.node_id for one in going),
        parted=parted,
        tombstones={one.node_id: (moment(one.written_at), one.written_by) for one in going},
    )
    version = known.version + 1
    rows.keep(changes, version)
    rows.keep_state(
        replace(
            known,
            version=version,
            is_copy=False,
            node_count=known.node_count - len(going),
            relationship_count=known.relationship_count - len(parted),
            entity_count=known.entity_count - sum(one.context_type == _ENTITY for one in going),
        )
    )
    expired = sum(map(bool, (one.has_expired for one in going)))
    stubs = sum(one.is_stub and not one.has_expired for one in going)
    return Swept(version, len(going), expired, len(going) - expired - stubs, len(parted))
