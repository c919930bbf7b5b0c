"""What a batch made different, from the little that Postgres tells: of new memories only what it alone knows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.postgres.nodes import node_from_json
from hybrid_memory.postgres.relationships import relationship_from_json

Row = Mapping[str, Any]
# The columns of a new memory that are as they were sent, and those that may be left open.
_AS_SENT = (
    "context_type", "content_kind", "summary", "tags", "importance", "confidence", "external_id", "thread_id",
    "namespace", "key", "written_by", "expires_at",
)  # fmt: skip
_JSON = ("content", "metadata")
_TIMES_LEFT_OPEN = ("created_at", "updated_at", "last_accessed_at")


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch made different: rows as they are now, and the memories that are gone."""

    nodes: Sequence[MemoryNode]
    relationships: Sequence[Relationship]
    deleted: frozenset[str]


NOTHING_WRITTEN = Written((), (), frozenset())


def written_of(user_id: str, version: int, echo: Row, sent: Iterable[Row]) -> Written:
    """What a user's batch made different, from what Postgres says of it and the rows of the memories in it."""
    gone = frozenset(echo["deleted"])
    by_id = {row["node_id"]: row for row in sent}
    new = [_as_sent(by_id[told["node_id"]], told, version, echo["now"]) for told in echo["new"]]
    return Written(
        # What was counted of a new memory comes after it.
        [node_from_json(user_id, row) for row in (*new, *echo["nodes"]) if row["node_id"] not in gone],
        [relationship_from_json(user_id, row) for row in echo["edges"]],
        gone,
    )


def in_order(value: Any) -> Any:
    """JSON with its keys as Postgres gives them back: what is made of a memory's text is the same everywhere."""
    if isinstance(value, dict):
        keys = sorted(value, key=_place_of_key) if len(value) > 1 else value
        return {key: in_order(value[key]) for key in keys}
    if isinstance(value, list):
        return [in_order(one) for one in value]
    return value


def _place_of_key(key: str) -> tuple[int, bytes]:
    encoded = key.encode()
    return len(encoded), encoded


def _as_sent(sent: Row, told: Row, version: int, now: str) -> dict[str, Any]:
    """The row of a memory that was not there before, as Postgres would write it."""
    row = {name: sent.get(name) for name in _AS_SENT}
    for name in _JSON:
        row[name] = in_order(sent.get(name))
    for name in _TIMES_LEFT_OPEN:
        row[name] = sent.get(name) or now
    return row | {"version": version, "access_count": 0, **told}
