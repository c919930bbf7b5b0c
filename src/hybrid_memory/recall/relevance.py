"""How much a memory matters now, and for a query: pure functions of the memory, the match and the moment."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import log

from hybrid_memory.models import MemoryNode

# After how many hours a memory of a type counts half.
HALF_LIFE_HOURS = {
    "search_result": 6.0,
    "temporary_state": 3.0,
    "domain_entity": 48.0,
    "conversation_fact": 24.0,
    "completed_action": 24.0,
    "tool_output": 8.0,
    "user_selection": 36.0,
}
OTHER_HALF_LIFE_HOURS = 12.0
_ACCESS_HALF_LIFE_HOURS = 2.0
_ACCESS_SHARE = 0.3
_LEAST = 0.05
# What was found by its words keeps this share of its score however old it is: old facts are facts.
_TIMELESS_SHARE = 0.6


def age_hours(node: MemoryNode, now: datetime) -> float:
    """Hours since a memory got the content it has; 0 while that waits to be confirmed."""
    return _hours(node.updated_at or node.created_at or now, now)


def happened_at(node: MemoryNode) -> datetime | None:
    """When what a memory tells happened: what a message says of itself, else when the memory was made."""
    said = node.content.get("at") if node.context_type == "conversation_message" else None
    if isinstance(said, str):
        try:
            at = datetime.fromisoformat(said)
        except ValueError:
            return node.created_at
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return node.created_at


def vitality(node: MemoryNode, now: datetime) -> float:
    """From 0.05 to 1: its importance, halved with every half-life of its type, and lifted by a recent access."""
    half_life = HALF_LIFE_HOURS.get(node.context_type, OTHER_HALF_LIFE_HOURS)
    kept = node.importance * _halved(age_hours(node, now), half_life)
    if node.last_accessed_at is not None:
        kept += _ACCESS_SHARE * _halved(_hours(node.last_accessed_at, now), _ACCESS_HALF_LIFE_HOURS)
    return min(1.0, max(_LEAST, kept))


def rarity(holders: int, memories: int) -> float:
    """What a word tells, from the number of memories that have it."""
    return log(1 + (memories - holders + 0.5) / (holders + 0.5))


def overlap(weights: Mapping[str, float], rarities: Iterable[tuple[str, float]]) -> float:
    """From 0 to 1: how much of what a query asks is in a memory, rare words counting more, and good places."""
    asked = met = 0.0
    for word, rare in rarities:
        asked += rare
        met += rare * weights.get(word, 0.0)
    return met / asked if asked else 0.0


def relevance(matched: float, vital: float) -> float:
    """From 0 to 1: what was matched, faded by time."""
    return matched * (_TIMELESS_SHARE + (1 - _TIMELESS_SHARE) * vital)


def _hours(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds() / 3600)


def _halved(hours: float, half_life: float) -> float:
    return float(0.5 ** (hours / half_life))
