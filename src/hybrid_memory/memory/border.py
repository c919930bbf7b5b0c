"""The border: every value a caller hands over is checked here, once, for both databases, before anything is written."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hybrid_memory.errors import InvalidInput
from hybrid_memory.memory.content import JSON, encoded, text_of
from hybrid_memory.memory.identity import new_id, node_id_of
from hybrid_memory.memory.summaries import summary_of
from hybrid_memory.postgres.batches import LARGEST_VECTOR
from hybrid_memory.recall.passage import ENTITY
from hybrid_memory.settings import Settings

STORE_OWNERS = "store:"
# The model of vectors that callers give where no embedder is in use.
GIVEN_VECTOR = "given"
LONGEST_NAME = 200
MOST_TAGS = 1000
MOST_DIMENSIONS = 4000
_LARGEST_FLOAT32 = 3.4028234663852886e38
_LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A checked memory, ready to be numbered and written: its columns, and its vector if one was given."""

    user_id: str
    node_id: str
    row: Mapping[str, Any]
    relates_to: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    embedding: tuple[float, ...] | None = None
    model: str = GIVEN_VECTOR


class Border:
    """The checks, with the limits of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def most_content_bytes(self) -> int:
        """How large the content of one memory may be, as JSON."""
        return self._settings.max_content_bytes

    @property
    def most_depth(self) -> int:
        """How deep it may be nested."""
        return self._settings.max_depth

    def user_id(self, value: object) -> str:
        """A user's id, kept byte by byte as it is given."""
        user_id = text_of(value, "user_id", most_bytes=self._settings.max_user_id_bytes)
        if user_id.startswith(STORE_OWNERS):
            raise InvalidInput(f"user_id must not begin with {STORE_OWNERS!r}, which names owners of store items")
        return user_id

    def node_id(self, user_id: str, value: str | UUID, path: str = "node_id") -> str:
        """The id of a memory in either form: a UUID, or a name of the caller's own."""
        try:
            return node_id_of(user_id, value, most_bytes=self._settings.max_key_bytes)[0]
        except InvalidInput as error:
            raise InvalidInput(str(error).replace("node_id", path, 1)) from None

    def thread_id(self, value: object) -> str:
        """The id of a thread."""
        return text_of(value, "thread_id", most_bytes=self._settings.max_key_bytes)

    def name(self, value: object, path: str) -> str:
        """A context type, relationship type, role, or another short name."""
        return text_of(value, path, most_bytes=LONGEST_NAME)

    def question(self, value: object) -> str:
        """What somebody asks, however short or long."""
        return text_of(value, "query", most_bytes=self._settings.max_content_bytes, empty=True)

    def summary(self, value: object) -> str:
        """One line about a memory, of whatever length."""
        return text_of(value, "summary", empty=True)

    def line(self, value: object, path: str) -> str:
        """A name or id given by the world outside, as long as a key may be."""
        return text_of(value, path, most_bytes=self._settings.max_key_bytes)

    def address(self, labels_and_key: str) -> str:
        """The labels of a namespace with the key, as one text."""
        return text_of(labels_and_key, "key with its namespace", most_bytes=self._settings.max_key_bytes, empty=True)

    def item(self, value: object) -> tuple[dict[str, Any], str]:
        """The value of an item of a store, which has to come back as it is, and its text."""
        if not isinstance(value, Mapping):
            raise InvalidInput(f"value must be a mapping, not {type(value).__name__}")
        plain, text = encoded(
            value,
            "value",
            most_bytes=self._settings.max_content_bytes,
            most_depth=self._settings.max_depth,
            unchanged=True,
        )
        return (plain if isinstance(plain, dict) else {}), text

    def content(self, value: object, path: str = "content") -> tuple[JSON, str, bytes]:
        """What is stored, its kind, and a hash of both. A string is stored as `{"text": ...}`."""
        if value is None:
            raise InvalidInput(f"{path} must not be None")
        kind = "text" if isinstance(value, str) else "json"
        plain, text = encoded(
            {"text": value} if kind == "text" else value,
            path,
            most_bytes=self._settings.max_content_bytes,
            most_depth=self._settings.max_depth,
        )
        return plain, kind, hashlib.sha256(f"{kind}:{text}".encode()).digest()

    def mapping(self, value: Mapping[str, Any] | None, path: str) -> dict[str, Any]:
        """A JSON object; empty when None."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{path} must be a mapping, not {type(value).__name__}")
        plain, _ = encoded(
            value, path, most_bytes=self._settings.max_content_bytes, most_depth=self._settings.max_depth
        )
        return plain if isinstance(plain, dict) else {}

    def tags(self, value: Iterable[str] | None) -> list[str]:
        """Tags in their order, each once."""
        if value is None:
            return []
        if isinstance(value, (str, bytes)):
            raise InvalidInput("tags must be a list of strings, not one string")
        tags = list(
            dict.fromkeys(text_of(tag, f"tags[{place}]", most_bytes=LONGEST_NAME) for place, tag in enumerate(value))
        )
        if len(tags) > MOST_TAGS:
            raise InvalidInput(f"tags has {len(tags)} entries, {MOST_TAGS} are allowed")
        return tags

    def share(self, value: object, path: str) -> float:
        """A number from 0 to 1."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InvalidInput(f"{path} must be a number from 0 to 1, not {value!r}")
        return float(value)

    def span(self, value: timedelta | float, path: str) -> timedelta:
        """A length of time, from seconds or a timedelta."""
        try:
            span = value if isinstance(value, timedelta) else timedelta(seconds=value)
        except (TypeError, ValueError, OverflowError):
            span = timedelta(0)
        if span <= timedelta(0):
            raise InvalidInput(f"{path} must be a positive number of seconds or a timedelta, not {value!r}")
        return span

    def expiry(self, value: timedelta | float | None, now: datetime) -> datetime | None:
        """When a memory expires."""
        if value is None:
            return None
        try:
            return now + self.span(value, "expires_in")
        except OverflowError:
            raise InvalidInput(f"expires_in is out of the range of dates: {value!r}") from None

    def moment(self, value: object, path: str) -> datetime:
        """A point in time, in UTC."""
        if not isinstance(value, datetime):
            raise InvalidInput(f"{path} must be a datetime, not {type(value).__name__}")
        if value.tzinfo is None:
            raise InvalidInput(f"{path} is a datetime without a time zone")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise InvalidInput(f"{path} is out of the range of dates") from None

    def vector(self, value: Sequence[float], path: str = "embedding") -> tuple[float, ...]:
        """A vector that has a direction, and fits the type it is stored as."""
        try:
            values = tuple(float(number) for number in value)
        except (TypeError, ValueError, OverflowError):
            raise InvalidInput(f"{path} must be a list of numbers") from None
        if not 1 <= len(values) <= MOST_DIMENSIONS:
            raise InvalidInput(f"{path} has {len(values)} dimensions, 1 to {MOST_DIMENSIONS} are allowed")
        largest = _LARGEST_FLOAT32 if len(values) <= LARGEST_VECTOR else _LARGEST_FLOAT16
        for place, number in enumerate(values):
            if not math.isfinite(number) or abs(number) > largest:
                raise InvalidInput(f"{path}[{place}] is {number}, which cannot be stored")
        if not any(values):
            raise InvalidInput(f"{path} is zero in every dimension: it has no direction to compare")
        return values

    def draft(
        self,
        user_id: str,
        content: object,
        context_type: str,
        *,
        now: datetime,
        summary: str | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        importance: float = 0.5,
        confidence: float = 1.0,
        thread_id: str | None = None,
        relates_to: Iterable[str | UUID] = (),
        depends_on: Iterable[str | UUID] = (),
        expires_in: timedelta | float | None = None,
        node_id: str | UUID | None = None,
        embedding: Sequence[float] | None = None,
        deduplicate: bool = True,
    ) -> Draft:
        """Check everything about a new memory.

        Raises:
            InvalidInput: naming the field.
        """
        owner = self.user_id(user_id)
        if node_id is None:
            own_id, name = new_id(), None
        else:
            own_id, name = node_id_of(owner, node_id, most_bytes=self._settings.max_key_bytes)
        plain, kind, content_hash = self.content(content)
        kept_type = self.name(context_type, "context_type")
        if kept_type == ENTITY:
            raise InvalidInput(f"context_type {ENTITY!r} is that of entities, which store_entity stores and merges")
        expires_at = self.expiry(expires_in, now)
        row = {
            "node_id": own_id,
            "external_id": name,
            "context_type": kept_type,
            "content": plain,
            "content_kind": kind,
            "content_hash": content_hash.hex(),
            # A memory with an id of the caller's own is the one it names, whatever it says.
            "only_once": deduplicate and node_id is None,
            "summary": summary_of(plain, kind, kept_type) if summary is None else self.summary(summary),
            "tags": self.tags(tags),
            "metadata": self.mapping(metadata, "metadata"),
            "importance": self.share(importance, "importance"),
            "confidence": self.share(confidence, "confidence"),
            "thread_id": None if thread_id is None else self.thread_id(thread_id),
            "expires_at": expires_at.isoformat() if expires_at else None,
        }
        return Draft(
            user_id=owner,
            node_id=own_id,
            row=row,
            relates_to=tuple(self.node_id(owner, one, "relates_to") for one in relates_to),
            depends_on=tuple(self.node_id(owner, one, "depends_on") for one in depends_on),
            embedding=None if embedding is None else self.vector(embedding),
        )
