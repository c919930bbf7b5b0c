"""The store that is tested, on an event loop of its own, and the form in which its tests are written."""

import asyncio
import inspect
import itertools
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from importlib import import_module
from typing import Any, TypeVar, cast

from langgraph.store.base import BaseStore, IndexConfig

from hybrid_memory.testing.embedder import DIMENSIONS, WordCounts

Namespace = tuple[str, ...]
Result = TypeVar("Result")
Test = Callable[[BaseStore, Namespace], Awaitable[None]]


class Subject:
    """One store for all tests; each has a root of its own, so that nobody meets what another has left."""

    def __init__(self, factory: Callable[..., Any]) -> None:
        self._factory = factory
        self._runner = asyncio.Runner()
        self._closing = AsyncExitStack()
        self._run = uuid.uuid4().hex[:8]
        self._numbers = itertools.count()
        self._store: BaseStore | None = None
        self.searches_by_vector = "index" in inspect.signature(factory).parameters

    @property
    def store(self) -> BaseStore:
        """The store; opened when it is first asked for."""
        if self._store is None:
            self._store = self.run(self._opened())
        return self._store

    def root(self) -> Namespace:
        """A namespace that nobody else uses."""
        return (f"conformance-{self._run}", f"test-{next(self._numbers)}")

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something on the store's loop."""
        return self._runner.run(work)

    def close(self) -> None:
        """Close the store and its loop."""
        self.run(self._closing.aclose())
        self._runner.close()

    async def _opened(self) -> BaseStore:
        index = IndexConfig(dims=DIMENSIONS, embed=WordCounts(), fields=["$"])
        made = self._factory(index=index) if self.searches_by_vector else self._factory()
        if isinstance(made, BaseStore):
            return made
        if isinstance(made, AbstractAsyncContextManager):
            return cast("BaseStore", await self._closing.enter_async_context(made))
        if isinstance(made, AbstractContextManager):
            return cast("BaseStore", self._closing.enter_context(made))
        return cast("BaseStore", await made)


def on_store(test: Test) -> Callable[[Subject], None]:
    """Make a test of an async function of a store and a namespace of its own."""

    def run(subject: Subject) -> None:
        async def body() -> None:
            # A store that does not answer is a failure, not a run that never ends.
            async with asyncio.timeout(_SECONDS):
                await test(store, root)

        store, root = subject.store, subject.root()
        subject.run(body())

    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    return run


_SECONDS = 30.0


def factory_of(name: str) -> Callable[..., Any]:
    """The factory that `module:name` stands for.

    Raises:
        ValueError: there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        return cast("Callable[..., Any]", getattr(import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--store {name}: there is no such factory ({error})") from None
