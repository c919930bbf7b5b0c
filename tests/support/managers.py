"""Managers on the servers of the tests."""

from typing import Any

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.postgres.target import Target, Targets

KNOWN_TYPES = {
    "answers", "assigned_to", "belongs_to", "child_of", "contradicts", "created_by", "depends_on", "has", "led_to",
    "mentions", "owned_by", "owns", "parent_of", "produces", "refines", "relates_to", "subtask_of",
}  # fmt: skip


def settings_for(targets: Targets, **keywords: Any) -> Settings:
    """The runtime role on that database; what is in Postgres is asked for at every call."""
    target = targets.runtime
    parts: dict[str, Any] = {
        "postgres_host": target.hosts[0],
        "postgres_port": target.ports[0],
        "postgres_db": target.database,
        "postgres_user": target.user,
    }
    if targets.pooled:
        parts |= {"pooler": True, "migration_url": url(targets.migration)}
        if targets.direct != targets.runtime:
            parts["postgres_listen_url"] = url(targets.direct)
    return Settings(**(parts | {"max_staleness_seconds": 0, "command_timeout_seconds": 5} | keywords))


def url(target: Target) -> str:
    """A connection as a setting; the roles of the tests have no passwords."""
    return f"postgresql://{target.user}@/{target.database}?host={target.hosts[0]}&port={target.ports[0]}"


async def run_job(manager: HybridMemoryManager, job: str) -> bool:
    """Run a background job of a manager as if its time had come; whether it did its work."""
    return await manager._on_home(lambda parts: parts.background.ask(job))
