"""One line about a memory, made without a language model."""

import json
from collections.abc import Mapping
from typing import Any

LONGEST = 160
# What a dictionary of each context type is usually told by, in order.
_TELLING = {
    "search_result": ("query", "title", "summary"),
    "user_selection": ("selection", "selected", "choice", "name"),
    "tool_output": ("tool_name", "tool", "summary", "status"),
    "completed_action": ("action", "task", "result", "summary"),
    "temporary_state": ("state", "step", "status"),
    "conversation_message": ("content",),
}
_COMMON = ("summary", "title", "name", "text", "content", "description")


def summary_of(content: Any, content_kind: str, context_type: str) -> str:
    """The gist of a content in at most 160 characters."""
    if content_kind == "text":
        return _shortened(content["text"])
    if context_type == "domain_entity" and isinstance(content, Mapping):
        return _of_entity(content)
    if context_type == "conversation_message" and isinstance(content, Mapping):
        return _shortened(f"{content.get('role', 'message')}: {_said(content.get('content'))}")
    if isinstance(content, Mapping):
        told = [_said(content[key]) for key in _TELLING.get(context_type, ()) if content.get(key)]
        told = told or [_said(content[key]) for key in _COMMON if content.get(key)][:1]
        if told:
            return _shortened(", ".join(told))
    return _shortened(f"{context_type.replace('_', ' ')}: {_said(content)}")


def _of_entity(content: Mapping[str, Any]) -> str:
    name = content.get("entity_name") or content.get("entity_id") or "entity"
    kind = content.get("entity_type")
    system = content.get("entity_system")
    where = f" in {system}" if system else ""
    return _shortened(f"{name} ({kind}{where})" if kind else f"{name}{where}")


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"
