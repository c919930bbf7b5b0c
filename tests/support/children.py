"""Code of the tests in processes of its own, to be killed at a named point.

A function at the top of a test module runs in a fresh interpreter; its first parameter is an `Events`, the others come
as JSON. The product needs no fault code for it: the named points are its events. Told to stop at one, the child
reports it and stands still inside the call that reported it, until it is killed or let go on.
"""

import asyncio
import importlib
import inspect
import json
import os
import pwd
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from hybrid_memory.observability import Event, Events

ROOT = Path(__file__).parents[2]
_SECONDS = 60.0


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
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        account: dict[str, Any] = {}
        if user:
            account = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        self.process = subprocess.Popen(
            [interpreter, "-m", "tests.support.children", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            text=True,
            **account,
        )
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def reached(self, seconds: float = _SECONDS) -> dict[str, Any]:
        """Wait until the child stands at its point; the fields of the event."""
        fields: dict[str, Any] = self._next("stopped", seconds)
        return fields

    def go_on(self) -> None:
        """Let a child that stands at its point continue."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self, seconds: float = _SECONDS) -> Any:
        """Wait for what the function returned.

        Raises:
            ChildFailed: it raised.
        """
        return self._next("result", seconds)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kill it where it still runs, and close what belongs to it."""
        self.kill()
        self._reader.join()
        for file in (self.process.stdin, self.process.stdout, self._errors):
            if file is not None:
                file.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
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
            raise ChildFailed(f"ended with {self.process.wait()} without a word:\n{text}")
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
    # One write of a short line: several processes may share the pipe.
    os.write(1, (json.dumps(words, default=str) + "\n").encode())


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
    function = getattr(importlib.import_module(job["module"]), job["function"])
    if not job["copies"]:
        events = Events(_stop_at(job["stop_at"], job["fields"])) if job["stop_at"] else Events()
        sys.exit(not _call(function, events, job["arguments"]))
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


if __name__ == "__main__":
    _run(json.loads(sys.argv[1]))
