"""One function as something that graphs and tools can call with and without an event loop."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig, ensure_config

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
    return _Part(name, blocking_face(manager, work), work)


def choice(function: Callable[[Any], Result]) -> Runnable[Any, Result]:
    """Where to go from a state. LangGraph asks a thread for a plain function, which takes longer than most choices."""

    async def awaited(state: Any, _: RunnableConfig) -> Result:
        return function(state)

    return _Part(function.__name__, lambda state, _: function(state), awaited)


class _Part(Runnable[Any, Result], Generic[Result]):
    """A part of a graph, run as LangGraph runs functions: in the traced run of its node, without one of its own."""

    def __init__(
        self,
        name: str,
        blocking: Callable[[Any, RunnableConfig], Result],
        awaited: Callable[[Any, RunnableConfig], Coroutine[Any, Any, Result]],
    ) -> None:
        self.name = name
        self._blocking = blocking
        self._awaited = awaited

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Result:  # noqa: A002 - the interface is LangChain's
        return self._blocking(input, ensure_config() if config is None else config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Result:  # noqa: A002 - the interface is LangChain's
        return await self._awaited(input, ensure_config() if config is None else config)
