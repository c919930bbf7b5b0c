"""Jira: issues, projects and users as the REST API and the usual tools give them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_memory.memory.extraction.fields import as_text, description, first_text, own_ref, relation_of, type_of
from hybrid_memory.memory.extraction.records import FoundEntity, RecordContext
from hybrid_memory.models import EntityRef

SYSTEM = "jira"
_ISSUE_KEY = re.compile(r"[A-Z][A-Z0-9_]+-\d+")
_PROJECT_KEY = re.compile(r"[A-Z][A-Z0-9_]+")
_PEOPLE = ("assignee", "reporter", "creator")
_EPIC_LINKS = ("epic", "epicLink", "customfield_10014")


def recognise(record: Mapping[str, Any], context: RecordContext) -> FoundEntity | None:
    """An issue by its key, a project by its key and where it stands, a user by the account id."""
    return _issue(record) or _project(record, context) or _user(record)


def _issue(record: Mapping[str, Any]) -> FoundEntity | None:
    key = as_text(record.get("key"))
    fields = _within(record, "fields") or record
    known_by = ("fields", "summary", "self", "id", "status", "issuetype")
    if key is None or not _ISSUE_KEY.fullmatch(key) or not any(name in record for name in known_by):
        return None
    numeric = as_text(record.get("id"))
    return FoundEntity(
        entity_system=SYSTEM,
        entity_type="issue",
        entity_name=first_text(fields, ("summary", "title", "name")),
        entity_id=key,
        other_ids=(numeric,) if numeric and numeric != key else (),
        data=_described(fields),
        relations=tuple(_relations(fields, key)),
    )


def _project(record: Mapping[str, Any], context: RecordContext) -> FoundEntity | None:
    key, name = as_text(record.get("key")), as_text(record.get("name"))
    is_one = (
        "projectTypeKey" in record
        or "/project/" in str(record.get("self", ""))
        or context.field in ("project", "projects")
        or "jira" in context.tool_name.casefold()
    )
    if key is None or name is None or not is_one or not _PROJECT_KEY.fullmatch(key):
        return None
    return FoundEntity(
        entity_system=SYSTEM,
        entity_type="project",
        entity_name=name,
        entity_id=key,
        data=description(record, ("key", "name", "self", "avatarUrls", "expand")),
    )


def _user(record: Mapping[str, Any]) -> FoundEntity | None:
    account = as_text(record.get("accountId"))
    if account is None:
        return None
    return FoundEntity(
        entity_system=SYSTEM,
        entity_type="user",
        entity_name=as_text(record.get("displayName")),
        entity_id=account,
        data=description(record, ("accountId", "displayName", "self", "avatarUrls", "expand")),
    )


def _described(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An issue's own values; of a status, priority or component its name, which is what is said of it."""
    told: dict[str, Any] = {}
    for field, value in fields.items():
        if relation_of(field) or field in _EPIC_LINKS or value is None:
            continue
        if isinstance(value, Mapping) and "accountId" not in value:
            name = first_text(value, ("name", "value"))
            told |= {field: name} if name and "key" not in value else {}
        elif isinstance(value, list):
            names = [first_text(one, ("name", "value")) if isinstance(one, Mapping) else as_text(one) for one in value]
            told |= {field: names} if names and all(names) else {}
    return description(fields, {"key", "self", "expand", "fields"}) | told


def _relations(fields: Mapping[str, Any], own_key: str) -> Iterator[tuple[str, EntityRef]]:
    project = own_ref(SYSTEM, own_key.rpartition("-")[0], "project")
    if project is not None:
        yield "belongs_to", project
    parent = as_text(_within(fields, "parent").get("key")) or as_text(fields.get("parent"))
    if parent and _ISSUE_KEY.fullmatch(parent):
        is_part = bool(_within(fields, "issuetype").get("subtask"))
        yield "subtask_of" if is_part else "child_of", EntityRef(SYSTEM, parent, "issue")
    for field in _EPIC_LINKS:
        epic = as_text(fields.get(field)) or as_text(_within(fields, field).get("key"))
        if epic and _ISSUE_KEY.fullmatch(epic):
            yield "child_of", EntityRef(SYSTEM, epic, "issue")
    for field in _PEOPLE:
        # A flat answer of a tool tells the name alone.
        named = own_ref(SYSTEM, None, type_of(field), fields.get(field))
        if named is not None:
            yield relation_of(field) or "relates_to", named
    links = fields.get("issuelinks")
    for link in links if isinstance(links, list) else ():
        yield from _link(link)


def _link(link: object) -> Iterator[tuple[str, EntityRef]]:
    if not isinstance(link, Mapping):
        return
    blocks = "block" in str(_within(link, "type").get("name", "")).casefold()
    for side, kind in (("inwardIssue", "depends_on" if blocks else "relates_to"), ("outwardIssue", "relates_to")):
        other = as_text(_within(link, side).get("key"))
        if other and _ISSUE_KEY.fullmatch(other):
            yield kind, EntityRef(SYSTEM, other, "issue")


def _within(record: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    found = record.get(field)
    return found if isinstance(found, Mapping) else {}
