"""A user's rows from `state.db` as operations for Postgres, each with the stamps it was written with.

They may be sent any number of times, in any form they had: rows win by their stamps, the reports of an entity are told
apart by the clocks of what they said and add nothing to its count. What counts goes separately, as numbered operations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, zip_longest
from typing import Any
from uuid import UUID, uuid5

from hybrid_memory.postgres.batches import Embedding, Kind, Operation
from hybrid_memory.replication.known import ENTITY
from hybrid_memory.replication.merging import is_stub
from hybrid_memory.sqlite.local_leaving import Portion
from hybrid_memory.sqlite.local_rows import Counted
from hybrid_memory.stamped import BEFORE_ALL, NodeVector, Stamp, StampedNode, StampedRelationship

_CLOCK_FORMAT = "%Y-%m-%d %H:%M:%S.%f"
_IDENTITY = ("entity_id", "entity_system")
# Merged without a clock of their own, or counted separately.
_APART = (*_IDENTITY, "entity_data", "update_count", "base_confidence")

_Draft = tuple[Kind, dict[str, Any], tuple[Embedding, ...]]


def operations_of(portion: Portion, numbers: "count[int]") -> list[Operation]:
    """The operations of a portion, in the order in which they are to be applied."""
    plain = [one for one in portion.nodes if one.node.context_type != ENTITY]
    entities = [list(_reports(one, portion.vectors)) for one in portion.nodes if one.node.context_type == ENTITY]
    drafts: list[_Draft] = [("deletes", {"node_id": key} | _stamp(at), ()) for key, at in portion.tombstones.items()]
    drafts += [("nodes", _memory(one), _embeddings(portion.vectors, one)) for one in plain]
    # One report of each entity after the other, as one batch takes but one of each.
    drafts += [draft for layer in zip_longest(*entities) for draft in layer if draft is not None]
    drafts += [("edges", _relationship(one), ()) for one in portion.relationships]
    return [Operation(next(numbers), *draft) for draft in drafts]


def counts_of(incarnation: str, counted: Sequence[Counted], now: datetime) -> tuple[str, list[Operation]]:
    """What was counted here, as operations of a run of their own, which is the same whenever it is made."""
    run = str(uuid5(UUID(incarnation), "counts"))
    stamp = {"written_at": now.isoformat(), "written_by": run}
    return run, [
        Operation(
            number,
            "counts",
            {
                "node_id": one.node_id,
                "reports": one.reports,
                "reads": one.reads,
                "last_accessed_at": one.last_read.isoformat(),
            }
            | stamp,
        )
        for number, one in enumerate(counted, 1)
    ]


@dataclass(slots=True)
class _Report:
    """What an entity is said to be by one clock."""

    content: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def _reports(stamped: StampedNode, vectors: Mapping[str, Sequence[NodeVector]]) -> Iterator[_Draft]:
    """The latest reports of everything that is known of an entity, oldest first; its vectors come with the last."""
    node = stamped.node
    if is_stub(node.metadata):
        yield "entities", _columns(stamped) | {"content": node.content} | _stamp(stamped.stamp), ()
        return
    reports: dict[str, _Report] = {clock: _Report() for clock in stamped.clocks.values()}

    def by_clock(key: str) -> _Report:
        return reports.setdefault(stamped.clocks.get(key, ""), _Report())

    for key, value in node.content.items():
        if key not in _APART:
            by_clock(f"content.{key}").content[key] = value
    for key, value in (node.content.get("entity_data") or {}).items():
        by_clock(f"data.{key}").data[key] = value
    for key, value in node.metadata.items():
        by_clock(f"metadata.{key}").metadata[key] = value
    identity = {key: node.content[key] for key in _IDENTITY} | {"update_count": 0}
    base = node.content.get("base_confidence")
    last = max(reports, default="")
    for clock in sorted(reports or {"": _Report()}):
        report = reports.get(clock, _Report())
        row = _columns(stamped) | {
            "content": {**identity, **report.content, "entity_data": report.data},
            "metadata": report.metadata,
            "confidence": node.confidence if base is None else base,
        }
        yield "entities", row | _stamp(_stamp_of(clock)), _embeddings(vectors, stamped) if clock == last else ()


def _memory(stamped: StampedNode) -> dict[str, Any]:
    node = stamped.node
    return _columns(stamped) | {
        "context_type": node.context_type,
        "content": node.content,
        "content_kind": node.content_kind,
        "content_hash": stamped.content_hash,
        "external_id": node.external_id,
        "thread_id": node.thread_id,
        "seq": node.seq,
        "namespace": None if node.namespace is None else list(node.namespace),
        "key": node.key,
        **_stamp(stamped.stamp),
    }


def _columns(stamped: StampedNode) -> dict[str, Any]:
    """What memories and entities have in common."""
    node = stamped.node
    return {
        "node_id": node.node_id,
        "summary": node.summary,
        "tags": list(node.tags),
        "metadata": dict(node.metadata),
        "importance": node.importance,
        "confidence": node.confidence,
        "created_at": _text(node.created_at),
        "updated_at": _text(node.updated_at),
        "last_accessed_at": _text(node.last_accessed_at),
        "expires_at": _text(node.expires_at),
    }


def _relationship(joined: StampedRelationship) -> dict[str, Any]:
    one = joined.relationship
    return {
        "from_node_id": one.from_node_id,
        "to_node_id": one.to_node_id,
        "relationship_type": one.relationship_type,
        "strength": one.strength,
        "metadata": dict(one.metadata),
        "created_at": _text(one.created_at),
        "updated_at": _text(one.updated_at),
        **_stamp(joined.stamp),
    }


def _embeddings(vectors: Mapping[str, Sequence[NodeVector]], stamped: StampedNode) -> tuple[Embedding, ...]:
    of_node = vectors.get(stamped.node.node_id, ())
    return tuple(Embedding(one.model, one.values, one.content_hash, one.field) for one in of_node)


def _stamp(stamp: Stamp) -> dict[str, str]:
    return {"written_at": stamp[0].isoformat(), "written_by": stamp[1]}


def _stamp_of(clock: str) -> Stamp:
    """The stamp that a clock was made of."""
    if not clock:
        return BEFORE_ALL
    moment, _, written_by = clock.rpartition(" ")
    return datetime.strptime(moment, _CLOCK_FORMAT).replace(tzinfo=UTC), written_by


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
