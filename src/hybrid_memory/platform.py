"""For `langgraph.json`: the checkpointer and the store of one manager, configured from the environment.

"checkpointer": {"path": "hybrid_memory.platform:checkpointer"},
"store": {"path": "hybrid_memory.platform:store"}
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hybrid_memory.default import borrowed_manager
from hybrid_memory.langgraph.checkpointer import HybridCheckpointer
from hybrid_memory.store import HybridStore


@asynccontextmanager
async def checkpointer() -> AsyncIterator[HybridCheckpointer]:
    """The checkpointer of the process's manager, which is closed with the last of its parts."""
    async with borrowed_manager() as manager:
        yield manager.checkpointer


@asynccontextmanager
async def store() -> AsyncIterator[HybridStore]:
    """The store of the process's manager, which is closed with the last of its parts."""
    async with borrowed_manager() as manager:
        yield manager.store
