"""Salesforce: sObject records as the REST API, SOQL and the usual tools give them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_memory.memory.extraction.fields import as_text, description, first_text, own_ref, relation_of
from hybrid_memory.memory.extraction.records import FoundEntity, RecordContext
from hybrid_memory.models import EntityRef

SYSTEM = "salesforce"
_TYPES = {
    "001": "account", "003": "contact", "005": "user", "006": "opportunity", "00D": "organization", "00G": "group",
    "00O": "report", "00Q": "lead", "00T": "task", "00U": "event", "00k": "opportunity_line_item", "01t": "product2",
    "500": "case", "701": "campaign", "800": "contract", "801": "order", "0Q0": "quote",
}  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9]{9,18}")
_NAMES = ("Name", "Subject", "Title", "CaseNumber", "DeveloperName", "Email")
_ARGUMENTS = ("object", "object_type", "object_name", "sobject", "sobject_type")
_CHECK_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_SHORT, _BLOCK = 15, 5


def recognise(record: Mapping[str, Any], context: RecordContext) -> FoundEntity | None:
    """An sObject, told by its `attributes`, by an `Id` with a prefix of Salesforce, or by the object asked for."""
    record_id, kind = _id_of(record), _type_of(record) or _asked_for(record, context)
    if record_id is None or kind is None:
        return None
    names = [as_text(record.get("FirstName")), as_text(record.get("LastName"))]
    own_id = long_form(record_id)
    return FoundEntity(
        entity_system=SYSTEM,
        entity_type=kind,
        entity_name=first_text(record, _NAMES) or " ".join(filter(None, names)) or None,
        entity_id=own_id,
        other_ids=() if own_id[:_SHORT] == own_id else (own_id[:_SHORT],),
        data=description(record, ("attributes", "Id")),
        relations=tuple(_relations(record)),
    )


def long_form(record_id: str) -> str:
    """The 18 letters of an id; the form of 15 means another record when its case is changed, this one does not."""
    if len(record_id) != _SHORT:
        return record_id
    checks = (
        _CHECK_LETTERS[sum(letter.isupper() << place for place, letter in enumerate(record_id[start : start + _BLOCK]))]
        for start in range(0, _SHORT, _BLOCK)
    )
    return record_id + "".join(checks)


def _id_of(record: Mapping[str, Any]) -> str | None:
    known = as_text(record.get("Id"))
    if known is None:
        # Of a related record, SOQL gives what was selected, and its address.
        known = as_text(_attributes(record).get("url"))
        known = known.rpartition("/")[2] if known else None
    return known if known and _ID.fullmatch(known) else None


def _type_of(record: Mapping[str, Any]) -> str | None:
    told = as_text(_attributes(record).get("type"))
    if told:
        return told.casefold()
    return _TYPES.get((as_text(record.get("Id")) or "")[:3])


def _asked_for(record: Mapping[str, Any], context: RecordContext) -> str | None:
    if context.parent or "Id" not in record or SYSTEM not in context.tool_name.casefold():
        return None
    asked = first_text(context.arguments, _ARGUMENTS) if isinstance(context.arguments, Mapping) else None
    return asked.casefold() if asked else None


def _attributes(record: Mapping[str, Any]) -> Mapping[str, Any]:
    found = record.get("attributes")
    return found if isinstance(found, Mapping) else {}


def _relations(record: Mapping[str, Any]) -> Iterator[tuple[str, EntityRef]]:
    """The look-up fields, `AccountId` and the like, with the name that stands in `Account` beside it."""
    for field, value in record.items():
        target = as_text(value)
        kind = relation_of(field) if field.endswith("Id") and field != "Id" else None
        if kind is None or target is None or not _ID.fullmatch(target):
            continue
        beside = record.get(field.removesuffix("Id"))
        beside = beside if isinstance(beside, Mapping) else {}
        ref = own_ref(SYSTEM, long_form(target), _TYPES.get(target[:3]), beside.get("Name"))
        if ref is not None:
            yield kind, ref
