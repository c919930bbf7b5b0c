"""Figures about one user, exact and of this moment, and the refresh of the views over all users."""

import time

from hybrid_memory.graph.user_graph import Clock, utc_now
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.places import Counting
from hybrid_memory.models import UserStats
from hybrid_memory.observability import Events


class Figures:
    """What `user_stats` and `refresh_stats` do."""

    def __init__(self, statistics: Counting, accesses: Accesses, events: Events, clock: Clock = utc_now) -> None:
        self._statistics = statistics
        self._accesses = accesses
        self._events = events
        self._clock = clock

    async def of_user(self, user_id: str) -> UserStats:
        """The user's figures, this process's own accesses included."""
        await self._accesses.write_of(user_id)
        whole, by_type = await self._statistics.of_user(user_id, self._clock())
        count = sum(row["node_count"] for row in by_type)
        by_context_type = {row["context_type"]: row["node_count"] for row in by_type}
        return UserStats(
            user_id=user_id,
            node_count=count,
            relationship_count=whole["relationship_count"],
            entity_count=by_context_type.get("domain_entity", 0),
            context_types=tuple(by_context_type),
            average_importance=sum(row["importance"] for row in by_type) / count if count else None,
            total_accesses=sum(row["accesses"] for row in by_type),
            earliest_node=min((row["earliest"] for row in by_type), default=None),
            latest_node=max((row["latest"] for row in by_type), default=None),
            by_context_type=by_context_type,
            version=whole["version"] or 0,
            views_age=whole["views_age"],
        )

    async def refresh(self) -> bool:
        """Refresh the views over all users; False when another process is at it, or there are none."""
        start = time.perf_counter()
        refreshed = await self._statistics.refresh()
        if refreshed:
            self._events.info("stats_refreshed", duration_ms=round((time.perf_counter() - start) * 1000, 3))
        return refreshed
