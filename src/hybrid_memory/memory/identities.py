"""Which entity is meant: by its id, by another id its system has for it, or by its name."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hybrid_memory.graph.view import is_stub
from hybrid_memory.memory.entity_index import By, folded
from hybrid_memory.memory.extraction.records import FoundEntity
from hybrid_memory.memory.identity import name_identity
from hybrid_memory.models import EntityRef, MemoryNode

Called = Callable[[str], Iterable[tuple[MemoryNode, By]]]


@dataclass(frozen=True, slots=True)
class _Identity:
    """An entity as its system knows it; a stub has no type."""

    entity_system: str
    entity_id: str
    entity_type: str | None

    def may_be(self, entity_system: str, entity_type: str | None) -> bool:
        """Whether nothing speaks against it; systems use a number for one thing of each type."""
        return self.entity_system == entity_system and (
            self.entity_type is None or entity_type is None or folded(self.entity_type) == folded(entity_type)
        )


class Identities:
    """The entities of one call, and those the user's memory knows already."""

    def __init__(self, called: Called) -> None:
        self._called = called
        self._here: defaultdict[str, dict[_Identity, By]] = defaultdict(dict)

    def of_found(self, found: FoundEntity) -> str | None:
        """Under which id an entity that was found is stored; from now on it is meant by all its names."""
        own_id = self.of(found.ref, found.other_ids)
        if own_id is not None:
            identity = _Identity(found.entity_system, own_id, found.entity_type)
            for text in filter(None, (own_id, found.entity_id, *found.other_ids)):
                self._here[folded(text)].setdefault(identity, "id")
            for text in filter(None, (found.entity_name, *found.aliases)):
                self._here[folded(text)].setdefault(identity, "name")
        return own_id

    def of(self, ref: EntityRef, other_ids: Iterable[str] = ()) -> str | None:
        """The id of what is referred to; None when there is neither an id nor a type with a name."""
        if ref.entity_id is not None:
            return self._by_id(ref, [ref.entity_id, *other_ids])
        if not ref.entity_name or not ref.entity_type:
            return None
        named = self._candidates(ref, ref.entity_name, {"name", "alias"})
        return named[0] if len(named) == 1 else name_identity(ref.entity_type, ref.entity_name)

    def system_of(self, entity_type: str, entity_name: str) -> str | None:
        """Where the one entity of that type and name lives, if there is just one."""
        systems = {
            identity.entity_system
            for identity, how in self._all(entity_name)
            if how != "id" and identity.may_be(identity.entity_system, entity_type)
        }
        return systems.pop() if len(systems) == 1 else None

    def is_known(self, ref: EntityRef, own_id: str) -> bool:
        """Whether an entity is known by the name that a reference tells."""
        return bool(ref.entity_name) and own_id in self._candidates(ref, str(ref.entity_name), {"name", "alias"})

    def _by_id(self, ref: EntityRef, ids: list[str]) -> str:
        for one in ids:
            found = self._candidates(ref, one, {"id"})
            if one in found:
                return one
            if len(found) == 1:
                return found[0]
        return ids[0]

    def _candidates(self, ref: EntityRef, text: str, by: set[By]) -> list[str]:
        """The ids of those that can be meant."""
        found = (
            identity.entity_id
            for identity, how in self._all(text)
            if how in by and identity.may_be(ref.entity_system, ref.entity_type)
        )
        return list(dict.fromkeys(found))

    def _all(self, text: str) -> Iterator[tuple[_Identity, By]]:
        yield from self._here.get(folded(text), {}).items()
        for node, by in self._called(text):
            kind = None if is_stub(node) else node.content.get("entity_type")
            yield _Identity(node.content["entity_system"], node.content["entity_id"], kind), by
