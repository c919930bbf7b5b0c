"""The values that travel between the layers and to the caller."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

NEVER_WRITTEN_BY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNode:
    """One memory of one user. `version` is None until Postgres has confirmed it.

    A memory stored as a string has `content_kind` "text"; `text` gives the string back.
    """

    user_id: str
    node_id: str
    context_type: str
    content: Any
    content_kind: str = "json"
    summary: str = ""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    importance: float = 0.5
    confidence: float = 1.0
    external_id: str | None = None
    thread_id: str | None = None
    seq: int | None = None
    namespace: tuple[str, ...] | None = None
    key: str | None = None
    version: int | None = None
    written_at: datetime | None = None
    written_by: str = NEVER_WRITTEN_BY
    created_at: datetime | None = None
    updated_at: datetime | None = None
    last_accessed_at: datetime | None = None
    access_count: int = 0
    expires_at: datetime | None = None

    @property
    def text(self) -> str | None:
        """The string this memory was stored as; None when it was stored as data."""
        return self.content["text"] if self.content_kind == "text" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a manager is, as far as it knows without asking anybody. None stands for a part that does not exist yet."""

    postgres: Literal["up", "down", "off"]
    mode: Literal["hybrid", "sqlite"]
    data_dir: str
    sqlite_version: str
    breaker: str | None = None
    outbox_depth: int | None = None
    outbox_oldest_seconds: float | None = None
    quarantined: int | None = None
    pending_embeddings: int | None = None
    listener: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept of the checkpoints of a thread; None keeps everything. Ages in seconds, or as timedelta.

    The newest checkpoint of every namespace is always kept, with all that is needed to go on from it, and so is a
    thread that waits for an answer to an interrupt.

    Args:
        keep_last: that many of the newest checkpoints of each namespace.
        max_age: those that are not older.
        max_idle: the thread as a whole, unless nothing happened in it for longer.
    """

    keep_last: int | None = None
    max_age: timedelta | float | None = None
    max_idle: timedelta | float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadInfo:
    """A thread with checkpoints: when something was last stored in it, its last step, and what it takes."""

    thread_id: str
    last_activity: datetime
    step: int | None
    checkpoints: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Relationship:
    """A directed edge between two memories of one user."""

    user_id: str
    from_node_id: str
    to_node_id: str
    relationship_type: str
    strength: float = 1.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
