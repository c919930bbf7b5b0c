"""The rows of the outbox, inside a query or a job: how an operation comes in, is set aside, and who is next.

The first waiting operation of a user is the head of the queue, and the only one with a turn. Every function leaves it
so, and leaves the totals right.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from hybrid_memory.errors import StorageRejected
from hybrid_memory.sqlite.connection import Row, Statements
from hybrid_memory.sqlite.queued import Payload, QueuedOperation, decoded, microseconds

LONGEST_DELAY = timedelta(minutes=10)
_BYTES = 6
_NO_LIMIT = (1 << 63) - 1

Found = tuple[QueuedOperation, bool]


def totals(sql: Statements) -> tuple[int, int, int]:
    """How many operations wait, how many are in quarantine, and the bytes of both."""
    queued, quarantined, size = sql.row("outbox_totals.now") or (0, 0, 0)
    return queued, quarantined, size


def due(sql: Statements, most: int, now: datetime, besides: Collection[str]) -> list[str]:
    """The users whose turn it is."""
    rows = sql.rows(
        "outbox.due",
        now=microseconds(now),
        furthest=microseconds(now + 2 * LONGEST_DELAY),
        besides=json.dumps(list(besides)),
        most=most,
    )
    return [user_id for (user_id,) in rows]


def queue_of(sql: Statements, user_id: str, most: int = -1, most_bytes: int = _NO_LIMIT) -> tuple[list[Found], int]:
    """The beginning of a queue, each with whether it is what was stored, and the bytes of it."""
    rows = sql.rows("outbox.queue_of", user_id=user_id, most=most, most_bytes=most_bytes)
    return [decoded(row) for row in rows], sum(row[_BYTES] for row in rows)


def add(sql: Statements, rows: Iterable[tuple[QueuedOperation, Payload]]) -> None:
    """Append, each at the end of its user's queue; what is there already stays as it is.

    Raises:
        StorageRejected: a number was used for another operation before.
    """
    place = sql.value("outbox.place_of_next")
    has_head: dict[str, bool] = {}
    queued = quarantined = size = 0
    for operation, payload in rows:
        user_id, waits = operation.user_id, operation.quarantined_at is None
        if waits and user_id not in has_head:
            has_head[user_id] = sql.value("outbox.head", user_id=user_id) is not None
        turn = place if waits and not has_head[user_id] else None
        if not sql.run("outbox.add", **_columns(operation, payload, place, turn)):
            _check_same(sql, operation, payload)
            continue
        sql.run("outbox_payloads.keep", position=place, content=payload.content, vectors=payload.vectors)
        if waits:
            has_head[user_id] = True
        queued, quarantined, size = queued + waits, quarantined + (not waits), size + payload.size
        place += 1
    sql.run("outbox_totals.change", queued=queued, quarantined=quarantined, bytes=size)


def remove_done(sql: Statements, user_id: str, up_to: Mapping[str, int]) -> int:
    """Remove what took effect, of each run up to a number; how many operations that were."""
    sizes = []
    for instance_id, number in up_to.items():
        those = {"user_id": user_id, "instance_id": instance_id, "number": number}
        sql.run("outbox_payloads.forget_done", **those)
        sizes += [size for (size,) in sql.rows("outbox.remove_done", **those)]
    if sizes:
        sql.run("outbox_totals.change", queued=-len(sizes), quarantined=0, bytes=-sum(sizes))
        _let_the_next_lead(sql, user_id)
    return len(sizes)


def set_aside(sql: Statements, places: Iterable[int], reason: str, now: datetime) -> list[Row]:
    """Move operations into quarantine: the user, run, number and kind of those that were waiting."""
    moved = []
    for place in places:
        moved += sql.rows("outbox.quarantine", position=place, quarantined_at=microseconds(now), reason=reason)
    sql.run("outbox_totals.change", queued=-len(moved), quarantined=len(moved), bytes=0)
    for user_id in dict.fromkeys(row[0] for row in moved):
        _let_the_next_lead(sql, user_id)
    return moved


def take_back(sql: Statements, place: int) -> bool:
    """Remove an operation from quarantine; whether it was there."""
    sizes = [size for (size,) in sql.rows("outbox.remove_one", position=place)]
    if sizes:
        sql.run("outbox_payloads.forget_one", position=place)
        sql.run("outbox_totals.change", queued=0, quarantined=-1, bytes=-sum(sizes))
    return bool(sizes)


def _columns(operation: QueuedOperation, payload: Payload, place: int, turn: int | None) -> Mapping[str, Any]:
    quarantined_at = operation.quarantined_at
    return {
        "position": place,
        "user_id": operation.user_id,
        "incarnation": operation.incarnation,
        "instance_id": operation.instance_id,
        "number": operation.n,
        "kind": operation.kind,
        "bytes": payload.size,
        "payload_hash": payload.hash_for(operation.user_id, operation.kind),
        "queued_at": microseconds(operation.queued_at),
        "attempts": operation.attempts,
        "not_before": 0,
        "turn": turn,
        "quarantined_at": None if quarantined_at is None else microseconds(quarantined_at),
        "reason": operation.reason,
    }


def _check_same(sql: Statements, operation: QueuedOperation, payload: Payload) -> None:
    those = {"user_id": operation.user_id, "instance_id": operation.instance_id, "number": operation.n}
    if sql.value("outbox.hash_of", **those) != payload.hash_for(operation.user_id, operation.kind):
        raise StorageRejected(f"another operation was queued under number {operation.n} of {operation.instance_id}")


def _let_the_next_lead(sql: Statements, user_id: str) -> None:
    """Make the first of a queue its head, whose turn comes after those of the others."""
    place = sql.value("outbox.head", user_id=user_id)
    if place is not None:
        sql.run("outbox.make_head", position=place, turn=sql.value("outbox.place_of_next"))
