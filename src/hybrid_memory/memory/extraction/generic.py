"""The shape that needs no knowledge of a system: an id, a name and a type."""

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_memory.memory.extraction.fields import as_text, description, first_text, relation_of, type_of
from hybrid_memory.memory.extraction.records import FoundEntity, RecordContext
from hybrid_memory.models import EntityRef

SYSTEM = "generic"
_IDS = ("id", "_id", "uuid", "identifier", "entity_id", "Id", "ID")
_NAMES = ("name", "title", "display_name", "displayName", "full_name", "label", "subject", "summary", "Name")
_TYPES = ("type", "entity_type", "object_type", "resource_type", "kind", "Type")
_SYSTEMS = ("system", "entity_system", "source")
# Parts of messages between programs, which have all three and are nothing that anybody speaks of.
_MACHINERY = frozenset({"text", "function", "tool_use", "tool_call", "tool_result", "image", "file", "resource"})


def recognise(record: Mapping[str, Any], context: RecordContext) -> FoundEntity | None:
    """An entity of a system that is not known here."""
    known, name = first_text(record, _IDS), first_text(record, _NAMES)
    told = next((text for one in _TYPES if isinstance(record.get(one), str) and (text := as_text(record[one]))), None)
    kind = told or (type_of(context.field) if context.field and context.parent and not context.in_list else None)
    # Jira's statuses, priorities and boards look the same; what is an entity there is known.
    if not known or not name or not kind or kind in _MACHINERY or "/rest/" in str(record.get("self", "")):
        return None
    system = _system_of(record, context)
    kind = kind.casefold()
    own_id = qualified(known, kind)
    return FoundEntity(
        entity_system=system,
        entity_type=kind,
        entity_name=name,
        entity_id=own_id,
        other_ids=() if own_id == known else (known,),
        data=description(record, (*_IDS, *_SYSTEMS)),
        relations=tuple(_relations(record, system)),
    )


def qualified(known: str, kind: str | None) -> str:
    """The id; a bare number is one only together with what it counts."""
    return f"{kind}:{known}" if known.isdecimal() and kind else known


def _system_of(record: Mapping[str, Any], context: RecordContext) -> str:
    told = first_text(record, _SYSTEMS)
    if told:
        return told.casefold()
    return context.parent.entity_system if context.parent else SYSTEM


def _relations(record: Mapping[str, Any], system: str) -> Iterator[tuple[str, EntityRef]]:
    """Fields such as `owner_id` or `parentId`, and `owner` where it holds no record."""
    for field, value in record.items():
        kind, target = relation_of(field), as_text(value)
        if kind is None or target is None:
            continue
        is_id = field.casefold().endswith("id") or target.isdecimal()
        target_type = type_of(field) or (as_text(record.get("type")) if kind == "child_of" else None)
        target_type = target_type.casefold() if target_type else None
        if is_id:
            yield kind, EntityRef(system, qualified(target, target_type), target_type)
        elif target_type:
            yield kind, EntityRef(system, None, target_type, target)
