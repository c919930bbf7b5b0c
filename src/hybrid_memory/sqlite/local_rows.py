"""Users' memories in `state.db`, where there is no Postgres: one user's rows, in one transaction."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.sqlite.connection import Row, Statements
from hybrid_memory.stamped import Changes, NodeVector, RelationshipKey, Stamp, StampedNode, StampedRelationship

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLOATS = np.dtype("<f4")
_LATEST = (1 << 63) - 1
_FORGET_USER = (
    "local_nodes.forget_user",
    "local_relationships.forget_user",
    "local_tombstones.forget_user",
    "local_vectors.forget_user",
    "local_counts.forget_user",
    "local_watermarks.forget_user",
    "local_users.forget",
)


@dataclass(frozen=True, slots=True)
class LocalState:
    """Where a user's memory stands.

    Postgres has what it was at version `delivered`, 0 for nothing. A copy was fetched from there and not changed since.
    """

    incarnation: str
    version: int
    node_count: int
    relationship_count: int
    entity_count: int
    last_activity: datetime
    delivered: int = 0
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class Since:
    """What came, changed or was deleted after a version."""

    nodes: list[StampedNode]
    relationships: list[StampedRelationship]
    tombstones: dict[str, Stamp]
    vectors: list[NodeVector]


@dataclass(frozen=True, slots=True)
class Counted:
    """How often an entity was reported, or a memory read, and when last."""

    node_id: str
    reports: int
    reads: int
    last_read: datetime


class LocalRows:
    """One user's rows within one transaction."""

    def __init__(self, statements: Statements, user_id: str) -> None:
        self._sql = statements
        self._user_id = user_id

    def state(self) -> LocalState | None:
        """Where the user's memory stands; None for one who never wrote."""
        row = self._sql.row("local_users.get", user_id=self._user_id)
        if row is None:
            return None
        incarnation, version, nodes, relationships, entities, last_activity, delivered, is_copy = row
        return LocalState(
            incarnation, version, nodes, relationships, entities, _moment(last_activity), delivered, bool(is_copy)
        )

    def mark(self, instance_id: str) -> int:
        """The last operation of an instance that was applied, 0 before the first."""
        seq = self._sql.value("local_watermarks.get", user_id=self._user_id, instance_id=instance_id)
        return seq or 0

    def node(self, node_id: str) -> StampedNode | None:
        """A memory, expired or not."""
        row = self._sql.row("local_nodes.get", user_id=self._user_id, node_id=node_id)
        return None if row is None else self._node(row)

    def entity(self, identity: tuple[str, str]) -> StampedNode | None:
        """An entity by the identity it has in its own system."""
        system, entity_id = identity
        row = self._sql.row("local_nodes.entity", user_id=self._user_id, entity_system=system, entity_id=entity_id)
        return None if row is None else self._node(row)

    def alike(self, row: Mapping[str, Any]) -> list[StampedNode]:
        """The memories whose content is the one of this row."""
        rows = self._sql.rows("local_nodes.alike", user_id=self._user_id, content_hash=row["content_hash"])
        return [self._node(one) for one in rows]

    def last_seq(self, thread_id: str) -> int:
        """The last place given in a thread, 0 for an empty one."""
        return self._sql.value("local_nodes.last_seq", user_id=self._user_id, thread_id=thread_id) or 0

    def relationship(self, key: RelationshipKey) -> StampedRelationship | None:
        """One relationship."""
        row = self._sql.row("local_relationships.get", **self._named(key))
        return None if row is None else self._relationship(row)

    def relationships_of(self, node_id: str) -> list[StampedRelationship]:
        """Those that leave or reach a memory."""
        bound = {"user_id": self._user_id, "node_id": node_id}
        rows = self._sql.rows("local_relationships.leaving", **bound)
        rows += self._sql.rows("local_relationships.reaching", **bound)
        return [self._relationship(row) for row in rows]

    def tombstone(self, node_id: str) -> Stamp | None:
        """The latest deletion of a memory."""
        row = self._sql.row("local_tombstones.get", user_id=self._user_id, node_id=node_id)
        return None if row is None else (_moment(row[0]), row[1])

    def since(self, version: int = -1, up_to: int = _LATEST) -> Since:
        """What came, changed or was deleted after a version, up to another; everything there is by default."""
        bound = {"user_id": self._user_id, "version": version, "up_to": up_to}
        nodes = self._sql.rows("local_nodes.changed_since", **bound)
        relationships = self._sql.rows("local_relationships.changed_since", **bound)
        tombstones = self._sql.rows("local_tombstones.since", **bound)
        vectors = self._sql.rows("local_vectors.changed_since", **bound)
        return Since(
            nodes=[self._node(row) for row in nodes],
            relationships=[self._relationship(row) for row in relationships],
            tombstones={node_id: (_moment(at), by) for node_id, at, by in tombstones},
            vectors=[_vector(row) for row in vectors],
        )

    def vectors_of(self, node_id: str) -> list[NodeVector]:
        """The vectors of a memory."""
        return [_vector(row) for row in self._sql.rows("local_vectors.of_node", user_id=self._user_id, node_id=node_id)]

    def end_of_portion(self, version: int, most: int) -> int | None:
        """The version at which about so many rows after another version end; None when there are none."""
        end: int | None = self._sql.value(
            "local_users.place_of_portion", user_id=self._user_id, version=version, most=most
        )
        return end

    def counted(self) -> list[Counted]:
        """Memories that were reported or read here, which Postgres has not counted."""
        rows = self._sql.rows("local_nodes.counted", user_id=self._user_id)
        found = (Counted(row[0], max(0, row[1]), max(0, row[2]), _moment(row[3])) for row in rows)
        return [one for one in found if one.reports or one.reads]

    def counts_elsewhere(self, node_id: str, reports: int, reads: int) -> None:
        """Postgres counts so much of a memory by itself."""
        self._sql.run("local_counts.add", user_id=self._user_id, node_id=node_id, reports=reports, reads=reads)

    def forget_everything(self) -> None:
        """Let the user leave."""
        for query in _FORGET_USER:
            self._sql.run(query, user_id=self._user_id)

    def keep_state(self, state: LocalState) -> None:
        """Note where the user's memory stands now."""
        self._sql.run(
            "local_users.put",
            user_id=self._user_id,
            incarnation=state.incarnation,
            version=state.version,
            node_count=state.node_count,
            relationship_count=state.relationship_count,
            entity_count=state.entity_count,
            last_activity=_microseconds(state.last_activity),
            delivered=state.delivered,
            is_copy=int(state.is_copy),
        )

    def keep_mark(self, instance_id: str, seq: int, now: datetime) -> None:
        """Note how far the operations of an instance were applied."""
        bound = {"user_id": self._user_id, "instance_id": instance_id}
        self._sql.run("local_watermarks.put", **bound, seq=seq, updated_at=_microseconds(now))

    def forget_marks(self, before: datetime) -> None:
        """Drop the marks of instances that have not written since."""
        self._sql.run("local_watermarks.forget_older", user_id=self._user_id, before=_microseconds(before))

    def forget_mark(self, instance_id: str) -> None:
        """Drop the mark of an instance that will write no more."""
        self._sql.run("local_watermarks.forget", user_id=self._user_id, instance_id=instance_id)

    def keep(self, changes: Changes, version: int) -> None:
        """Store what a batch does."""
        user = {"user_id": self._user_id}
        # An entity may have another id now: the row under the old one goes first.
        for key in changes.parted:
            self._sql.run("local_relationships.delete", **self._named(key))
        for node_id in changes.deleted:
            self._sql.run("local_nodes.delete", **user, node_id=node_id)
            self._sql.run("local_vectors.delete", **user, node_id=node_id)
            self._sql.run("local_counts.forget", **user, node_id=node_id)
        for stamped in changes.nodes.values():
            self._sql.run("local_nodes.put", **_node_values(stamped))
        for joined in changes.relationships.values():
            self._sql.run("local_relationships.put", **_relationship_values(joined))
        for node_id, (at, by) in changes.tombstones.items():
            stamp = {"written_at": _microseconds(at), "written_by": by}
            self._sql.run("local_tombstones.put", **user, node_id=node_id, version=version, **stamp)
        for node_id in changes.outdated:
            now = changes.nodes[node_id].content_hash
            self._sql.run("local_vectors.delete_outdated", **user, node_id=node_id, content_hash=now)
        for vector in changes.vectors:
            self._sql.run("local_vectors.put", **user, version=version, **_vector_values(vector))

    def _named(self, key: RelationshipKey) -> dict[str, str]:
        start, end, kind = key
        return {"user_id": self._user_id, "from_node_id": start, "to_node_id": end, "relationship_type": kind}

    def _node(self, row: Row) -> StampedNode:
        node = MemoryNode(
            user_id=self._user_id,
            node_id=row[0],
            context_type=row[1],
            content=json.loads(row[2]),
            content_kind=row[3],
            summary=row[4],
            tags=tuple(json.loads(row[5])),
            metadata=json.loads(row[6]),
            importance=row[7],
            confidence=row[8],
            external_id=row[9],
            thread_id=row[10],
            seq=row[11],
            namespace=None if row[12] is None else tuple(json.loads(row[12])),
            key=row[13],
            version=row[14],
            written_at=_moment(row[15]),
            written_by=row[16],
            created_at=_moment(row[17]),
            updated_at=_moment(row[18]),
            last_accessed_at=_moment(row[19]),
            access_count=row[20],
            expires_at=None if row[21] is None else _moment(row[21]),
        )
        return StampedNode(node, row[22], json.loads(row[23]))

    def _relationship(self, row: Row) -> StampedRelationship:
        relationship = Relationship(
            user_id=self._user_id,
            from_node_id=row[0],
            to_node_id=row[1],
            relationship_type=row[2],
            strength=row[3],
            metadata=json.loads(row[4]),
            version=row[5],
            created_at=_moment(row[8]),
            updated_at=_moment(row[9]),
        )
        return StampedRelationship(relationship, (_moment(row[6]), row[7]))


