"""Starting and closing a manager: once, from whatever loop or thread, on one loop for its connections."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

from hybrid_memory.blocking import Blocking, HomeLoop
from hybrid_memory.embeddings.embedder import Embedder
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.homes import Persists, who_persists
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.state import StateFile
from hybrid_memory.wiring import Parts, opened

Result = TypeVar("Result")
_CLOSE_SECONDS = 10.0
_CLOSED = "this manager is closed; start() opens it again"


class Lifecycle:
    """The part of a manager that is about itself. The first call starts one that was not started."""

    _embedder: Embedder | None = None

    def __init__(self, settings: Settings, events: Events, persist_user: Persists | None = None) -> None:
        self.settings = settings
        self.events = events
        self._home = HomeLoop()
        self._parts: Parts | None = None
        self._starting: asyncio.Lock | None = None
        self._closed = False
        self._border = Border(settings)
        self._persists = who_persists(settings, persist_user)
        self._state = StateFile(settings.data_dir.expanduser(), events)

    @property
    def blocking(self) -> "Blocking":
        """The same calls without `await`, for plain code and threads."""
        return Blocking(self, self._home)

    def run_blocking(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run a coroutine of yours on the manager's loop, and wait for it in this thread; for tools and nodes.

        Raises:
            WrongThread: this is the thread of that loop, or that loop waits for this thread.
        """
        return self._home.run_blocking(work)

    async def start(self) -> None:
        """Connect, bring the schema up to date, and be ready. Starting a started manager does nothing.

        A server that is away is no error: it is asked again from then on, and what is written meanwhile waits for it.

        Raises:
            ConfigurationError: settings, server or rights do not fit; the text says what to do.
            SchemaMismatch: the schema in the database is not the one this version works with.
        """
        self._closed = False
        self._home.adopt_running()
        await self._home.run(self._ready)

    async def aclose(self, timeout: float = _CLOSE_SECONDS) -> None:
        """Finish what was begun, close the connections, and leave the embedded server.

        In a process that was forked from the one that started it this does nothing: everything belongs to the other.
        """
        if self._home.is_inherited:
            return
        # No loop of its own is begun for this: at the end of a process there may be no threads any more.
        self._home.adopt_running()
        await self._home.run(functools.partial(self._close, timeout))
        if not self._home.is_here:
            self._home.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        self._closed = False
        self._home.run_blocking(self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        if self._home.is_inherited:
            return
        self._home.run_blocking(functools.partial(self._close, _CLOSE_SECONDS))
        self._home.stop()

    async def _on_home(self, work: Callable[[Parts], Awaitable[Result]]) -> Result:
        """Run `work` where the connections are, starting them if this is the first call."""
        parts = self._at_hand()
        if parts is not None:
            return await work(parts)

        async def with_parts() -> Result:
            return await work(await self._ready())

        return await self._home.run(with_parts)

    def _at_hand(self) -> Parts | None:
        """The parts, where they are open and the caller is on their loop: for what needs no turn of it."""
        parts = self._parts
        return None if parts is None or self._closed or not parts.on_this_loop else parts

    async def _ready(self) -> Parts:
        """On the home loop: the parts, opened once however many callers come at the same time."""
        self._check_open()
        if self._parts is not None and not self._parts.on_this_loop:
            raise StorageUnavailable(
                "the event loop that started this manager has ended, and its connections with it: close the manager "
                "before its loop ends, or leave start() out, and the first call gives it a loop of its own"
            )
        while self._parts is None:
            opening = self._starting = self._starting or asyncio.Lock()
            async with opening:
                self._check_open()
                await self._open_once(opening)
        return self._parts

    async def _open_once(self, opening: asyncio.Lock) -> None:
        """New parts, unless there are some, or the manager is closed before they are there, be it started since."""
        if self._parts is not None or opening is not self._starting:
            return
        parts = await opened(self.settings, self._border, self._state, self.events, self._embedder, self._persists)
        if self._closed or opening is not self._starting:
            await parts.close(_CLOSE_SECONDS, self.events)
            raise StorageUnavailable(_CLOSED)
        self._parts = parts
        self._begin(parts)

    def _check_open(self) -> None:
        if self._closed:
            raise StorageUnavailable(_CLOSED)

    def _begin(self, parts: Parts) -> None:
        """On the home loop, once the parts are open: what else a manager begins."""

    async def _close(self, timeout: float) -> None:
        self._closed = True
        if self._starting is not None:
            # Who is opening the parts closes them again; nothing may come after the end, nor wait for it in vain.
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout), self._starting:
                    pass
        parts, self._parts, self._starting = self._parts, None, None
        if parts is not None and parts.on_this_loop:
            await parts.close(timeout, self.events)
