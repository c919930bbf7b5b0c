"""How much a memory matters now, whatever is asked: its importance, its age, and when it was last read."""

from datetime import UTC, datetime

import numpy as np

from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.columns import Columns, Moments, Slots
from hybrid_memory.recall.passage import MESSAGE

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
LEAST_VITALITY = 0.05
# Nothing is left of it by then, and processors are slow with almost nothing.
_MOST_LIVES = 30.0


def half_life_hours(context_type: str) -> float:
    """After how many hours a memory of this type counts half."""
    return HALF_LIFE_HOURS.get(context_type, OTHER_HALF_LIFE_HOURS)


def happened_at(node: MemoryNode) -> datetime | None:
    """When what a memory tells happened: what a message says of itself, else when the memory was made."""
    said = node.content.get("at") if node.context_type == MESSAGE and isinstance(node.content, dict) else None
    if isinstance(said, str):
        try:
            at = datetime.fromisoformat(said)
        except ValueError:
            return node.created_at
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return node.created_at


def age_hours(node: MemoryNode, now: datetime) -> float:
    """Hours since a memory got the content it has; 0 while that waits to be confirmed."""
    since = node.updated_at or node.created_at or now
    return max(0.0, (now - since).total_seconds() / 3600)


def vitality(columns: Columns, slots: Slots, now_hours: float) -> Moments:
    """From 0.05 to 1: importance, halved with every half-life of the type, and lifted by a recent access."""
    lives = np.minimum(np.maximum((now_hours - columns.updated[slots]) / columns.half_life[slots], 0.0), _MOST_LIVES)
    kept: Moments = columns.importance[slots] * np.exp2(-lives)
    accessed = columns.accessed[slots]
    read = np.flatnonzero(accessed > now_hours - _MOST_LIVES * _ACCESS_HALF_LIFE_HOURS)
    if len(read):
        kept[read] += _ACCESS_SHARE * np.exp2(-np.maximum(0.0, now_hours - accessed[read]) / _ACCESS_HALF_LIFE_HOURS)
    return np.minimum(np.maximum(kept, LEAST_VITALITY), 1.0)
