"""A user's memory as a plain list of writes, and the deltas that Postgres would answer with."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hybrid_memory.graph.delta import Delta, EdgeKey, edge_key
from hybrid_memory.graph.view import GraphView
from hybrid_memory.models import MemoryNode, Relationship

USER = "nick"
START = datetime(2026, 5, 1, tzinfo=UTC)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def pass_hours(self, hours: float) -> None:
        self.now += timedelta(hours=hours)


def id_of(number: int) -> str:
    return str(UUID(int=number))


def fact(number: int, text: str = "", **fields: Any) -> MemoryNode:
    """A memory as Postgres gives it back."""
    values: dict[str, Any] = {
        "user_id": USER,
        "node_id": id_of(number),
        "context_type": "conversation_fact",
        "content": {"text": text},
        "content_kind": "text",
        "summary": text,
        "version": 1,
        "created_at": START,
        "updated_at": START,
    }
    return MemoryNode(**values | fields)


def entity(number: int, entity_id: str, name: str, **fields: Any) -> MemoryNode:
    data = {"entity_id": entity_id, "entity_system": "crm", "entity_type": "account", "entity_name": name}
    content = data | fields.pop("content", {})
    return fact(number, context_type="domain_entity", content=content, content_kind="json", summary=name, **fields)


def stub(number: int, entity_id: str) -> MemoryNode:
    return entity(number, entity_id, entity_id, metadata={"stub": True})


def edge(start: int, end: int, kind: str = "relates_to", **fields: Any) -> Relationship:
    values: dict[str, Any] = {"strength": 1.0, "version": 1, "created_at": START, "updated_at": START}
    return Relationship(
        user_id=USER, from_node_id=id_of(start), to_node_id=id_of(end), relationship_type=kind, **values | fields
    )


def everything(
    nodes: Sequence[MemoryNode] = (), edges: Sequence[Relationship] = (), *, version: int = 1, life: str | None = "one"
) -> Delta:
    return Delta(incarnation=life, version=version, nodes=nodes, relationships=edges, complete=True)


def changes(  # noqa: PLR0913 - a delta has as many parts
    since: int,
    version: int,
    nodes: Sequence[MemoryNode] = (),
    edges: Sequence[Relationship] = (),
    deleted: Collection[str] = (),
    *,
    life: str = "one",
) -> Delta:
    return Delta(
        incarnation=life, version=version, since=since, nodes=nodes, relationships=edges, deleted=tuple(deleted)
    )


@dataclass
class State:
    """All rows of a user at one version, and the version of the last deletion of each memory."""

    nodes: dict[str, MemoryNode] = field(default_factory=dict)
    edges: dict[EdgeKey, Relationship] = field(default_factory=dict)
    tombstones: dict[str, int] = field(default_factory=dict)

    def visible(self, at: datetime) -> tuple[dict[str, MemoryNode], dict[EdgeKey, Relationship]]:
        nodes = {key: node for key, node in self.nodes.items() if node.expires_at is None or node.expires_at > at}
        return nodes, {key: one for key, one in self.edges.items() if key[0] in nodes and key[1] in nodes}


class History:
    """A user's memory in Postgres: every write makes a version."""

    def __init__(self) -> None:
        self.states = [State()]

    @property
    def version(self) -> int:
        return len(self.states) - 1

    def write(
        self, nodes: Sequence[MemoryNode] = (), edges: Sequence[Relationship] = (), deleted: Collection[str] = ()
    ) -> None:
        """Put, join what there is, delete last, as one batch of the write path does."""
        before, version = self.states[-1], len(self.states)
        state = State(dict(before.nodes), dict(before.edges), dict(before.tombstones))
        for node in nodes:
            state.nodes[node.node_id] = replace(node, version=version)
        for one in edges:
            if one.from_node_id in state.nodes and one.to_node_id in state.nodes:
                state.edges[edge_key(one)] = replace(one, version=version)
        for node_id in set(deleted) & state.nodes.keys():
            del state.nodes[node_id]
            state.edges = {key: one for key, one in state.edges.items() if node_id not in key[:2]}
            state.tombstones[node_id] = version
        self.states.append(state)

    def load(self, version: int) -> Delta:
        state = self.states[version]
        return everything(
            tuple(state.nodes.values()), tuple(state.edges.values()), version=version, life="one" if version else None
        )

    def between(self, since: int, version: int) -> Delta:
        """What a cache at `since` is told at `version`."""
        state = self.states[version]
        return changes(
            since,
            version,
            [node for node in state.nodes.values() if (node.version or 0) > since],
            [one for one in state.edges.values() if (one.version or 0) > since],
            [node_id for node_id, at in state.tombstones.items() if at > since],
        )


def contents(view: GraphView) -> tuple[dict[str, MemoryNode], dict[EdgeKey, Relationship]]:
    return {node.node_id: node for node in view.nodes()}, {edge_key(one): one for one in view.edges()}
