"""Checkpoints, store and memory graph for LangGraph agents."""

from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.observability import configure_logging
from hybrid_memory.settings import Settings

__all__ = ["HybridMemoryError", "Settings", "configure_logging"]
__version__ = "0.1.0"
