"""`demo`: an agent that is killed, forgets nothing, and goes on while Postgres is away; in a place of its own."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

import hybrid_memory
from hybrid_memory.cli.demo_story import OWNER, RENEWAL, USER
from hybrid_memory.cli.output import console, done, heading, note
from hybrid_memory.errors import ConfigurationError, HybridMemoryError
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.embedded import EmbeddedServer
from hybrid_memory.settings import Settings

_SESSION_SECONDS = 60.0


def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep everything in this directory, and use it again.")] = None,
) -> None:
    """An agent that plans, is killed, goes on, and remembers, with and without Postgres. Touches nothing of yours."""
    with _place(keep) as directory:
        note(
            "A demo with an embedded Postgres server of its own; a configured server or data directory is not touched."
        )
        note(f"Its data live in {directory}{'' if keep else ' and are removed at the end'}.\n")
        Demo(directory).run()
        if keep:
            note(f"\nLook around:  HYBRID_MEMORY_DATA_DIR={keep} hybrid-memory psql -c 'table memory.nodes'")
            note(f"              HYBRID_MEMORY_DATA_DIR={keep} hybrid-memory threads")


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="hybrid-memory-demo-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    directory = keep.expanduser().absolute()
    if directory.exists() and any(directory.iterdir()) and not (directory / "postgres").exists():
        raise ConfigurationError(f"{directory} holds other files; give an empty directory or that of an earlier demo")
    directory.mkdir(parents=True, exist_ok=True)
    yield directory


class Demo:
    """The sessions one after another, each in a process that can be killed, and the server that they share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = EmbeddedServer(directory / "postgres", Events())
        self._run = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        self._settings: dict[str, Any] = {}

    def run(self) -> None:
        """All of it; the server is stopped at the end whatever happens.

        Raises:
            HybridMemoryError: something was not as it should be.
        """
        try:
            self._start()
            self._first_session()
            self._second_session()
            self._third_session()
            asyncio.run(self._inspected())
        finally:
            with console.status("stopping Postgres ..."):
                self._server.leave()
        done("stopped the server; nothing is running any more")

    def _start(self) -> None:
        with console.status("starting Postgres and making the schema ..."):
            targets = self._server.start()
            target = targets.runtime
            self._settings = {
                "data_dir": str(self._directory),
                "postgres_host": target.hosts[0],
                "postgres_db": target.database,
                "postgres_user": target.user,
            }
            asyncio.run(schema.ensure(targets, self._as_settings(), Events()))
        done("a Postgres server runs, reachable through a socket that only you can open, and has its schema")

    def _first_session(self) -> None:
        heading("Session one: the agent finds something out, and is killed in the middle")
        thread = f"{self._run}-one"
        process = self._session("find-out", thread)
        self._shown(process, until="killable")
        process.kill()
        process.wait(_SESSION_SECONDS)
        done(f"killed process {process.pid} (SIGKILL) after the first of three steps")
        done("the plan and the finished step are in state.db; the tool's result and its entities are in Postgres")
        heading("Session one again, in a new process: it goes on from its checkpoint")
        self._completed(self._session("go-on", thread))

    def _second_session(self) -> None:
        heading("Session two: another thread knows what the first one learned")
        said = self._completed(self._session("ask", f"{self._run}-two"))
        if "Sarah Lee looks after GenePoint" not in said:
            raise HybridMemoryError("what session one learned was not recalled")
        done("recalled from the memory graph, without a model")

    def _third_session(self) -> None:
        heading("Session three: Postgres is stopped")
        with console.status("stopping Postgres ..."):
            self._server.stop()
        done("stopped the Postgres server")
        process = self._session("tell", f"{self._run}-three")
        self._shown(process, until="wait in the outbox")
        with console.status("starting Postgres again ..."):
            self._server.start()
        done("started the Postgres server again")
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()
        self._completed(process)

    async def _inspected(self) -> None:
        heading("What is where")
        async with hybrid_memory.HybridMemoryManager(self._as_settings()) as manager:
            memory = await manager.ensure_user_memories(USER)
            nodes = memory.get_all_nodes()
            for fact in (OWNER, RENEWAL):
                if (copies := sum(node.text == fact for node in nodes)) != 1:
                    raise HybridMemoryError(f"{fact!r} is there {copies} times")
            done("each fact is in Postgres once, the one from the outage too")
            kinds = Counter(node.context_type for node in nodes)
            note(f"      Postgres, schema memory: {len(nodes)} memories, {len(memory.get_all_edges())} relationships")
            for kind, count in sorted(kinds.items()):
                note(f"        {count:3} {kind}")
            for thread in manager.checkpointer.threads():
                if thread.thread_id.startswith(self._run):
                    note(f"      state.db: thread {thread.thread_id}, {thread.checkpoints} checkpoints")
            account = memory.find_entity("GenePoint")
            for other in memory.get_related_nodes(account.node_id, max_distance=1) if account else ():
                note(f"      GenePoint is connected with: {other.summary}")
            if (await manager.ensure_user_memories("eve")).get_all_nodes():
                raise HybridMemoryError("another user's memory was visible")
            done("eve, another user, has an empty memory")

    def _as_settings(self) -> Settings:
        return Settings.without_environment(**self._settings)

    def _session(self, name: str, thread: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "hybrid_memory.cli.demo_session", name, thread, json.dumps(self._settings)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _completed(self, process: "subprocess.Popen[str]") -> str:
        said = self._shown(process)
        if process.wait(_SESSION_SECONDS) != 0:
            raise HybridMemoryError("a session of the demo failed; what went wrong is above")
        return said

    def _shown(self, process: "subprocess.Popen[str]", until: str | None = None) -> str:
        """Show what a session tells, to its end or to a line; all of it as text."""
        said = ""
        with console.status("the agent is at work ..."):
            for line in process.stdout or ():
                told = json.loads(line)
                said += f"{told['kind']} {told['text']}\n"
                if told["kind"] == "ok":
                    done(told["text"])
                elif told["kind"] == "note":
                    note(f"      {told['text']}")
                if until is not None and until in said:
                    return said
        if until is not None:
            raise HybridMemoryError("a session of the demo ended early; what went wrong is above")
        return said
