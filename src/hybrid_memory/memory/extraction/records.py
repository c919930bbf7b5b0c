"""What a recogniser is given and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hybrid_memory.models import EntityRef

# An entity that was recognised, or one that a record had under a relation; a name or an inference is less sure.
RECOGNISED, REFERRED = 0.9, 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundEntity:
    """An entity that a record tells of.

    `entity_id` is its id in its own system; without one it is known by its type and name. A record that does not tell
    the name leaves it out, and the one that is known stays. `other_ids` are ids the same system knows it by too.
    `relations` are pairs of relationship type and target, which need not be known yet;
    the opposite of `belongs_to`, `child_of` and `owned_by` is stored with them.
    """

    entity_system: str
    entity_type: str
    entity_name: str | None = None
    entity_id: str | None = None
    other_ids: Sequence[str] = ()
    aliases: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    relations: Sequence[tuple[str, EntityRef]] = ()
    confidence: float = RECOGNISED

    @property
    def ref(self) -> EntityRef:
        """How others refer to it."""
        return EntityRef(self.entity_system, self.entity_id, self.entity_type, self.entity_name)


@dataclass(frozen=True, slots=True)
class RecordContext:
    """Where a record stands: in the answer of which tool, below which field, in which other entity.

    Fields that only wrap, such as `data` or `records`, do not count. `parent` is None where something that is no entity
    lies between; `nested` says whether there is an entity anywhere around it.
    """

    tool_name: str
    arguments: Any = None
    field: str | None = None
    parent: FoundEntity | None = None
    in_list: bool = False
    nested: bool = False

    def below(self, field: str | None, parent: FoundEntity | None) -> "RecordContext":
        """The context of what stands under a field."""
        nested = self.nested or parent is not None
        return replace(self, field=field, parent=parent, in_list=False, nested=nested)

    def listed(self) -> "RecordContext":
        """The context of what stands in a list there."""
        return self if self.in_list else replace(self, in_list=True)


class Recogniser(Protocol):
    """Tells which entity a record describes, if any.

    Called for every JSON object of a result, in a thread of its own: it should be quick, and only look at the record.
    """

    def __call__(self, record: Mapping[str, Any], context: RecordContext, /) -> FoundEntity | None:
        """The entity, or None when the record is not of a kind this one knows."""
