"""Outboxes for tests: opened for a block, with the lease taken, and operations to put in."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from hybrid_memory.observability import Events
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.leases import Leases
from hybrid_memory.sqlite.outbox import LEASE, Outbox
from hybrid_memory.sqlite.queued import QueuedOperation

NOW = datetime(2026, 11, 21, 12, 0, 0, 123_456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RUN = "0192f0c1-0000-7000-8000-000000000001"
OTHER_RUN = "0192f0c1-0000-7000-8000-000000000002"


@asynccontextmanager
async def outbox_in(
    directory: Path, events: Events | None = None, *, owner: str = RUN, now: datetime = NOW, **limits: int
) -> AsyncIterator[tuple[Database, Outbox]]:
    """An outbox whose lease this process has."""
    limits = {"most_operations": 1_000_000, "most_bytes": 1_000_000_000} | limits
    with Database(STATE, directory, events or Events()) as state:
        leases = Leases(state)
        assert await leases.take(LEASE, owner, 600, now)
        try:
            yield state, Outbox(state, events or Events(), **limits)
        finally:
            leases.close()


def operation(user_id: str, n: int, *, run: str = RUN, at: datetime = NOW, **changes: Any) -> QueuedOperation:
    """A small memory of a user."""
    row = {"node_id": f"{user_id}-{run[-1]}-{n}", "content": {"text": f"value-{n:08}"}}
    values: dict[str, Any] = {
        "user_id": user_id,
        "incarnation": None,
        "instance_id": run,
        "n": n,
        "kind": "nodes",
        "row": row,
        "queued_at": at,
    }
    return QueuedOperation(**values | changes)


async def drained(
    outbox: Outbox, *, owner: str = RUN, now: datetime = NOW, most_users: int = 32, most_operations: int = 128
) -> list[list[tuple[str, str, int]]]:
    """Take everything that is due, round by round: the users, runs and numbers of each."""
    rounds = []
    while batches := await outbox.next_batches(owner, most_users=most_users, most_operations=most_operations, now=now):
        rounds.append([names(one) for batch in batches for one in batch])
        for batch in batches:
            await outbox.done(batch[0].user_id, {one.instance_id: one.n for one in batch})
    return rounds


def names(operation: QueuedOperation) -> tuple[str, str, int]:
    return operation.user_id, operation.instance_id, operation.n


def numbers(operations: Sequence[QueuedOperation]) -> list[int]:
    return [one.n for one in operations]


def wrong_in(sql: Statements) -> list[str]:
    """What of the outbox does not fit together: nothing, at any time."""
    rows = sql.connection.execute("select user_id, turn, quarantined_at is null, bytes from outbox order by position")
    led: set[object] = set()
    wrong = []
    sides = [0, 0]
    size = 0
    for user_id, turn, waits, length in cast("list[tuple[str, int | None, int, int]]", rows.fetchall()):
        if (turn is not None) != bool(waits and user_id not in led):
            wrong.append(f"the queue of {user_id} has not exactly its first operation as its head")
        if waits:
            led.add(user_id)
        sides[bool(waits)] += 1
        size += length
    counted = (sides[True], sides[False], size)
    noted = sql.connection.execute("select queued, quarantined, bytes from outbox_totals").fetchall()
    wrong += [] if noted == [counted] else [f"totals {noted}, counted {counted}"]
    orphans = sql.connection.execute(
        "select count(*) from outbox_payloads where position not in (select position from outbox)"
    ).fetchall()
    wrong += [] if orphans == [(0,)] else [f"{orphans} payloads without an operation"]
    for table in ("outbox", "outbox_payloads", "outbox_totals", "leases"):
        sql.value(f"{table}.verify")
    return wrong
