"""One home loop: where all Postgres work of a manager runs, and how other threads and loops get there.

The home loop is the one that started the manager, or, when it was started without one, a loop in a thread of its own,
so that several `asyncio.run` calls and plain threads can share one manager.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from hybrid_memory.errors import ConfigurationError, WrongThread

if TYPE_CHECKING:
    import concurrent.futures

Result = TypeVar("Result")
_STOP_SECONDS = 5.0
# No loop that works is busy with one thing for so long.
_BEGIN_SECONDS = 10.0


class HomeLoop:
    """The loop that owns a manager's connections, and a way to it from anywhere."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The home loop; started in a thread of its own when there is none yet."""
        self._check_process()
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._loop, self._thread = _started_thread()
                self._process = os.getpid()
            return self._loop

    def adopt_running(self) -> None:
        """Make the running loop the home, unless there is one."""
        self._check_process()
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._loop, self._thread = asyncio.get_running_loop(), None
                self._process = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether the home is that of a process which this one was forked from: nothing here belongs to us."""
        return self._loop is not None and self._process != os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether the caller runs on the home loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    async def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run `work` on the home loop and wait for it from whatever loop this is.

        Raises:
            ConfigurationError: the process was forked after the home was chosen.
        """
        self._check_process()
        if self.is_here:
            return await work()
        return await asyncio.wrap_future(self._submit(work))

    def run_blocking(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run `work` on the home loop and block this thread until it is done.

        Raises:
            WrongThread: this is the thread of the home loop, which would wait for itself; or that thread waits for
                this one.
            ConfigurationError: the process was forked after the home was chosen.
        """
        self._check_process()
        if self.is_here:
            raise WrongThread("a blocking call on the manager's own event loop would wait for itself; await it instead")
        begun = threading.Event()

        async def working() -> Result:
            begun.set()
            return await work()

        answer = self._submit(working)
        if not begun.wait(_BEGIN_SECONDS) and answer.cancel():
            raise WrongThread(
                f"the manager's event loop did not take a blocking call within {_BEGIN_SECONDS:g} s: something holds "
                "it up, perhaps a call that waits for this one, like graph.invoke() there; use graph.ainvoke()"
            )
        return answer.result()

    def stop(self) -> None:
        """End the thread, if there is one."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_STOP_SECONDS)

    def _check_process(self) -> None:
        if self.is_inherited:
            raise ConfigurationError(
                "this manager was started before the process was forked, and neither its connections nor its threads "
                "survive that: start it after the fork, or start processes with `spawn`."
            )

    def _submit(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> "concurrent.futures.Future[Result]":
        return asyncio.run_coroutine_threadsafe(work(), self.loop)


class Blocking:
    """The calls of an object without `await`. Not from its home loop, which would wait for itself."""

    def __init__(self, target: object, home: HomeLoop) -> None:
        self._target = target
        self._home = home

    def __dir__(self) -> list[str]:
        names = (name for name in dir(type(self._target)) if not name.startswith("_"))
        return [name for name in names if asyncio.iscoroutinefunction(getattr(self._target, name))]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(call):
            raise AttributeError(f"{name} needs no blocking face")

        @functools.wraps(call)
        def blocking(*positional: Any, **keywords: Any) -> Any:
            return self._home.run_blocking(lambda: call(*positional, **keywords))

        return blocking


async def elsewhere(work: Callable[[], Result]) -> Result:
    """Run blocking work in a thread; here when the interpreter is ending, which gives nothing more to threads."""
    try:
        answer = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:
        return work()
    return await answer


def _started_thread() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    loop = asyncio.new_event_loop()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    thread = threading.Thread(target=serve, name="hybrid-memory", daemon=True)
    thread.start()
    return loop, thread
