"""A batch applied by this process: the same rows, answers and refusals as `memory.apply_user_batch` in Postgres gives.

Pure: what is known is asked for, what comes out is a value, and the time is an argument. It is how waiting operations
are shown before Postgres has them, and how a user's memory lives where there is no Postgres. The order is that of the
function: memories, entities, relationships, vectors, counts, deletions; operations that were applied before are
left out by the caller.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, get_args

from hybrid_memory.errors import StorageRejected
from hybrid_memory.items import item_version
from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.postgres.batches import ANOTHER_VERSION, IF_VERSION, Kind, Operation
from hybrid_memory.postgres.echo import Written
from hybrid_memory.replication.checks import complaint_about
from hybrid_memory.replication.known import ENTITY, Known, Overlay
from hybrid_memory.replication.merging import (
    clock_of,
    clocks_of,
    counted,
    is_stub,
    merged_entity,
    reported_content,
)
from hybrid_memory.stamped import Changes, NodeVector, Stamp, StampedNode, StampedRelationship

# A client's clock may run ahead, but not so far that nobody could ever overwrite what it wrote.
_FARTHEST_AHEAD = timedelta(seconds=60)
_ENDS = ("from_node_id", "to_node_id")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operation that can never be applied; the state is the one that Postgres gives for it."""

    n: int
    sqlstate: str
    reason: str

    def error(self, user_id: str) -> StorageRejected:
        """The error that a caller of Postgres gets."""
        error = StorageRejected(self.reason, sqlstate=self.sqlstate)
        error.operation = (user_id, self.n)
        return error


@dataclass(frozen=True, slots=True)
class LocallyApplied:
    """What becomes of a batch.

    `written` and `same` are what Postgres answers. Where it would refuse the whole batch, `refused` says why, in its
    order, and the rest is what the batch does without those operations.
    """

    written: Written
    same: Mapping[str, str]
    refused: Sequence[Refusal]
    changes: Changes


def applied_locally(
    user_id: str, known: Known, operations: Sequence[Operation], *, now: datetime, version: int | None
) -> LocallyApplied:
    """Apply one user's batch to what is known.

    Args:
        user_id: whose rows these are.
        known: the rows before the batch.
        operations: what `Batches.apply` would send, without what was applied before.
        now: the time of applying.
        version: of the rows that are written; None while Postgres has yet to give one.
    """
    return _Batch(user_id, known, now, version).applied(operations)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """An operation that was read."""

    n: int
    row: Mapping[str, Any]
    stamp: Stamp


