"""Checkpoints, store and memory graph for LangGraph agents."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_memory.default import close_manager, ensure_user_memories, get_manager
    from hybrid_memory.errors import HybridMemoryError
    from hybrid_memory.langgraph.checkpointer import HybridCheckpointer
    from hybrid_memory.manager import HybridMemoryManager
    from hybrid_memory.memory.extraction.records import FoundEntity, Recogniser, RecordContext
    from hybrid_memory.memory.user_memory import UserMemory
    from hybrid_memory.models import (
        EntityRef,
        Health,
        MemoryNode,
        RecallHit,
        Relationship,
        RememberedOutput,
        Retention,
        ThreadInfo,
        UserStats,
    )
    from hybrid_memory.observability import configure_logging
    from hybrid_memory.settings import Settings
    from hybrid_memory.store import HybridStore

__all__ = [
    "EntityRef",
    "FoundEntity",
    "Health",
    "HybridCheckpointer",
    "HybridMemoryError",
    "HybridMemoryManager",
    "HybridStore",
    "MemoryNode",
    "RecallHit",
    "Recogniser",
    "RecordContext",
    "Relationship",
    "RememberedOutput",
    "Retention",
    "Settings",
    "ThreadInfo",
    "UserMemory",
    "UserStats",
    "close_manager",
    "configure_logging",
    "ensure_user_memories",
    "get_manager",
]
__version__ = "0.1.0"

# Whoever needs one part, such as a command that prints its help, does not wait for all of them.
_HOMES = {
    "default": ("close_manager", "ensure_user_memories", "get_manager"),
    "errors": ("HybridMemoryError",),
    "langgraph.checkpointer": ("HybridCheckpointer",),
    "manager": ("HybridMemoryManager",),
    "memory.extraction.records": ("FoundEntity", "Recogniser", "RecordContext"),
    "memory.user_memory": ("UserMemory",),
    "models": (
        "EntityRef",
        "Health",
        "MemoryNode",
        "RecallHit",
        "Relationship",
        "RememberedOutput",
        "Retention",
        "ThreadInfo",
        "UserStats",
    ),
    "observability": ("configure_logging",),
    "settings": ("Settings",),
    "store": ("HybridStore",),
}

if not TYPE_CHECKING:  # type checkers would take it for an answer to any name

    def __getattr__(name: str) -> Any:
        for module, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
