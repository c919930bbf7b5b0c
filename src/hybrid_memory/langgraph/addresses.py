"""Between LangGraph's configs and the addresses of checkpoints."""

from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import get_checkpoint_id

from hybrid_memory.errors import InvalidInput
from hybrid_memory.sqlite.checkpoints.rows import Address


def address_of(config: RunnableConfig) -> Address:
    """The thread and namespace a config is about.

    Raises:
        InvalidInput: it names no thread, or one that cannot be stored.
    """
    configurable = config.get("configurable", {})
    return Address(thread_id_of(configurable.get("thread_id")), _text(_namespace(configurable) or "", "checkpoint_ns"))


def namespace_of(config: RunnableConfig) -> str | None:
    """The namespace, or None when the config names none."""
    named = _namespace(config.get("configurable", {}))
    return None if named is None else _text(named, "checkpoint_ns")


def checkpoint_id_of(config: RunnableConfig | None) -> str | None:
    """The checkpoint a config is about; None stands for the newest one."""
    named = get_checkpoint_id(config) if config and config.get("configurable") else None
    return _text(named, "checkpoint_id") if named else None


def thread_id_of(value: object) -> str:
    """A thread's id as text.

    Raises:
        InvalidInput: there is none, or it cannot be stored.
    """
    if value is None:
        raise InvalidInput("configurable.thread_id: missing; it says which thread this is about")
    return _text(value, "thread_id")


def config_of(address: Address, checkpoint_id: str) -> RunnableConfig:
    """The config of a checkpoint."""
    return {
        "configurable": {
            "thread_id": address.thread_id,
            "checkpoint_ns": address.namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def _namespace(configurable: dict[str, Any]) -> Any:
    return configurable.get("checkpoint_ns")


def _text(value: object, field: str) -> str:
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"configurable.{field}: contains half of a surrogate pair") from error
    return text
