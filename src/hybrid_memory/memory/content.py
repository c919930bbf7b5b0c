"""From what a caller hands over to JSON that Postgres and SQLite both give back unchanged.

What Postgres would refuse is refused here, with the path to it: NUL, lone surrogates, NaN and infinity, keys that are
no strings, depth, size, and anything that is not data.
"""

import dataclasses
import enum
import json
import math
import uuid
from collections.abc import Mapping, Sequence, Set as AbstractSet
from datetime import date, datetime, time
from typing import Any

from pydantic import BaseModel

from hybrid_memory.errors import InvalidInput

JSON = None | bool | int | float | str | list[Any] | dict[str, Any]
_BYTES = (bytes, bytearray, memoryview)
_MOST_BITS = 1024
_LONGEST_PATH = 60
_INTEGRAL_FROM = 1e16
_as_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encoded(value: object, path: str, *, most_bytes: int, most_depth: int, unchanged: bool = False) -> tuple[JSON, str]:
    """`value` as plain JSON values and as text.

    Datetimes with a time zone, UUIDs, enums, dataclasses, pydantic models and sets become what JSON has for them; where
    the value has to come back `unchanged`, they are refused.

    Raises:
        InvalidInput: naming the path to what cannot be stored.
    """
    plain = _plain(value, path, most_depth, unchanged=unchanged)
    text = _as_text(plain)
    size = len(text.encode())
    if size > most_bytes:
        raise InvalidInput(
            f"{path} is {size} bytes of JSON, {most_bytes} are allowed (HYBRID_MEMORY_MAX_CONTENT_BYTES)"
        )
    return plain, text


def text_of(value: object, path: str, *, most_bytes: int | None = None, empty: bool = False) -> str:
    """A string that both databases take.

    Raises:
        InvalidInput: it is no string, holds NUL or a lone surrogate, is empty where it must not be, or too long.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{path} must be a string, not {type(value).__name__}")
    if "\x00" in value:
        raise InvalidInput(f"{path} holds a NUL character at position {value.index(chr(0))}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{path} holds a lone surrogate at position {error.start}") from None
    if not value and not empty:
        raise InvalidInput(f"{path} must not be empty")
    if most_bytes is not None and size > most_bytes:
        raise InvalidInput(f"{path} is {size} bytes long, {most_bytes} are allowed")
    # What it holds: `str` gives the name of a member of an enum.
    return str.__str__(value)


def _plain(value: object, path: str, depth: int, *, unchanged: bool) -> JSON:
    if depth < 0:
        raise InvalidInput(f"{path[:_LONGEST_PATH]}... is nested too deeply, or holds itself (HYBRID_MEMORY_MAX_DEPTH)")
    if type(value) is str:
        # By far the most of what is stored; an enum that is a string too is none of exactly this type.
        return text_of(value, path, empty=True)
    if not unchanged:
        value = _unwrapped(value, path)
    if isinstance(value, Mapping):
        return {
            _key(key, path): _plain(item, f"{path}.{key}", depth - 1, unchanged=unchanged)
            for key, item in value.items()
        }
    if isinstance(value, AbstractSet) and not unchanged:
        return sorted((_plain(item, f"{path}{{}}", depth - 1, unchanged=False) for item in value), key=json.dumps)
    if isinstance(value, Sequence) and not isinstance(value, (str, *_BYTES)):
        return [_plain(item, f"{path}[{place}]", depth - 1, unchanged=unchanged) for place, item in enumerate(value)]
    return _scalar(value, path)


def _unwrapped(value: object, path: str) -> object:
    """What stands for an enum, model, dataclass or moment."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, BaseModel):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime) and value.tzinfo is None:
        raise InvalidInput(f"{path} is a datetime without a time zone")
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, uuid.UUID) else value


def _scalar(value: object, path: str) -> JSON:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text_of(value, path, empty=True)
    if isinstance(value, int):
        return _integer(value, path)
    if isinstance(value, float):
        return _number(value, path)
    if isinstance(value, _BYTES):
        raise InvalidInput(f"{path} is bytes; encode them as text first")
    raise InvalidInput(f"{path} is a {type(value).__name__}, which is not data")


def _key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidInput(f"{path} has the key {key!r}, which is no string")
    return text_of(key, f"a key of {path}", empty=True)


def _integer(value: int, path: str) -> int:
    if value.bit_length() > _MOST_BITS:
        raise InvalidInput(f"{path} is an integer of more than {_MOST_BITS} bits")
    return int(value)


def _number(value: float, path: str) -> int | float:
    if not math.isfinite(value):
        raise InvalidInput(f"{path} is {value}, which JSON does not have")
    # Postgres keeps JSON numbers as decimals: 1e22 would come back as an integer, and -0.0 without its sign.
    if abs(value) >= _INTEGRAL_FROM and value.is_integer():
        return int(value)
    return value + 0.0
