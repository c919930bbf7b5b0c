"""Transient memory: what an agent notes down while it works on one thread, in `state.db`.

All calls are synchronous, need no event loop and work in any thread. A note is durable when `store` returns. The caller
decides what may be stored.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from langchain_core.utils.uuid import uuid7

from hybrid_memory.sqlite.connection import Row, Statements
from hybrid_memory.sqlite.database import Database

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TransientMemory:
    """One note of a thread."""

    node_id: str
    thread_id: str
    context_type: str
    content: Any
    content_kind: Literal["text", "json"]
    summary: str | None
    tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    importance: float
    confidence: float
    relates_to: tuple[str, ...]
    depends_on: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None


class TransientMemories:
    """The notes of all threads in one `state.db`."""

    def __init__(self, state: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._state = state
        self._clock = clock

    def store(  # noqa: PLR0913 - a note has these fields, and all but two have defaults
        self,
        thread_id: str,
        content: Any,
        context_type: str = "temporary_state",
        *,
        summary: str | None = None,
        tags: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        importance: float = 0.5,
        confidence: float = 1.0,
        relates_to: Iterable[str] = (),
        depends_on: Iterable[str] = (),
        expires_in: timedelta | float | None = None,
        node_id: str | None = None,
    ) -> str:
        """Note something down and give its id. A `node_id` already used in this thread is replaced, in its place.

        Args:
            thread_id: the thread it belongs to.
            content: a string, or anything JSON can hold.
            context_type: what kind of note it is.
            summary: one line about it.
            tags: words to find it by.
            metadata: anything else, as JSON.
            importance: 0 to 1.
            confidence: 0 to 1.
            relates_to: ids of other notes or memories.
            depends_on: ids of other notes or memories.
            expires_in: seconds, or a timedelta, after which it is not listed any more.
            node_id: an id of your own.

        Raises:
            StorageUnavailable: not stored.
        """
        node_id = str(uuid7()) if node_id is None else node_id
        now = self._clock()
        values = {
            "thread_id": thread_id,
            "node_id": node_id,
            "context_type": context_type,
            "content": _json(content),
            "content_kind": "text" if isinstance(content, str) else "json",
            "summary": summary,
            "tags": _json(list(tags)),
            "metadata": _json(dict(metadata or {})),
            "importance": float(importance),
            "confidence": float(confidence),
            "relates_to": _json(list(relates_to)),
            "depends_on": _json(list(depends_on)),
            "created_at": _microseconds(now),
            "expires_at": None if expires_in is None else _microseconds(now + _duration(expires_in)),
        }

        def job(sql: Statements) -> None:
            place = sql.value("transient_memories.place_of", thread_id=thread_id, node_id=node_id)
            sql.run("transient_memories.store", position=place, **values)

        self._state.write_blocking(job)
        return node_id

    def of_thread(self, thread_id: str) -> list[TransientMemory]:
        """The notes of a thread in the order they were made, without the expired ones."""
        now = _microseconds(self._clock())
        rows = self._state.read_blocking(
            lambda sql: sql.rows("transient_memories.of_thread", thread_id=thread_id, now=now)
        )
        return [_memory(row) for row in rows]

    def get(self, thread_id: str, node_id: str) -> TransientMemory | None:
        """One note, or None when there is none or it has expired."""
        now = _microseconds(self._clock())
        row = self._state.read_blocking(
            lambda sql: sql.row("transient_memories.one", thread_id=thread_id, node_id=node_id, now=now)
        )
        return None if row is None else _memory(row)

    def forget(self, thread_id: str, node_id: str) -> bool:
        """Remove a note; whether there was one."""
        return bool(
            self._state.write_blocking(
                lambda sql: sql.run("transient_memories.forget", thread_id=thread_id, node_id=node_id)
            )
        )

    def forget_thread(self, thread_id: str) -> int:
        """Remove all notes of a thread; how many there were."""
        return self._state.write_blocking(lambda sql: sql.run("transient_memories.forget_thread", thread_id=thread_id))

    def clean_up(self, older_than: timedelta) -> int:
        """Remove what has expired, and the threads nothing was noted in for `older_than`; how many notes that were."""
        now = self._clock()
        before = now - min(older_than, now - _EPOCH)

        def job(sql: Statements) -> int:
            quiet = sql.run("transient_memories.forget_quiet_threads", before=_microseconds(before))
            return quiet + sql.run("transient_memories.forget_expired", now=_microseconds(now))

        return self._state.write_blocking(job)


def _memory(row: Row) -> TransientMemory:
    return TransientMemory(
        node_id=row[0],
        thread_id=row[1],
        context_type=row[2],
        content=json.loads(row[3]),
        content_kind=row[4],
        summary=row[5],
        tags=tuple(json.loads(row[6])),
        metadata=json.loads(row[7]),
        importance=row[8],
        confidence=row[9],
        relates_to=tuple(json.loads(row[10])),
        depends_on=tuple(json.loads(row[11])),
        created_at=_EPOCH + row[12] * _MICROSECOND,
        expires_at=None if row[13] is None else _EPOCH + row[13] * _MICROSECOND,
    )


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _duration(value: timedelta | float) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
