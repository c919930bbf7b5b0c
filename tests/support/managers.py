"""Managers on the servers of the tests."""

from typing import Any

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.postgres.target import Targets

KNOWN_TYPES = {
    "answers", "assigned_to", "belongs_to", "child_of", "contradicts", "created_by", "depends_on", "has", "led_to",
    "mentions", "owned_by", "owns", "parent_of", "produces", "refines", "relates_to", "subtask_of",
}  # fmt: skip


def settings_for(targets: Targets, **keywords: Any) -> Settings:
    """The runtime role on that database; what is in Postgres is asked for at every call."""
    target = targets.runtime
    parts = {"postgres_host": target.hosts[0], "postgres_db": target.database, "postgres_user": target.user}
    return Settings(**(parts | {"max_staleness_seconds": 0, "command_timeout_seconds": 5} | keywords))


async def run_job(manager: HybridMemoryManager, job: str) -> bool:
    """Run a background job of a manager as if its time had come; whether it did its work."""
    return await manager._on_home(lambda parts: parts.background.ask(job))
