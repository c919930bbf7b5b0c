"""Any value as JSON that both databases take, of bounded size: what a tool returns is never refused.

What cannot be stored is replaced by what says the same in text; what is too deep or too much is left out and counted.
"""

import dataclasses
import enum
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set as AbstractSet
from datetime import date, time
from typing import Any, TypeVar

from pydantic import BaseModel

from hybrid_memory.memory.content import JSON

MOST_VALUES = 50_000
MOST_DEPTH = 40
_MOST_BITS = 1024
_LONGEST_UNKNOWN = 2_000
_PLAIN = frozenset({dict, list, int, float, bool, type(None)})
_TEXTS = (str, bytes, bytearray)

Item = TypeVar("Item")


class Bounded:
    """Turns values into JSON until there have been too many; `left_out` says how many were dropped."""

    def __init__(self, most_values: int = MOST_VALUES, most_depth: int = MOST_DEPTH) -> None:
        self._left = most_values
        self._most_depth = most_depth
        self.left_out = 0

    def plain(self, value: object) -> JSON:
        """The value as JSON."""
        return self._plain(value, self._most_depth)

    def _plain(self, value: object, depth: int) -> JSON:
        # Most of what comes is plain already, and asking abstract classes about it is most of the time this takes.
        if type(value) is str:
            return _text(value)
        try:
            if type(value) not in _PLAIN:
                value = _unwrapped(value)
            if isinstance(value, (dict, Mapping)):
                return {_text(key): self._plain(one, depth - 1) for key, one in self._some(value.items(), depth)}
            if isinstance(value, list) or (
                isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, _TEXTS)
            ):
                return [self._plain(one, depth - 1) for one in self._some(value, depth)]
            return _scalar(value)
        except Exception as error:  # noqa: BLE001 - an object may raise anything when it is looked into
            self.left_out += 1
            return f"<unreadable: {type(error).__name__}>"

    def _some(self, items: Collection[Item], depth: int) -> Iterator[Item]:
        """As many of the items as there is room for."""
        for place, item in enumerate(items):
            if self._left <= 0 or depth <= 0:
                self.left_out += len(items) - place
                return
            self._left -= 1
            yield item


def cut_to(value: JSON, most_bytes: int) -> tuple[JSON, bool]:
    """The value, or, where its JSON is larger than that, the beginning of its JSON as text; whether it was cut."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    raw = text.encode()
    if len(raw) <= most_bytes:
        return value, False
    # As text within JSON a quote or backslash takes two bytes.
    return raw[: max(0, most_bytes // 2 - 2)].decode(errors="ignore"), True


def parsed(text: str) -> Any:
    """What a text holds as JSON, when that is an object or a list; else None."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unwrapped(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, BaseModel):
        # A LangChain message says in `content` what the tool returned; the rest is about the call.
        return getattr(value, "content", None) if hasattr(value, "tool_call_id") else dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _scalar(value: object) -> JSON:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, (bytes, bytearray)):
        return f"<{len(value)} bytes>"
    if isinstance(value, (date, time)):
        return value.isoformat()
    return _text(value) if isinstance(value, str) else _text(str(value))[:_LONGEST_UNKNOWN]


def _number(value: float) -> JSON:
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _MOST_BITS else f"<integer of {value.bit_length()} bits>"
    return float(value) if math.isfinite(value) else str(value)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    text = text.replace("\x00", "") if "\x00" in text else text
    return str.__str__(text) if text.isascii() else text.encode(errors="replace").decode()