def _node_values(stamped: StampedNode) -> dict[str, Any]:
    node = stamped.node
    return {
        "user_id": node.user_id,
        "node_id": node.node_id,
        "context_type": node.context_type,
        "content": _json(node.content),
        "content_kind": node.content_kind,
        "summary": node.summary,
        "tags": _json(node.tags),
        "metadata": _json(node.metadata),
        "importance": node.importance,
        "confidence": node.confidence,
        "external_id": node.external_id,
        "thread_id": node.thread_id,
        "seq": node.seq,
        "namespace": None if node.namespace is None else _json(node.namespace),
        "key": node.key,
        "version": node.version,
        "written_at": _optional_microseconds(node.written_at),
        "written_by": node.written_by,
        "created_at": _optional_microseconds(node.created_at),
        "updated_at": _optional_microseconds(node.updated_at),
        "last_accessed_at": _optional_microseconds(node.last_accessed_at),
        "access_count": node.access_count,
        "expires_at": _optional_microseconds(node.expires_at),
        "content_hash": stamped.content_hash,
        "field_clocks": _json(stamped.clocks),
    }


def _relationship_values(joined: StampedRelationship) -> dict[str, Any]:
    one, (written_at, written_by) = joined.relationship, joined.stamp
    return {
        "user_id": one.user_id,
        "from_node_id": one.from_node_id,
        "to_node_id": one.to_node_id,
        "relationship_type": one.relationship_type,
        "strength": one.strength,
        "metadata": _json(one.metadata),
        "version": one.version,
        "written_at": _microseconds(written_at),
        "written_by": written_by,
        "created_at": _optional_microseconds(one.created_at),
        "updated_at": _optional_microseconds(one.updated_at),
    }


def _vector_values(vector: NodeVector) -> dict[str, Any]:
    return {
        "node_id": vector.node_id,
        "field": vector.field,
        "model": vector.model,
        "vector": np.asarray(vector.values, _FLOATS).tobytes(),
        "content_hash": vector.content_hash,
    }


def _vector(row: Row) -> NodeVector:
    node_id, field, model, vector, content_hash = row
    return NodeVector(node_id, field, model, np.frombuffer(vector, _FLOATS).tolist(), content_hash)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _moment(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _optional_microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else _microseconds(moment)
