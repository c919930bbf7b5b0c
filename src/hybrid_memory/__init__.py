"""Checkpoints, store and memory graph for LangGraph agents."""

from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.manager import HybridMemoryManager
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.observability import configure_logging
from hybrid_memory.settings import Settings

__all__ = [
    "HybridMemoryError",
    "HybridMemoryManager",
    "MemoryNode",
    "Relationship",
    "Settings",
    "UserMemory",
    "configure_logging",
]
__version__ = "0.1.0"
