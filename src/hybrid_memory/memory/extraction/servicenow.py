"""ServiceNow: table records, with plain values or with `value`, `display_value` and `link`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_memory.memory.extraction.fields import as_text, description, relation_of, type_of
from hybrid_memory.memory.extraction.records import FoundEntity, RecordContext
from hybrid_memory.models import EntityRef

SYSTEM = "servicenow"
_NUMBER = re.compile(r"(INC|CHG|PRB|REQ|RITM|SCTASK|CTASK|PTASK|TASK|KB|CS)\d{5,}")
_OF_NUMBER = {
    "INC": "incident", "CHG": "change", "PRB": "problem", "REQ": "request", "RITM": "requested_item",
    "SCTASK": "task", "CTASK": "task", "PTASK": "task", "TASK": "task", "KB": "knowledge_article", "CS": "case",
}  # fmt: skip
_OF_TABLE = {
    "change_request": "change", "sc_request": "request", "sc_req_item": "requested_item", "sc_task": "task",
    "kb_knowledge": "knowledge_article", "sys_user": "user", "sys_user_group": "group", "core_company": "company",
    "cmn_department": "department", "cmdb_ci": "configuration_item", "sn_customerservice_case": "case",
}  # fmt: skip
_OF_FIELD = {"cmdb_ci": "configuration_item", "business_service": "configuration_item", "problem_id": "problem",
             "request_item": "requested_item", "caller_id": "user"}  # fmt: skip
_SYS_ID = re.compile(r"[0-9a-f]{32}")
_TABLE = re.compile(r"/table/(\w+)/")
_NAMES = ("short_description", "name", "user_name", "title", "number")


def recognise(record: Mapping[str, Any], context: RecordContext) -> FoundEntity | None:
    """A record of a table, told by its number or its `sys_id`."""
    number, sys_id = _value(record.get("number")), _value(record.get("sys_id"))
    is_numbered = bool(number and _NUMBER.fullmatch(number))
    if not is_numbered and not (sys_id and _SYS_ID.fullmatch(sys_id)):
        return None
    own_id = number if is_numbered else sys_id
    return FoundEntity(
        entity_system=SYSTEM,
        entity_type=_type_of(record, context, number if is_numbered else None),
        entity_name=next((text for name in _NAMES if (text := _shown(record.get(name)))), None),
        entity_id=own_id,
        other_ids=tuple(one for one in (sys_id, number) if one and one != own_id),
        data=_described(record),
        relations=tuple(_relations(record)),
    )


def _type_of(record: Mapping[str, Any], context: RecordContext, number: str | None) -> str:
    asked_for = context.arguments.get("table") if isinstance(context.arguments, Mapping) else None
    table = _value(record.get("sys_class_name")) or (None if context.parent else as_text(asked_for))
    if number is not None and (prefix := _NUMBER.fullmatch(number)):
        return _OF_NUMBER[prefix[1]]
    if table:
        return _of_table(table)
    if "user_name" in record:
        return "user"
    field = context.field or ""
    return _OF_FIELD.get(field) or type_of(field) or "record"


def _relations(record: Mapping[str, Any]) -> Iterator[tuple[str, EntityRef]]:
    for field, value in record.items():
        kind = relation_of(field)
        ref = _ref(field, value) if kind else None
        if kind and ref:
            yield kind, ref


def _ref(field: str, value: object) -> EntityRef | None:
    """What a reference field points at: a number or `sys_id`, an address, or a name alone."""
    known, shown, link = _value(value), _shown(value), ""
    if isinstance(value, Mapping):
        link = as_text(value.get("link")) or ""
        known = known or link.rpartition("/")[2] or None
    table = _TABLE.search(link)
    kind = _of_table(table[1]) if table else _OF_FIELD.get(field) or type_of(field)
    number = next((match for one in (known, shown) if one and (match := _NUMBER.fullmatch(one))), None)
    if number:
        return EntityRef(SYSTEM, number[0], _OF_NUMBER[number[1]])
    if known and _SYS_ID.fullmatch(known):
        return EntityRef(SYSTEM, known, kind, shown if shown != known else None)
    return EntityRef(SYSTEM, None, kind, shown) if shown and kind else None


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    plain = {field: _shown(value) if isinstance(value, Mapping) else value for field, value in record.items()}
    return description({field: value for field, value in plain.items() if value not in (None, "")}, ("sys_id",))


def _of_table(table: str) -> str:
    return _OF_TABLE.get(table, table)


def _value(value: object) -> str | None:
    """What is stored in a field."""
    return as_text(value.get("value")) if isinstance(value, Mapping) else as_text(value)


def _shown(value: object) -> str | None:
    """What is shown of a field."""
    if isinstance(value, Mapping):
        return as_text(value.get("display_value")) or as_text(value.get("value"))
    return as_text(value)