class _Batch:
    def __init__(self, user_id: str, known: Known, now: datetime, version: int | None) -> None:
        self._user_id = user_id
        self._known = known
        self._now = now
        self._version = version
        self._rows = Overlay(known)
        self._written: dict[str, None] = {}
        self._same: dict[str, str] = {}
        self._refused: list[Refusal] = []
        self._outdated: set[str] = set()
        self._counts = {"node_count": 0, "relationship_count": 0, "entity_count": 0}

    def applied(self, operations: Sequence[Operation]) -> LocallyApplied:
        kinds: dict[Kind, list[_Fresh]] = {kind: [] for kind in get_args(Kind)}
        fit = [one for one in sorted(operations, key=lambda one: one.n) if self._is_fit(one)]
        for operation in fit:
            kinds[operation.kind].append(_Fresh(operation.n, operation.row, self._stamp(operation.row)))
        self._put_all(kinds["nodes"])
        for one in kinds["entities"]:
            self._merge(one)
        for one in kinds["edges"]:
            self._join(one)
        vectors = tuple(self._vectors(fit))
        for one in kinds["counts"]:
            self._count(one)
        for one in kinds["deletes"]:
            self._delete(one)
        return self._outcome(vectors)

    def _is_fit(self, operation: Operation) -> bool:
        complaint = complaint_about(operation)
        if complaint is not None:
            self._refused.append(Refusal(operation.n, *complaint))
        return complaint is None

    def _stamp(self, row: Mapping[str, Any]) -> Stamp:
        return min(_moment(row["written_at"]), self._now + _FARTHEST_AHEAD), row["written_by"]

    def _put_all(self, operations: Sequence[_Fresh]) -> None:
        puts = [one for one in operations if not self._is_misplaced(one) and not self._meets_another_version(one)]
        self._same = {one.row["node_id"]: twin for one in puts if (twin := self._twin(one.row)) is not None}
        twins = {self._same[one.row["node_id"]]: one.row for one in puts if one.row["node_id"] in self._same}
        for node_id, row in twins.items():
            self._access(node_id, row["content_hash"])
        alive = [one for one in puts if one.row["node_id"] not in self._same and not self._is_dead(one)]
        for one, seq in self._placed(alive):
            self._put(one, seq)

    def _is_misplaced(self, operation: _Fresh) -> bool:
        """Whether it puts something over an entity, which is refused whoever wrote later."""
        there = self._known.node(operation.row["node_id"])
        misplaced = there is not None and there.node.context_type == ENTITY
        if misplaced:
            self._refuse(operation, "22023", "an entity is merged, not put")
        return misplaced

    def _meets_another_version(self, operation: _Fresh) -> bool:
        """Whether it depends on a version that is not there, or would lose against what is."""
        expected = operation.row.get(IF_VERSION)
        if expected is None:
            return False
        there = self._known.node(operation.row["node_id"])
        expired = there is not None and there.node.expires_at is not None and there.node.expires_at <= self._now
        version = 0 if there is None or expired else item_version(there.node)
        late = self._is_dead(operation) or (there is not None and there.stamp >= operation.stamp)
        if version != expected or late:
            self._refuse(operation, ANOTHER_VERSION, "another version is there")
        return version != expected or late

    def _twin(self, row: Mapping[str, Any]) -> str | None:
        """The memory with the same content that is there already, if this one is to be stored only once."""
        if not row.get("only_once") or row.get("content_hash") is None:
            return None
        alike = (one.node for one in self._known.alike(row))
        return min(
            (
                node.node_id
                for node in alike
                if node.context_type == row["context_type"]
                and node.node_id != row["node_id"]
                and (node.expires_at is None or node.expires_at > self._now)
            ),
            default=None,
        )

    def _access(self, node_id: str, content_hash: str) -> None:
        there = self._known.node(node_id)
        if there is not None:
            node = replace(there.node, access_count=there.node.access_count + 1, last_accessed_at=self._now)
            # A graph does not know the hash; it is that of the twin.
            self._rows.put(StampedNode(node, content_hash, there.clocks))

    def _is_dead(self, operation: _Fresh) -> bool:
        """Whether the memory was deleted after this was written."""
        return self._is_buried(operation.row["node_id"], operation.stamp)

    def _is_buried(self, node_id: str, stamp: Stamp) -> bool:
        tombstone = self._known.tombstone(node_id)
        return tombstone is not None and tombstone >= stamp

    def _placed(self, operations: Iterable[_Fresh]) -> Iterator[tuple[_Fresh, int | None]]:
        """The operations with the places of their memories in their threads, should they be new there."""
        places: dict[str, int] = {}
        for one in operations:
            thread_id = one.row.get("thread_id")
            if thread_id is None:
                yield one, None
                continue
            place = places.get(thread_id, self._known.last_seq(thread_id)) + 1
            places[thread_id] = place
            given = one.row.get("seq")
            yield one, place if given is None else given

    def _put(self, operation: _Fresh, seq: int | None) -> None:
        row = operation.row
        there = self._rows.node(row["node_id"])
        if there is not None and there.stamp >= operation.stamp:
            return
        if row["context_type"] == ENTITY:
            self._refuse(operation, "22023", "an entity is merged, not put")
            return
        put = StampedNode(
            replace(
                self._new(operation),
                context_type=row["context_type"],
                content=row["content"],
                content_kind=row["content_kind"],
                external_id=row.get("external_id"),
                thread_id=row.get("thread_id"),
                seq=seq,
                namespace=None if row.get("namespace") is None else tuple(row["namespace"]),
                key=row.get("key"),
            ),
            row.get("content_hash"),
        )
        if there is None:
            self._counts["node_count"] += 1
        else:
            old = there.node
            node = replace(
                put.node,
                seq=old.seq if old.thread_id == put.node.thread_id else seq,
                created_at=old.created_at,
                last_accessed_at=old.last_accessed_at,
                access_count=old.access_count,
            )
            put = replace(put, node=node)
            self._outdated.add(old.node_id)
        self._write(put)

    def _merge(self, operation: _Fresh) -> None:
        row = operation.row
        if self._is_dead(operation):
            return
        identity = (row["content"].get("entity_system"), row["content"].get("entity_id"))
        if None in identity:
            self._refuse(operation, "23514", "an entity without its identity")
            return
        there = self._rows.entity(identity)
        if (there is None or there.node.node_id != row["node_id"]) and self._rows.node(row["node_id"]) is not None:
            self._refuse(operation, "23505", "the id of this entity is that of another memory")
            return
        if there is not None and there.node.node_id != row["node_id"]:
            there = self._renamed(there, operation)
        report = self._report(operation)
        if there is None:
            self._counts["node_count"] += 1
            self._counts["entity_count"] += 1
            self._write(report)
        elif not is_stub(row["metadata"]):
            self._outdated.add(there.node.node_id)
            self._write(merged_entity(there, report))

    def _report(self, operation: _Fresh) -> StampedNode:
        """What an operation says of an entity. A stub says nothing, and has no clock: whatever is known wins."""
        row = operation.row
        node = self._new(operation)
        if is_stub(row["metadata"]):
            return StampedNode(replace(node, content=row["content"]))
        clocks = clocks_of(row["content"], row["metadata"], clock_of(operation.stamp))
        return StampedNode(replace(node, content=reported_content(row["content"], node.confidence)), None, clocks)

    def _renamed(self, there: StampedNode, operation: _Fresh) -> StampedNode:
        """An entity that somebody inserted by hand, under the id that is derived from its identity."""
        given, derived = there.node.node_id, operation.row["node_id"]
        joined = {one.key: one for one in self._rows.relationships_of(given)}.values()
        renamed = replace(there, node=replace(there.node, node_id=derived, version=self._version))
        self._rows.delete(given)
        self._rows.tombstones[given] = (self._now, operation.stamp[1])
        self._write(renamed)
        for one in joined:
            start, end = (derived if node_id == given else node_id for node_id in one.key[:2])
            relationship = replace(one.relationship, from_node_id=start, to_node_id=end, version=self._version)
            self._rows.join(replace(one, relationship=relationship))
        return renamed

    def _new(self, operation: _Fresh) -> MemoryNode:
        """What a memory and an entity have in common when they are new."""
        row, (written_at, written_by) = operation.row, operation.stamp
        return MemoryNode(
            user_id=self._user_id,
            node_id=row["node_id"],
            context_type=ENTITY,
            content=None,
            summary=row["summary"],
            tags=tuple(row["tags"]),
            metadata=row["metadata"],
            importance=float(row["importance"]),
            confidence=float(row["confidence"]),
            version=self._version,
            written_at=written_at,
            written_by=written_by,
            created_at=_optional_moment(row.get("created_at")) or self._now,
            updated_at=_optional_moment(row.get("updated_at")) or self._now,
            last_accessed_at=_optional_moment(row.get("last_accessed_at")) or self._now,
            expires_at=_optional_moment(row.get("expires_at")),
        )

    def _join(self, operation: _Fresh) -> None:
        row = operation.row
        start, end = (self._same.get(row[side], row[side]) for side in _ENDS)
        missing = [node_id for node_id in (start, end) if self._rows.node(node_id) is None]
        if any(self._is_buried(node_id, operation.stamp) for node_id in missing):
            return
        if missing:
            self._refuse(operation, "23503", "an end of the relationship is missing")
            return
        there = self._rows.relationship((start, end, row["relationship_type"]))
        if there is not None and there.stamp >= operation.stamp:
            return
        self._counts["relationship_count"] += there is None
        relationship = Relationship(
            user_id=self._user_id,
            from_node_id=start,
            to_node_id=end,
            relationship_type=row["relationship_type"],
            strength=float(row["strength"]),
            metadata=row["metadata"],
            version=self._version,
            created_at=(_optional_moment(row.get("created_at")) or self._now)
            if there is None
            else there.relationship.created_at,
            updated_at=_optional_moment(row.get("updated_at")) or self._now,
        )
        self._rows.join(StampedRelationship(relationship, operation.stamp))

    def _vectors(self, operations: Iterable[Operation]) -> Iterator[NodeVector]:
        """The vectors of this batch, but not where another text has won."""
        for operation in operations:
            for one in operation.embeddings:
                there = self._rows.node(operation.row["node_id"])
                if there is not None and there.content_hash == one.content_hash:
                    yield NodeVector(there.node.node_id, one.field, one.model, list(one.values), one.content_hash)

    def _count(self, operation: _Fresh) -> None:
        row = operation.row
        there = self._rows.node(row["node_id"])
        if there is not None:
            last = min(_optional_moment(row.get("last_accessed_at")) or self._now, self._now)
            node = counted(there.node, row["reports"], row["reads"], last)
            self._write(replace(there, node=replace(node, version=self._version)))

    def _delete(self, operation: _Fresh) -> None:
        node_id = operation.row["node_id"]
        there = self._rows.node(node_id)
        if there is not None and there.stamp > operation.stamp:
            return
        if not self._is_buried(node_id, operation.stamp):
            self._rows.tombstones[node_id] = operation.stamp
        if there is not None:
            before = len(self._rows.parted)
            self._rows.delete(node_id)
            self._counts["relationship_count"] -= len(self._rows.parted) - before
            self._counts["node_count"] -= 1
            self._counts["entity_count"] -= there.node.context_type == ENTITY

    def _write(self, stamped: StampedNode) -> None:
        self._rows.put(stamped)
        self._written[stamped.node.node_id] = None

    def _refuse(self, operation: _Fresh, sqlstate: str, reason: str) -> None:
        self._refused.append(Refusal(operation.n, sqlstate, reason))

    def _outcome(self, vectors: Sequence[NodeVector]) -> LocallyApplied:
        rows = self._rows
        written = Written(
            [rows.nodes[node_id].node for node_id in self._written if node_id in rows.nodes],
            [one.relationship for one in rows.relationships.values()],
            frozenset(rows.deleted),
        )
        changes = Changes(
            nodes=rows.nodes,
            relationships=rows.relationships,
            deleted=frozenset(rows.deleted),
            parted=frozenset(rows.parted),
            tombstones=rows.tombstones,
            outdated=frozenset(self._outdated - rows.deleted),
            vectors=tuple(one for one in vectors if one.node_id not in rows.deleted),
            **self._counts,
        )
        return LocallyApplied(written, self._same, tuple(self._refused), changes)


def _moment(value: str) -> datetime:
    return datetime.fromisoformat(value)


def _optional_moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
