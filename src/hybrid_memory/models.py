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


@dataclass(frozen=True, slots=True)
class EntityRef:
    """Names an entity by its id in its own system, whether or not it is known yet.

    With a type and a name it can also be meant without an id; with all of them it becomes known by being named.
    """

    entity_system: str
    entity_id: str | None = None
    entity_type: str | None = None
    entity_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberedOutput:
    """What became of a tool's result: the memory it is stored as, and the entities found in it.

    `left_out` counts the values and entities that were too many or too deep, or could not be stored.
    """

    node_id: str
    entity_ids: tuple[str, ...] = ()
    left_out: int = 0


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
    listener: Literal["listening", "polling", "off"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserStats:
    """What a user has, counted exactly and now: no memory that has expired, and no stub of an entity.

    `views_age` says how many seconds ago the views over all users were refreshed; None: never. `queued_operations` and
    `pending_embeddings` are None until the parts exist that they are about.
    """

    user_id: str
    node_count: int
    relationship_count: int
    entity_count: int
    context_types: tuple[str, ...]
    average_importance: float | None
    total_accesses: int
    earliest_node: datetime | None
    latest_node: datetime | None
    by_context_type: Mapping[str, int]
    version: int
    queued_operations: int | None = None
    pending_embeddings: int | None = None
    views_age: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    """What a cleanup removed: memories that were old, memories that had expired, and what went with them.

    `users` is how many users lost something, `notes` how many notes of threads went.
    """

    memories: int = 0
    expired: int = 0
    relationships: int = 0
    notes: int = 0
    users: int = 0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one batch of a cleanup removed, and the user's version after it. Stubs are among the removed only."""

    version: int
    removed: int
    expired: int
    old: int
    relationships: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """What one way of finding said of a memory: its place among what that way found, and its score from 0 to 1.

    `weight` is the share the score has in the whole; `reason` is for people.
    """

    rank: int
    score: float
    weight: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a memory was found. As text it is one line per way of finding; complete as data.

    Args:
        arms: by name, only those that say something of it.
        matched: the words of the question that the memory itself holds.
        path: the memories that led to it along relationships, from the one that the question names.
        window: the span of time that the question speaks of, if it happened then.
        vitality: how fresh and important it is, whatever is asked: from 0.05 to 1.
        timings_ms: how long each part of the search took, the same for all hits of one search.
    """

    arms: Mapping[str, ArmScore] = field(default_factory=dict)
    matched: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    window: tuple[datetime, datetime] | None = None
    vitality: float = 1.0
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: rank {arm.rank}, {arm.score:.2f} x {arm.weight:.2f}: {arm.reason}"
            for name, arm in self.arms.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallHit:
    """A memory that was found, and how well it fits: from 0 to 1, comparable within one search."""

    node: MemoryNode
    score: float
    explanation: Explanation | None = None
