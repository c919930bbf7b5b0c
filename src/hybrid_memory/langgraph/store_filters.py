"""Filters of a store's search, as a condition on values: JSON compared as JSON.

A value that is missing is None, as in the databases whose operators these are: `$ne` includes it, `{"k": None}` finds
it. Numbers compare with numbers and texts with texts; what cannot be compared is neither greater nor less.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from hybrid_memory.errors import InvalidInput

Condition = Callable[[Any], bool]

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS = ("$eq", "$ne", *_ORDER)


def condition_of(wanted: Mapping[str, Any] | None) -> Condition | None:
    """What a value has to fulfil; None when everything does.

    Raises:
        InvalidInput: it is no filter, or has an operator that does not exist.
    """
    if not wanted:
        return None
    if not isinstance(wanted, Mapping):
        raise InvalidInput(f"filter must be a mapping, not {type(wanted).__name__}")
    return _all_of({key: _condition(value, f"filter.{key}") for key, value in wanted.items()})


def _condition(wanted: object, path: str) -> Condition:
    """What is asked of one field: operators, fields of its own, or a value."""
    if not isinstance(wanted, Mapping):
        return lambda value: _equal(value, wanted)
    operators = [key for key in wanted if isinstance(key, str) and key.startswith("$")]
    if not operators:
        return _all_of({key: _condition(value, f"{path}.{key}") for key, value in wanted.items()})
    for key in wanted:
        if key not in _OPERATORS:
            raise InvalidInput(f"{path}: {key!r} is no operator; there are {', '.join(_OPERATORS)}")
    conditions = [_operation(key, value) for key, value in wanted.items()]
    return lambda value: all(holds(value) for holds in conditions)


def _all_of(fields: Mapping[str, Condition]) -> Condition:
    def holds(value: Any) -> bool:
        return isinstance(value, dict) and all(condition(value.get(key)) for key, condition in fields.items())

    return holds


def _operation(name: str, wanted: Any) -> Condition:
    if name == "$eq":
        return lambda value: _equal(value, wanted)
    if name == "$ne":
        return lambda value: not _equal(value, wanted)
    compared = _ORDER[name]
    return lambda value: _comparable(value, wanted) and compared(value, wanted)


def _comparable(one: Any, other: Any) -> bool:
    return (_is_number(one) and _is_number(other)) or (isinstance(one, str) and isinstance(other, str))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(one: Any, other: Any) -> bool:
    """Whether both are the same JSON: true is not 1, and 1 is 1.0."""
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_equal(left, right) for left, right in zip(one, other, strict=True))
    return bool(one == other)
