"""Entities: what is known of a thing in another system, merged with what was known, and how such things are related."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from hybrid_memory.errors import InvalidInput, StorageUnavailable
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.extraction import generic
from hybrid_memory.memory.extraction.fields import OPPOSITE
from hybrid_memory.memory.extraction.records import REFERRED, FoundEntity
from hybrid_memory.memory.identities import Identities
from hybrid_memory.memory.identity import entity_node_id, name_identity
from hybrid_memory.memory.memories import Memories, edge_write
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.summaries import summary_of
from hybrid_memory.models import EntityRef, MemoryNode
from hybrid_memory.observability import Events
from hybrid_memory.recall.entity_index import By
from hybrid_memory.recall.passage import ENTITY
from hybrid_memory.replication.batching import Write, key_of

Target = str | UUID | EntityRef


class Gathered:
    """The entities of one call and their relations, each of them once however often it was told."""

    def __init__(self, border: Border, owner: str, identities: Identities) -> None:
        self._border = border
        self._owner = owner
        self._identities = identities
        self._known: dict[str, dict[str, Any]] = {}
        self._stubs: dict[str, dict[str, Any]] = {}
        self._edges: dict[object, Write] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The nodes of the entities of which something is told."""
        return tuple(self._known)

    @property
    def edge_count(self) -> int:
        """How many relations there are."""
        return len(self._edges)

    def add(self, found: FoundEntity) -> str:
        """Take in an entity, without its relations; its node.

        Raises:
            InvalidInput: it cannot be stored; the text names the field.
        """
        border = self._border
        kind = border.name(found.entity_type, "entity_type")
        name = None if found.entity_name is None else border.line(found.entity_name, "entity_name")
        system = border.name(found.entity_system, "entity_system")
        told_ids = [border.line(one, "other_ids") for one in found.other_ids]
        told_id = None if found.entity_id is None else border.line(found.entity_id, "entity_id")
        data = border.mapping(found.data, "data")
        aliases = set(border.tags(found.aliases)) - {name}
        own_id = self._own_id(self._identities.of_found(found))
        if found.entity_id is None and name is not None and own_id != name_identity(kind, name):
            # It was met by one of its names, which is not the news that it is called so now.
            name = None
        content = {
            "entity_id": own_id,
            "entity_system": system,
            "entity_type": kind,
            "entity_data": data,
            "aliases": sorted(aliases),
            "other_ids": sorted({*told_ids, told_id or own_id} - {own_id}),
        }
        # Without a name it keeps the one it has.
        content |= {} if name is None else {"entity_name": name}
        node_id = entity_node_id(self._owner, system, own_id)
        known = self._known.get(node_id)
        confidence = border.share(found.confidence, "confidence")
        if known is not None:
            content, confidence = _merged(known["content"], content), max(confidence, known["confidence"])
        self._known[node_id] = _row(node_id, content, confidence)
        return node_id

    def supposed(self, found: FoundEntity) -> FoundEntity:
        """The same as something less than sure: in the system that is known where none is told, changing no value."""
        relations = [(kind, replace(ref, entity_system=self._place(ref))) for kind, ref in found.relations]
        placed = replace(found, entity_system=self._place(found.ref), relations=relations)
        known = self._identities.data_of(placed.ref)
        return replace(placed, data={key: value for key, value in placed.data.items() if key not in known})

    def refer(self, ref: EntityRef) -> str:
        """The node of an entity that is referred to, which is a stub until more is known.

        Raises:
            InvalidInput: it names no entity.
        """
        border = self._border
        system = border.name(ref.entity_system, "entity_system")
        if ref.entity_id is not None:
            border.line(ref.entity_id, "entity_id")
        own_id = self._own_id(self._identities.of(ref))
        node_id = entity_node_id(self._owner, system, own_id)
        if node_id in self._known:
            return node_id
        if self._tells_a_name(ref, own_id):
            return self.add(
                FoundEntity(
                    entity_system=system,
                    entity_type=str(ref.entity_type),
                    entity_name=ref.entity_name,
                    entity_id=own_id,
                    confidence=REFERRED,
                )
            )
        content = {"entity_id": own_id, "entity_system": system, "entity_data": {}, "aliases": []}
        self._stubs[node_id] = _row(node_id, content, 0.0) | {"metadata": {"stub": True}}
        return node_id

    def join(self, from_id: str, relationship_type: str, to_id: str) -> None:
        """Relate two nodes."""
        write = edge_write(from_id, to_id, self._border.name(relationship_type, "relations"))
        self._edges.setdefault(key_of(write.row), write)

    def join_both_ways(self, from_id: str, relationship_type: str, to_id: str) -> None:
        """Relate two nodes, and the second to the first where the relation has an opposite; none to itself."""
        if from_id == to_id:
            return
        self.join(from_id, relationship_type, to_id)
        if relationship_type in OPPOSITE:
            self.join(to_id, OPPOSITE[relationship_type], from_id)

    def writes(self) -> list[Write]:
        """Everything, as writes of one request."""
        rows = [*self._known.values(), *(row for node_id, row in self._stubs.items() if node_id not in self._known)]
        return [*(Write("entities", row) for row in rows), *self._edges.values()]

    def _place(self, ref: EntityRef) -> str:
        told = ref.entity_system
        return told or self._identities.system_of(ref.entity_type or "", ref.entity_name or "") or generic.SYSTEM

    def _own_id(self, own_id: str | None) -> str:
        if own_id is None:
            raise InvalidInput("an entity needs an entity_id, or an entity_type and an entity_name")
        return self._border.line(own_id, "entity_id")

    def _tells_a_name(self, ref: EntityRef, own_id: str) -> bool:
        """Whether a reference makes its target known; one by name alone that met a known entity does not rename it."""
        if not ref.entity_type or not ref.entity_name or self._identities.is_known(ref, own_id):
            return False
        return ref.entity_id is not None or own_id == name_identity(ref.entity_type, ref.entity_name)


