"""One asynchronous function as something that graphs and tools can also call without an event loop."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from hybrid_memory.manager import HybridMemoryManager

P = ParamSpec("P")
Result = TypeVar("Result")
NodeWork = Callable[[Any, RunnableConfig], Coroutine[Any, Any, dict[str, Any]]]


def blocking_face(manager: HybridMemoryManager, work: Callable[P, Coroutine[Any, Any, Result]]) -> Callable[P, Result]:
    """The same call without `await`; it runs on the manager's loop."""

    @functools.wraps(work)
    def blocking(*positional: P.args, **keywords: P.kwargs) -> Result:
        return manager.run_blocking(lambda: work(*positional, **keywords))

    return blocking


def node(manager: HybridMemoryManager, name: str, work: NodeWork) -> Runnable[Any, dict[str, Any]]:
    """A node for graphs that are invoked and for those that are awaited."""
    return RunnableLambda(blocking_face(manager, work), afunc=work, name=name)
