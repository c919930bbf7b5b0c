"""Managers on the servers of the tests."""

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.postgres.target import Target, Targets, resolve
from hybrid_memory.settings import variable_of

KNOWN_TYPES = {
    "answers", "assigned_to", "belongs_to", "child_of", "contradicts", "created_by", "depends_on", "has", "led_to",
    "mentions", "owned_by", "owns", "parent_of", "produces", "refines", "relates_to", "subtask_of",
}  # fmt: skip


def settings_for(targets: Targets, **keywords: Any) -> Settings:
    """The runtime role on that database, reached as the targets say; what is in Postgres is asked for at every call."""
    target = targets.runtime
    parts: dict[str, Any] = {
        "postgres_host": target.hosts[0],
        "postgres_port": target.ports[0],
        "postgres_db": target.database,
        "postgres_user": target.user,
    }
    if targets.pooled or listens_elsewhere(targets):
        parts |= {"pooler": targets.pooled, "migration_url": url(targets.migration)}
    if listens_elsewhere(targets):
        parts["postgres_listen_url"] = url(targets.direct)
    return Settings(**(parts | {"max_staleness_seconds": 0, "command_timeout_seconds": 5} | keywords))


def url(target: Target) -> str:
    """A connection as a setting; the roles of the tests have no passwords."""
    tls = f"&sslmode={target.tls}" if target.tls else ""
    return f"postgresql://{target.user}@/{target.database}?host={target.hosts[0]}&port={target.ports[0]}{tls}"


def listens_elsewhere(targets: Targets) -> bool:
    """Whether notifications come another way than everything else."""
    return targets.direct != targets.runtime


def as_json(settings: Settings) -> dict[str, Any]:
    """What was set, for a process of its own: `Settings` makes the same of it there, secrets included."""
    given = settings.model_dump(mode="json", exclude_unset=True)
    secrets = {name: value for name, value in settings if isinstance(value, SecretStr)}
    return given | {name: value.get_secret_value() for name, value in secrets.items()}


def environment_of(settings: Settings) -> dict[str, str]:
    """What was set, as variables of the environment."""
    return {variable_of(name): str(value) for name, value in as_json(settings).items()}


def reached_by(settings: Mapping[str, Any]) -> Targets:
    """Where settings lead, for a process that was told nothing else; there is no administrator."""
    targets = resolve(Settings(**settings))
    assert isinstance(targets, Targets)
    return targets


async def run_job(manager: HybridMemoryManager, job: str) -> bool:
    """Run a background job of a manager as if its time had come; whether it did its work."""
    return await manager._on_home(lambda parts: parts.background.ask(job))
