"""The one manager of a process that nobody made by hand, configured from the environment."""

import asyncio
import atexit
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from hybrid_memory.manager import HybridMemoryManager
from hybrid_memory.memory.progress import Progress
from hybrid_memory.memory.user_memory import UserMemory

_SECONDS_AT_EXIT = 2.0

_lock = threading.Lock()
_manager: HybridMemoryManager | None = None
_borrowers = 0


def get_manager() -> HybridMemoryManager:
    """The process's manager, made by the first call and started by its own first call."""
    global _manager  # noqa: PLW0603 - the one default manager is the one global
    with _lock:
        if _manager is None:
            _manager = HybridMemoryManager()
        return _manager


async def close_manager() -> None:
    """Close the process's manager; the next `get_manager` makes a new one."""
    manager = _taken()
    if manager is not None:
        await manager.aclose()


@asynccontextmanager
async def borrowed_manager() -> AsyncIterator[HybridMemoryManager]:
    """The process's manager, started; whoever is the last to give it back closes it."""
    global _borrowers  # noqa: PLW0603 - belongs to the one global
    manager = get_manager()
    with _lock:
        _borrowers += 1
    try:
        await manager.start()
        yield manager
    finally:
        with _lock:
            _borrowers -= 1
            last = _borrowers == 0
        if last:
            await close_manager()


async def ensure_user_memories(user_id: str, *, progress: Progress | None = None) -> UserMemory:
    """`HybridMemoryManager.ensure_user_memories` of the process's manager, for the start of a session."""
    return await get_manager().ensure_user_memories(user_id, progress=progress)


def _taken() -> HybridMemoryManager | None:
    global _manager
    with _lock:
        manager, _manager = _manager, None
        return manager


@atexit.register
def _close_at_exit() -> None:
    manager = _taken()
    if manager is not None:
        # `asyncio.run` ends with a thread, of which Python 3.12 gives none any more.
        with closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(manager.aclose(_SECONDS_AT_EXIT))
