"""Queued operations as JSON lines, for a person to look at and for another `state.db` to take in.

One object per line with the fields of `QueuedOperation`; times are ISO 8601 in UTC. The contents of memories are in it
in full, so the file is for its owner alone.
"""

import json
import os
from collections.abc import AsyncIterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Any

from hybrid_memory.errors import InvalidInput
from hybrid_memory.sqlite.queued import QueuedOperation, encoded

_TIMES = ("queued_at", "not_before", "quarantined_at")
_TYPES: Mapping[str, type | UnionType] = {
    "user_id": str,
    "incarnation": str | None,
    "instance_id": str,
    "n": int,
    "kind": str,
    "row": dict,
    "embeddings": list,
    "queued_at": str,
    "attempts": int,
    "not_before": str | None,
    "reason": str | None,
    "quarantined_at": str | None,
    "position": int,
}


async def write_lines(path: Path, operations: AsyncIterable[QueuedOperation]) -> int:
    """Write a new file, durable when this returns; how many lines.

    Raises:
        FileExistsError: there is one; it is not touched.
    """
    count = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        async for operation in operations:
            file.write(line_of(operation) + "\n")
            count += 1
        file.flush()
        os.fsync(handle)
    return count


def read_lines(path: Path) -> Iterator[QueuedOperation]:
    """The operations of a file.

    Raises:
        InvalidInput: a line is not one of them; the text names it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                operation = operation_of(line.decode())
                _check_fit_to_keep(operation)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise InvalidInput(f"{path.name}, line {number}: {error}") from error
            yield operation


def line_of(operation: QueuedOperation) -> str:
    """One operation as JSON."""
    values: dict[str, Any] = asdict(operation)
    for name in _TIMES:
        values[name] = None if values[name] is None else values[name].isoformat()
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def operation_of(line: str) -> QueuedOperation:
    """An operation from its JSON.

    Raises:
        ValueError, TypeError: it is none.
    """
    values = json.loads(line)
    if not isinstance(values, dict) or values.keys() - _TYPES.keys():
        raise ValueError("not an operation of an outbox")
    for name, value in values.items():
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise TypeError(f"{name}: {type(value).__name__} is not what belongs there")
    for name in _TIMES:
        if values.get(name) is not None:
            values[name] = _moment(name, values[name])
    return QueuedOperation(**values)


def _check_fit_to_keep(operation: QueuedOperation) -> None:
    """See that it can be written, half surrogate pairs and vectors of other things than numbers being read as well."""
    line_of(operation).encode()
    encoded(operation)


def _moment(name: str, text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"{name}: without its offset from UTC")
    return when
