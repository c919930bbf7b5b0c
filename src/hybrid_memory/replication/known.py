"""What this process knows of one user's rows, as whoever applies a batch to them asks for it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

from hybrid_memory.graph.view import GraphView, is_stub
from hybrid_memory.models import MemoryNode
from hybrid_memory.replication.merging import clock_of, clocks_of
from hybrid_memory.stamped import (
    BEFORE_ALL,
    Changes,
    RelationshipKey,
    Stamp,
    StampedNode,
    StampedRelationship,
)

ENTITY = "domain_entity"

Identity = tuple[str, str]


def identity_of(node: MemoryNode) -> Identity | None:
    """The system of an entity and its id there; None for other memories."""
    if node.context_type != ENTITY:
        return None
    return node.content["entity_system"], node.content["entity_id"]


class Known(Protocol):
    """One user's rows at one moment."""

    def node(self, node_id: str) -> StampedNode | None:
        """A memory, expired or not."""

    def entity(self, identity: Identity) -> StampedNode | None:
        """An entity by the identity it has in its own system."""

    def alike(self, row: Mapping[str, Any]) -> Iterable[StampedNode]:
        """The memories whose content is the one of this row."""

    def last_seq(self, thread_id: str) -> int:
        """The last place given in a thread, 0 for an empty one."""

    def relationship(self, key: RelationshipKey) -> StampedRelationship | None:
        """One relationship."""

    def relationships_of(self, node_id: str) -> Iterable[StampedRelationship]:
        """Those that leave or reach a memory."""

    def tombstone(self, node_id: str) -> Stamp | None:
        """The latest deletion of a memory."""


