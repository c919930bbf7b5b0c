"""Which entity is meant: by its id, by another id its system has for it, or by its name."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_memory.graph.view import is_stub
from hybrid_memory.memory.extraction.records import FoundEntity
from hybrid_memory.memory.identity import name_identity
from hybrid_memory.models import EntityRef, MemoryNode
from hybrid_memory.recall.entity_index import By, folded, ids_of

Called = Callable[[str], Iterable[tuple[MemoryNode, By]]]


@dataclass(frozen=True, slots=True)
class _Identity:
    """An entity as its system knows it; a stub has no type."""

    entity_system: str
    entity_id: str
    entity_type: str | None

    def is_one(self, entity_system: str, entity_id: str | None) -> bool:
        """Whether it is the entity of that id."""
        return (self.entity_system, self.entity_id) == (entity_system, entity_id)

    def may_be(self, entity_system: str, entity_type: str | None) -> bool:
        """Whether nothing speaks against it; systems use a number for one thing of each type."""
        return self.entity_system == entity_system and (
            self.entity_type is None or entity_type is None or folded(self.entity_type) == folded(entity_type)
        )


class Identities:
    """The entities of one call, and those the user's memory knows already."""

    def __init__(self, called: Called) -> None:
        self._called = called
        self._by_id_here: defaultdict[str, dict[_Identity, None]] = defaultdict(dict)
        self._by_name_here: defaultdict[str, dict[_Identity, None]] = defaultdict(dict)

    def of_found(self, found: FoundEntity) -> str | None:
        """Under which id an entity that was found is stored; from now on it is meant by all its names."""
        own_id = self.of(found.ref, found.other_ids)
        if own_id is not None:
            identity = _Identity(found.entity_system, own_id, found.entity_type)
            for text in filter(None, (own_id, found.entity_id, *found.other_ids)):
                self._by_id_here[text][identity] = None
            for text in filter(None, (found.entity_name, *found.aliases)):
                self._by_name_here[folded(text)][identity] = None
        return own_id

    def of(self, ref: EntityRef, other_ids: Iterable[str] = ()) -> str | None:
        """The id of what is referred to; None when there is neither an id nor a type with a name."""
        if ref.entity_id is not None:
            return self._by_id(ref, [ref.entity_id, *other_ids])
        if not ref.entity_name or not ref.entity_type:
            return None
        named = _fitting(ref, self._of_that_name(ref.entity_name))
        return named[0] if len(named) == 1 else name_identity(ref.entity_type, ref.entity_name)

    def system_of(self, entity_type: str, entity_name: str) -> str | None:
        """Where the one entity of that type and name lives, if there is just one."""
        systems = {
            identity.entity_system
            for identity in self._of_that_name(entity_name)
            if identity.may_be(identity.entity_system, entity_type)
        }
        return systems.pop() if len(systems) == 1 else None

    def data_of(self, ref: EntityRef) -> Mapping[str, Any]:
        """What the user's memory knows of an entity."""
        own_id = self.of(ref)
        for node, _ in self._called(own_id or ""):
            if not is_stub(node) and _identity(node).is_one(ref.entity_system, own_id):
                data = node.content.get("entity_data")
                return data if isinstance(data, Mapping) else {}
        return {}

    def is_known(self, ref: EntityRef, own_id: str) -> bool:
        """Whether an entity is known by the name that a reference tells."""
        return bool(ref.entity_name) and own_id in _fitting(ref, self._of_that_name(str(ref.entity_name)))

    def _by_id(self, ref: EntityRef, ids: list[str]) -> str:
        for one in ids:
            found = _fitting(ref, self._of_that_id(one))
            if one in found:
                return one
            if len(found) == 1:
                return found[0]
        return ids[0]

    def _of_that_id(self, text: str) -> Iterator[_Identity]:
        """Case tells ids apart."""
        yield from self._by_id_here.get(text, ())
        yield from (_identity(node) for node, _ in self._called(text) if text in ids_of(node))

    def _of_that_name(self, text: str) -> Iterator[_Identity]:
        yield from self._by_name_here.get(folded(text), ())
        yield from (_identity(node) for node, by in self._called(text) if by != "id")


def _fitting(ref: EntityRef, found: Iterable[_Identity]) -> list[str]:
    """The ids of those that can be meant."""
    fitting = (one.entity_id for one in found if one.may_be(ref.entity_system, ref.entity_type))
    return list(dict.fromkeys(fitting))


def _identity(node: MemoryNode) -> _Identity:
    content = node.content
    kind = None if is_stub(node) else content.get("entity_type")
    return _Identity(str(content["entity_system"]), str(content["entity_id"]), None if kind is None else str(kind))
