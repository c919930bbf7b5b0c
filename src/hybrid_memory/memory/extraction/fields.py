"""What fields are called in many systems: which of them relate an entity to another, and which only describe it."""

from collections.abc import Iterable, Mapping
from typing import Any

from hybrid_memory.models import EntityRef

OPPOSITE = {
    "belongs_to": "has", "has": "belongs_to", "child_of": "parent_of", "parent_of": "child_of",
    "owned_by": "owns", "owns": "owned_by",
}  # fmt: skip

# Field names in lower case without separators and a trailing "id".
_RELATIONS = {
    "owned_by": ("owner", "ownedby", "managedby", "accountowner"),
    "assigned_to": ("assignee", "assignedto", "assignmentgroup"),
    "created_by": ("creator", "createdby", "author", "reporter", "reportedby", "openedby", "requestedby", "caller"),
    "child_of": ("parent", "parentaccount", "parentincident", "parentissue", "reportsto", "manager", "epic"),
    "subtask_of": ("subtaskof", "parenttask"),
    "belongs_to": (
        "account", "company", "customer", "organization", "organisation", "project", "team", "department", "campaign",
        "opportunity", "case", "what", "request", "requestitem", "board", "workspace", "repository", "folder",
    ),
    "relates_to": ("contact", "who", "related", "relatedto", "problem", "problemid", "cmdbci", "businessservice"),
}  # fmt: skip
_RELATION_OF = {name: kind for kind, names in _RELATIONS.items() for name in names}
_LISTS = {"children": "child_of", "subtasks": "subtask_of", "subtask": "subtask_of"}
_PEOPLE = frozenset({"owned_by", "assigned_to", "created_by"})
_JUST_RELATED = frozenset({"related", "relatedto"})
_TYPES = {"what": None, "who": None, "parent": None, "related": None, "relatedto": None, "assignmentgroup": "group"}

# Fields that hold the records and say nothing about them.
WRAPPERS = frozenset(
    {
        "data", "records", "record", "results", "result", "items", "item", "values", "value", "entities", "objects",
        "fields", "properties", "response", "content", "text", "payload", "output", "issues", "nodes", "edges", "node",
    }
)  # fmt: skip

_LONGEST_VALUE = 4_000
_MOST_LISTED = 50


def relation_of(field: str) -> str | None:
    """How an entity is related to what stands in this field."""
    return _RELATION_OF.get(_plain(field))


def type_of(field: str) -> str | None:
    """What kind of entity stands in this field, where that is clear."""
    name = _plain(field)
    relation = _RELATION_OF.get(name)
    if relation is None or name in _TYPES:
        return _TYPES.get(name)
    return "user" if relation in _PEOPLE or name in ("manager", "reportsto") else name


def nested_relation(field: str | None, *, in_list: bool) -> tuple[str, bool]:
    """How an entity and one nested below this field are related, and whether it is the nested one that leads."""
    name = _plain(field or "")
    if not in_list:
        return _RELATION_OF.get(name, "relates_to"), False
    relation = _RELATION_OF.get(name) or _RELATION_OF.get(name.removesuffix("s"))
    if relation in _PEOPLE or name in _JUST_RELATED:
        return str(relation), False
    # What an entity lists is part of it.
    return _LISTS.get(name, "belongs_to"), True


def first_text(record: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of these fields that holds words."""
    return next((text for name in names if (text := as_text(record.get(name)))), None)


def as_text(value: object) -> str | None:
    """Words, or a number as an id; None for anything else and for what is blank."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return (value.strip() or None) if isinstance(value, str) else None


def description(record: Mapping[str, Any], without: Iterable[str] = ()) -> dict[str, Any]:
    """The fields that describe an entity: its own values, and none of what has an identity of its own."""
    left_out = set(without)
    return {
        key: value[:_LONGEST_VALUE] if isinstance(value, str) else value
        for key, value in record.items()
        if key not in left_out and _describes(value)
    }


def own_ref(system: str, value: object, kind: str | None, name: object = None) -> EntityRef | None:
    """A reference by id, with the name where it is told; None when there is neither."""
    known, called = as_text(value), as_text(name)
    return EntityRef(system, known, kind, called) if known or (called and kind) else None


def _describes(value: object) -> bool:
    if isinstance(value, Mapping):
        identified = any(key in value for key in ("id", "Id", "key", "sys_id", "accountId", "attributes", "records"))
        return not identified and len(value) <= _MOST_LISTED and all(_is_short(one) for one in value.values())
    if isinstance(value, list):
        return len(value) <= _MOST_LISTED and all(_is_short(one) for one in value)
    return True


def _is_short(value: object) -> bool:
    return not isinstance(value, (Mapping, list)) and (not isinstance(value, str) or len(value) <= _LONGEST_VALUE)


def _plain(field: str) -> str:
    name = field.casefold().replace("_", "").replace("-", "").replace(" ", "")
    return name if name in _RELATION_OF else name.removesuffix("id")
