"""Checkpoints, store and memory graph for LangGraph agents."""

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