class Entities:
    """The entities of all users, one call at a time."""

    def __init__(self, border: Border, memories: Memories, sessions: Sessions, events: Events) -> None:
        self._border = border
        self._memories = memories
        self._sessions = sessions
        self._events = events

    async def store(
        self,
        user_id: str,
        *,
        entity_id: str | None,
        entity_system: str,
        entity_type: str,
        entity_name: str,
        data: Mapping[str, Any] | None,
        relations: Iterable[tuple[str, Target]],
        aliases: Iterable[str],
    ) -> str:
        """Store what is known of an entity, merged key by key with what was known before; its id."""
        border = self._border
        owner, targets = border.user_id(user_id), list(relations)
        kind, name = border.name(entity_type, "entity_type"), border.line(entity_name, "entity_name")
        by_name = any(isinstance(target, EntityRef) and target.entity_id is None for _, target in targets)
        gathered = await self.gathered(owner) if by_name else Gathered(border, owner, Identities(_nobody))
        node_id = gathered.add(
            FoundEntity(
                entity_system=entity_system,
                entity_type=kind,
                entity_name=name,
                entity_id=name_identity(kind, name) if entity_id is None else border.line(entity_id, "entity_id"),
                aliases=border.tags(aliases),
                data=border.mapping(data, "data"),
            )
        )
        for relation, target in targets:
            if isinstance(target, EntityRef):
                other = gathered.refer(target)
            else:
                other = border.node_id(owner, target, "relations")
            gathered.join(node_id, relation, other)
        return self._memories.acknowledged(await self._memories.write(owner, gathered.writes()), node_id)

    async def gathered(self, owner: str) -> Gathered:
        """An empty gathering that knows what the user's entities are called, as far as this process does."""
        try:
            memory = await self._sessions.opened(owner)
        except StorageUnavailable:
            return Gathered(self._border, owner, Identities(_nobody))
        return Gathered(self._border, owner, Identities(memory.entities_called))


def _nobody(_: str) -> list[tuple[MemoryNode, By]]:
    return []


def _row(node_id: str, content: Mapping[str, Any], confidence: float) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "content": content,
        "summary": summary_of(content, "json", ENTITY),
        "tags": [],
        "metadata": {},
        "importance": 0.5,
        "confidence": confidence,
    }


def _merged(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """What two records of one call tell of an entity; the first name stays, another one is an alias."""
    name = first.get("entity_name") or then.get("entity_name")
    names = {*first["aliases"], *then["aliases"], then.get("entity_name")} - {name, None}
    merged = {
        **first,
        "entity_data": {**first["entity_data"], **then["entity_data"]},
        "aliases": sorted(names),
        "other_ids": sorted({*first["other_ids"], *then["other_ids"]}),
    }
    return merged | ({"entity_name": name} if name else {})
