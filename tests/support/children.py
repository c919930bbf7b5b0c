"""Code of the tests in processes of its own, to be killed at a named point.

A function at the top of a test module runs in an interpreter that has done nothing but imports; its first parameter is
an `Events`, the others come as JSON. The product needs no fault code for it: the named points are its events. Told to
stop at one, the child reports it and stands still inside the call that reported it, until it is killed or let go on.
"""

import asyncio
import atexit
import fcntl
import importlib
import inspect
import json
import os
import pwd
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from hybrid_memory.observability import Event, Events

ROOT = Path(__file__).parents[2]
_SECONDS = 60.0
_IMPORTED = (
    "pytest",
    "hybrid_memory.postgres.schema",
    "hybrid_memory.postgres.embedded",
    "hybrid_memory.manager",
    "tests.support.probes",
    "tests.support.chats",
    # What the command prints with; the command itself looks at the environment when it is imported.
    "typer.main",
    "rich.progress",
    "rich.table",
)


class ChildFailed(Exception):
    """The function raised in its process; the text is its traceback."""


class Child:
    """A running child process."""

    def __init__(  # noqa: PLR0913 - the ways in which a test wants its child
        self,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        *,
        stop_at: str | None = None,
        fields: Mapping[str, Any] | None = None,
        copies: int = 0,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
        interpreter: str = sys.executable,
    ) -> None:
        job = {
            "module": function.__module__,
            "function": function.__name__,
            "arguments": dict(arguments),
            "stop_at": stop_at,
            "fields": dict(fields or {}),
            "copies": copies,
            "directory": str(Path.cwd()),
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        its_input, our_output = os.pipe()
        our_input, its_output = os.pipe()
        streams = (its_input, its_output, self._errors.fileno())
        if user or environment or interpreter != sys.executable:
            self.pid = _fresh(job, streams, user, environment or {}, interpreter)
        else:
            self.pid = _nursery().fork(job, streams)
        # The number of a process that has ended may be given to another one; this handle is not.
        self._handle = os.pidfd_open(self.pid)
        os.close(its_input)
        os.close(its_output)
        self._input = os.fdopen(our_output, "w")
        self._output = os.fdopen(our_input)
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return not select.select([self._handle], [], [], 0)[0]

    def reached(self, seconds: float = _SECONDS) -> dict[str, Any]:
        """Wait until the child stands at its point; the fields of the event."""
        fields: dict[str, Any] = self._next("stopped", seconds)
        return fields

    def go_on(self) -> None:
        """Let a child that stands at its point continue."""
        self._input.write("\n")
        self._input.flush()

    def result(self, seconds: float = _SECONDS) -> Any:
        """Wait for what the function returned.

        Raises:
            ChildFailed: it raised.
        """
        return self._next("result", seconds)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        select.select([self._handle], [], [], _SECONDS)
        assert not self.alive

    def end(self) -> None:
        """Kill it where it still runs, and close what belongs to it."""
        self.kill()
        self._reader.join()
        os.close(self._handle)
        for file in (self._input, self._output, self._errors):
            file.close()

    def _read(self) -> None:
        for line in self._output:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def _next(self, kind: str, seconds: float) -> Any:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"the child said nothing for {seconds:g} s") from None
        if line is None:
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace")
            raise ChildFailed(f"ended without a word:\n{text}")
        if "failed" in line:
            raise ChildFailed(line["failed"])
        assert kind in line, f"expected {kind}, not {line}"
        return line[kind]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def together(function: Callable[..., Any], count: int, **arguments: Any) -> list[Any]:
    """Run `function(events, index=..., ...)` in `count` processes that start at the same moment; what each returned.

    Raises:
        ChildFailed: one of them raised.
    """
    with Child(function, arguments, copies=count) as parent:
        return [parent.result() for _ in range(count)]


@contextmanager
def several(*makers: Callable[[], Child]) -> Iterator[list[Child]]:
    """Children that are ended together, whatever happens."""
    with ExitStack() as running:
        yield [running.enter_context(make()) for make in makers]


def _say(**words: Any) -> None:
    with _turn():
        line = memoryview((json.dumps(words, default=str) + "\n").encode())
        while line:
            line = line[os.write(1, line) :]


@contextmanager
def _turn() -> Iterator[None]:
    """Copies share the pipe, and a long line takes several writes; a child of another account has it for itself."""
    with ExitStack() as stack:
        with suppress(PermissionError):
            fcntl.flock(stack.enter_context(Path("/proc/self/fd/1").open("wb", buffering=0)), fcntl.LOCK_EX)
        yield


def _stop_at(name: str, fields: Mapping[str, Any]) -> Callable[[Event], None]:
    def hook(event: Event) -> None:
        if event.name == name and fields.items() <= event.fields.items():
            _say(stopped=dict(event.fields))
            sys.stdin.readline()

    return hook


def _call(function: Callable[..., Any], events: Events, arguments: Mapping[str, Any]) -> bool:
    try:
        answer = function(events, **arguments)
        if inspect.iscoroutine(answer):
            answer = asyncio.run(answer)
        _say(result=answer)
    except BaseException:  # noqa: BLE001 - whatever it was, the parent wants to read it
        _say(failed=traceback.format_exc()[-3_000:])
        return False
    return True


def _run(job: Mapping[str, Any]) -> None:
    # Where the test is, unless another account may not go there.
    with suppress(PermissionError):
        os.chdir(job["directory"])
    function = getattr(importlib.import_module(job["module"]), job["function"])
    if not job["copies"]:
        events = Events(_stop_at(job["stop_at"], job["fields"])) if job["stop_at"] else Events()
        _call(function, events, job["arguments"])
        return
    # The copies wait on a pipe, whose end lets them all go at once.
    gate, release = os.pipe()
    pids = []
    for index in range(job["copies"]):
        pid = os.fork()
        if pid == 0:
            os.close(release)
            os.read(gate, 1)
            os._exit(not _call(function, Events(), {**job["arguments"], "index": index}))
        pids.append(pid)
    os.close(release)
    for pid in pids:
        os.waitpid(pid, 0)


class _Nursery:
    """An interpreter with everything imported, which forks itself for each child; a fresh one costs a second each."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.children", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        atexit.register(self._end)

    def fork(self, job: Mapping[str, Any], streams: Sequence[int]) -> int:
        socket.send_fds(self._socket, [json.dumps(job).encode()], streams)
        return int(self._socket.recv(100))

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


@cache
def _nursery() -> _Nursery:
    return _Nursery()


def _nurse(own: socket.socket) -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, streams, _, _ = socket.recv_fds(own, 100_000, 3)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            own.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            _run(json.loads(message))
            os._exit(0)
        for stream in streams:
            os.close(stream)
        own.send(str(pid).encode())


def _fresh(
    job: Mapping[str, Any], streams: Sequence[int], user: str | None, environment: Mapping[str, str], interpreter: str
) -> int:
    account: dict[str, Any] = {}
    if user:
        account = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    process = subprocess.Popen(
        [interpreter, "-m", "tests.support.children", json.dumps(job)],
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        **account,
    )
    atexit.register(process.wait)
    return process.pid


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        _nurse(socket.socket(fileno=int(sys.argv[1])))
    else:
        _run(json.loads(sys.argv[1]))