class Overlay:
    """Rows on top of known ones: what a batch has done so far, or what operations that still wait will do.

    Places in a thread never fall here, though those of deleted memories are given again where it counts.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self.nodes: dict[str, StampedNode] = {}
        self.relationships: dict[RelationshipKey, StampedRelationship] = {}
        self.tombstones: dict[str, Stamp] = {}
        self.deleted: set[str] = set()
        self.parted: set[RelationshipKey] = set()
        self._entities: dict[Identity, str] = {}
        self._by_hash: dict[str, set[str]] = {}
        self._by_end: dict[str, set[RelationshipKey]] = {}
        self._last_seqs: dict[str, int] = {}

    def absorb(self, changes: Changes) -> None:
        """Put what a batch does on top."""
        for stamped in changes.nodes.values():
            self.put(stamped)
        for joined in changes.relationships.values():
            self.join(joined)
        for node_id in changes.deleted:
            self.delete(node_id)
        self.tombstones |= changes.tombstones

    def put(self, stamped: StampedNode) -> None:
        """Add or replace a memory."""
        node = stamped.node
        self._unlist(node.node_id)
        self.deleted.discard(node.node_id)
        self.nodes[node.node_id] = stamped
        if stamped.content_hash is not None:
            self._by_hash.setdefault(stamped.content_hash, set()).add(node.node_id)
        if (identity := identity_of(node)) is not None:
            self._entities[identity] = node.node_id
        if node.thread_id is not None and node.seq is not None:
            self._last_seqs[node.thread_id] = max(self._last_seqs.get(node.thread_id, 0), node.seq)

    def join(self, joined: StampedRelationship) -> None:
        """Add or replace a relationship."""
        self.parted.discard(joined.key)
        self.relationships[joined.key] = joined
        for end in joined.key[:2]:
            self._by_end.setdefault(end, set()).add(joined.key)

    def delete(self, node_id: str) -> None:
        """Remove a memory with its relationships."""
        for key in [one.key for one in self.relationships_of(node_id)]:
            self.relationships.pop(key, None)
            self.parted.add(key)
        self._unlist(node_id)
        self.nodes.pop(node_id, None)
        self.deleted.add(node_id)

    def node(self, node_id: str) -> StampedNode | None:
        """A memory, expired or not."""
        if node_id in self.nodes:
            return self.nodes[node_id]
        return None if node_id in self.deleted else self._known.node(node_id)

    def entity(self, identity: Identity) -> StampedNode | None:
        """An entity by the identity it has in its own system."""
        if identity in self._entities:
            return self.nodes[self._entities[identity]]
        return self._if_current(self._known.entity(identity))

    def alike(self, row: Mapping[str, Any]) -> Iterator[StampedNode]:
        """The memories whose content is the one of this row."""
        below = (self._if_current(one) for one in self._known.alike(row))
        yield from (one for one in below if one is not None)
        yield from (self.nodes[node_id] for node_id in self._by_hash.get(row["content_hash"], ()))

    def last_seq(self, thread_id: str) -> int:
        """The last place given in a thread, 0 for an empty one."""
        return max(self._known.last_seq(thread_id), self._last_seqs.get(thread_id, 0))

    def relationship(self, key: RelationshipKey) -> StampedRelationship | None:
        """One relationship."""
        if key in self.relationships:
            return self.relationships[key]
        return None if key in self.parted else self._known.relationship(key)

    def relationships_of(self, node_id: str) -> Iterator[StampedRelationship]:
        """Those that leave or reach a memory."""
        above = self._by_end.get(node_id, set())
        yield from (self.relationships[key] for key in above if key in self.relationships)
        if node_id not in self.deleted:
            for one in self._known.relationships_of(node_id):
                if one.key not in above and one.key not in self.parted:
                    yield one

    def tombstone(self, node_id: str) -> Stamp | None:
        """The latest deletion of a memory."""
        return self.tombstones.get(node_id) or self._known.tombstone(node_id)

    def _if_current(self, below: StampedNode | None) -> StampedNode | None:
        """What is known below, unless it was changed or deleted here."""
        if below is None or below.node.node_id in self.nodes or below.node.node_id in self.deleted:
            return None
        return below

    def _unlist(self, node_id: str) -> None:
        stamped = self.nodes.get(node_id)
        if stamped is None:
            return
        if stamped.content_hash is not None:
            self._by_hash[stamped.content_hash].discard(node_id)
        if (identity := identity_of(stamped.node)) is not None:
            del self._entities[identity]


class KnownGraph:
    """A user's graph as it was read from Postgres, with the deletions this process knows of.

    The graph lacks what callers never see, which is made up for: every key of an entity counts as written when the row
    was, a relationship as older than any write of this process, and contents are compared themselves instead of their
    hashes. What has expired is not there. So this is good for showing what waiting operations will do, until Postgres
    has applied them and gives back the rows as they are; it is nothing to store.
    """

    def __init__(self, view: GraphView, tombstones: Mapping[str, Stamp] | None = None) -> None:
        self._view = view
        self._tombstones = tombstones or {}

    def node(self, node_id: str) -> StampedNode | None:
        """A memory that has not expired."""
        node = self._view.node(node_id)
        return None if node is None else _assumed(node)

    def entity(self, identity: Identity) -> StampedNode | None:
        """An entity by the identity it has in its own system."""
        node = self._entities.get(identity)
        return None if node is None else _assumed(node)

    def alike(self, row: Mapping[str, Any]) -> Iterator[StampedNode]:
        """The memories whose content is the one of this row."""
        return map(_assumed, self._by_content.get(_content_key(row["content_kind"], row["content"]), ()))

    def last_seq(self, thread_id: str) -> int:
        """The last place given in a thread, 0 for an empty one."""
        return self._last_seqs.get(thread_id, 0)

    def relationship(self, key: RelationshipKey) -> StampedRelationship | None:
        """One relationship."""
        return next((one for one in self.relationships_of(key[0]) if one.key == key), None)

    def relationships_of(self, node_id: str) -> Iterator[StampedRelationship]:
        """Those that leave or reach a memory."""
        return map(StampedRelationship, self._view.edges_of(node_id))

    def tombstone(self, node_id: str) -> Stamp | None:
        """The latest deletion of a memory that this process knows of."""
        return self._tombstones.get(node_id)

    @cached_property
    def _entities(self) -> dict[Identity, MemoryNode]:
        found = ((identity_of(node), node) for node in self._view.nodes())
        return {identity: node for identity, node in found if identity is not None}

    @cached_property
    def _by_content(self) -> dict[tuple[str, str], list[MemoryNode]]:
        found: dict[tuple[str, str], list[MemoryNode]] = {}
        for node in self._view.nodes():
            if node.context_type != ENTITY:
                found.setdefault(_content_key(node.content_kind, node.content), []).append(node)
        return found

    @cached_property
    def _last_seqs(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for node in self._view.nodes():
            if node.thread_id is not None and node.seq is not None:
                found[node.thread_id] = max(found.get(node.thread_id, 0), node.seq)
        return found


def _assumed(node: MemoryNode) -> StampedNode:
    if node.context_type != ENTITY or is_stub(node):
        return StampedNode(node)
    clock = clock_of((node.written_at or BEFORE_ALL[0], node.written_by))
    return StampedNode(node, None, clocks_of(node.content, node.metadata, clock))


def _content_key(kind: str, content: Any) -> tuple[str, str]:
    return kind, content["text"] if kind == "text" else json.dumps(content, sort_keys=True)
