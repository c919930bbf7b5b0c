"""Checkpoints made by hand, as a graph would put them, and a look at the rows they become."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from hybrid_memory import HybridCheckpointer

TABLES = ("checkpoint_lines", "checkpoints", "checkpoint_values", "checkpoint_writes")


def config_of(thread_id: str, checkpoint_id: str | None = None, namespace: str = "") -> RunnableConfig:
    named = {"thread_id": thread_id, "checkpoint_ns": namespace}
    return {"configurable": named if checkpoint_id is None else {**named, "checkpoint_id": checkpoint_id}}


class Thread:
    """Puts one checkpoint after another, each the child of the one before; only what changed has a new version."""

    def __init__(self, checkpointer: HybridCheckpointer, thread_id: str = "t", namespace: str = "") -> None:
        self.checkpointer = checkpointer
        self.thread_id = thread_id
        self.namespace = namespace
        self.newest: str | None = None
        self.values: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.step = -1

    def put(
        self, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None, *, absent: Sequence[str] = ()
    ) -> RunnableConfig:
        """Change these channels and put a checkpoint; those in `absent` get a version and no value."""
        self.step += 1
        config, checkpoint, versions = self.next(values, absent)
        told = {"source": "loop", "step": self.step, "parents": {}, **(metadata or {})}
        stored = self.checkpointer.put(config, checkpoint, told, versions)  # type: ignore[arg-type]
        self.newest = checkpoint["id"]
        return stored

    def next(
        self, values: Mapping[str, Any], absent: Sequence[str] = ()
    ) -> tuple[RunnableConfig, Checkpoint, dict[str, Any]]:
        """What putting these changes takes."""
        current = max(self.versions.values(), default=None)
        version = self.checkpointer.get_next_version(current, None)
        changed = dict.fromkeys([*values, *absent], version)
        self.values = {name: value for name, value in self.values.items() if name not in absent} | dict(values)
        self.versions |= changed
        checkpoint = empty_checkpoint()
        checkpoint["id"] = str(uuid6(clock_seq=self.step))
        checkpoint["channel_values"] = dict(self.values)
        checkpoint["channel_versions"] = dict(self.versions)
        return config_of(self.thread_id, self.newest, self.namespace), checkpoint, changed

    def write(self, writes: Sequence[tuple[str, Any]], task_id: str = "task", path: str = "") -> None:
        self.checkpointer.put_writes(config_of(self.thread_id, self.newest, self.namespace), writes, task_id, path)

    def state(self) -> dict[str, Any]:
        found = self.checkpointer.get_tuple(config_of(self.thread_id, namespace=self.namespace))
        assert found is not None
        return found.checkpoint["channel_values"]

    def all(self) -> list[CheckpointTuple]:
        return list(self.checkpointer.list(config_of(self.thread_id, namespace=self.namespace)))


def rows(checkpointer: HybridCheckpointer) -> dict[str, int]:
    """How many rows each table has, after comparing all of them with their checksums."""
    return checkpointer._state.database().read_blocking(
        lambda sql: {table: sql.value(f"{table}.verify") for table in TABLES}
    )


def stored_bytes(checkpointer: HybridCheckpointer) -> int:
    """What all checkpoints take, values and writes included."""
    return sum(one.bytes for one in checkpointer.threads())


def ids(found: Iterator[CheckpointTuple] | Sequence[CheckpointTuple]) -> list[str]:
    return [one.checkpoint["id"] for one in found]
