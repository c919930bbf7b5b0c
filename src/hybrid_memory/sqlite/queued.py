"""An operation on its way to Postgres: what is known of it, and the bytes it is kept in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from hybrid_memory.errors import InvalidInput
from hybrid_memory.sqlite.checksum import row_checksum
from hybrid_memory.sqlite.connection import Row

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Postgres keeps vectors at this precision or at half of it.
_FLOAT = np.dtype("<f4")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedOperation:
    """One numbered write that Postgres has not confirmed.

    `row` holds the columns by name, JSON values only; each of `embeddings` is a dict with `values` and whatever else
    describes the vector. `position`, `attempts`, `not_before`, `reason` and `quarantined_at` are the outbox's own. In
    quarantine `row` is empty when the content was lost to damage.
    """

    user_id: str
    incarnation: str | None
    instance_id: str
    n: int
    kind: str
    row: Mapping[str, Any]
    embeddings: Sequence[Mapping[str, Any]] = ()
    queued_at: datetime
    attempts: int = 0
    not_before: datetime | None = None
    reason: str | None = None
    quarantined_at: datetime | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class Payload:
    """What an operation says, as bytes; `vectors` are those of its embeddings, one after the other."""

    content: bytes
    vectors: bytes

    @property
    def size(self) -> int:
        """Bytes of both."""
        return len(self.content) + len(self.vectors)

    def hash_for(self, user_id: str, kind: str) -> int:
        """What tells that this is still what was to be written, and whose it is."""
        return row_checksum("operation", user_id, kind, self.content, self.vectors)


def encoded(operation: QueuedOperation) -> Payload:
    """The bytes of an operation.

    Raises:
        InvalidInput: it holds something JSON has no words for.
    """
    vectors = [np.asarray(one["values"], dtype=_FLOAT) for one in operation.embeddings]
    embeddings = [
        {key: value for key, value in one.items() if key != "values"} | {"dimensions": len(vector)}
        for one, vector in zip(operation.embeddings, vectors, strict=True)
    ]
    try:
        content = json.dumps(
            {"row": operation.row, "embeddings": embeddings},
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        ).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"operation {operation.n}: {error}") from error
    return Payload(content, b"".join(vector.tobytes() for vector in vectors))


def decoded(row: Row) -> tuple[QueuedOperation, bool]:
    """The operation of a row with its payload, and whether it is what was to be written.

    The columns are those of `outbox.queue_of` and its likes, in their order.
    """
    position, user_id, incarnation, instance_id, number, kind, _, payload_hash, queued_at, attempts, *others = row
    not_before, quarantined_at, reason, content, vectors = others
    payload = None if content is None else Payload(content, vectors)
    sound = payload is not None and payload.hash_for(user_id, kind) == payload_hash
    columns, embeddings = _contents(payload) if payload is not None and sound else ({}, [])
    return QueuedOperation(
        user_id=user_id,
        incarnation=incarnation,
        instance_id=instance_id,
        n=number,
        kind=kind,
        row=columns,
        embeddings=embeddings,
        queued_at=moment(queued_at),
        attempts=attempts,
        not_before=moment(not_before) if not_before else None,
        reason=reason,
        quarantined_at=None if quarantined_at is None else moment(quarantined_at),
        position=position,
    ), sound


def microseconds(when: datetime) -> int:
    """A moment as the tables hold it."""
    return (when - _EPOCH) // _MICROSECOND


def moment(count: int) -> datetime:
    """A moment from how the tables hold it."""
    return _EPOCH + count * _MICROSECOND


def _contents(payload: Payload) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = json.loads(payload.content)
    numbers = np.frombuffer(payload.vectors, dtype=_FLOAT)
    embeddings, start = [], 0
    for one in found["embeddings"]:
        end = start + one.pop("dimensions")
        embeddings.append({**one, "values": numbers[start:end].tolist()})
        start = end
    return found["row"], embeddings
