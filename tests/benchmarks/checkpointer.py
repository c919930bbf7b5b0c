"""`HybridCheckpointer` against the stock savers: the same payloads, each of them durable when a put returns.

SQLite with WAL and `synchronous=FULL` on both sides, Postgres with its ordinary settings; all on one disk, in one
process, each in a file of its own. A put is the next step of a conversation, as the graph would make it: new versions
for what has changed, the rest as it was. It is made before the time is taken.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite
import apsw
from langgraph.checkpoint.base import BaseCheckpointSaver, ChannelVersions, Checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from hybrid_memory.langgraph.checkpointer import HybridCheckpointer
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.chats import chatting, counting, message
from tests.support.servers import running_server

Saver = BaseCheckpointSaver[str]
Payload = Callable[[int], Mapping[str, Any]]
STOCK, POSTGRES, OURS = "AsyncSqliteSaver", "AsyncPostgresSaver", "HybridCheckpointer"
MEGABYTE = 1_000_000
MESSAGES = 200
GRAPH_STEPS = 20
# A commit faster than this leaves a saver's own work to be measured.
QUICK_COMMIT_SECONDS = 0.0005
LONGEST_BLOCK_SECONDS = 0.005
IDLE = "a loop with nothing to do"
SAMPLES = 500
MOST_STEPS = 400
SETTLING_STEPS = 25


class Step(NamedTuple):
    """The arguments of a put."""

    config: Any
    checkpoint: Checkpoint
    metadata: Any
    new_versions: ChannelVersions


class Conversation:
    """A thread under one saver; each put is its next step."""

    def __init__(self, saver: Saver, thread: str, payload: Payload) -> None:
        self.saver = saver
        self.steps = 0
        self._place = {"thread_id": thread, "checkpoint_ns": ""}
        self._parent: dict[str, str] = {}
        self._payload = payload
        self._values: dict[str, Any] = {}
        self._versions: dict[str, Any] = {}
        self._ready: deque[Step] = deque()

    def make_ready(self, many: int) -> None:
        """Make what the next puts will store, so that only storing it takes time then."""
        self._ready.extend(self._next_step() for _ in range(many - len(self._ready)))

    def _next_step(self) -> Step:
        """What is the same object as before has not changed."""
        before, self._values = self._values, dict(self._payload(self.steps))
        new: ChannelVersions = {
            name: self.saver.get_next_version(self._versions.get(name), None)
            for name, value in self._values.items()
            if name not in before or before[name] is not value
        }
        self._versions = {**self._versions, **new}
        checkpoint: Checkpoint = {
            "v": 4,
            "id": str(uuid6(clock_seq=self.steps)),
            "ts": "2026-05-01T00:00:00+00:00",
            "channel_values": self._values,
            "channel_versions": self._versions,
            "versions_seen": {"__input__": {}, "node": dict(self._versions)},
            "updated_channels": sorted(new),
        }
        config = {"configurable": {**self._place, **self._parent}}
        step = Step(config, checkpoint, {"source": "loop", "step": self.steps, "parents": {}}, new)
        self._parent = {"checkpoint_id": checkpoint["id"]}
        self.steps += 1
        return step

    async def puts(self, many: int) -> None:
        """So many checkpoints, one after the other."""
        self.make_ready(many)
        for _ in range(many):
            await self.saver.aput(*self._ready.popleft())

    async def gets(self, many: int) -> None:
        newest: Any = {"configurable": {"thread_id": self._place["thread_id"]}}
        for _ in range(many):
            found = await self.saver.aget_tuple(newest)
            assert found is not None
            assert found.checkpoint["channel_values"].keys() == self._values.keys()


def small(step: int) -> Mapping[str, Any]:
    return {"answer": f"step {step} " + "x" * 200, "step": step, "user": {"name": "Nick", "step": step}}


def chat() -> Payload:
    """200 messages, and one more with each step."""
    messages = [message(number) for number in range(MESSAGES)]

    def payload(_: int) -> Mapping[str, Any]:
        messages.append(message(len(messages)))
        return {"messages": list(messages)}

    return payload


def new_megabytes() -> Payload:
    rest = random.randbytes(MEGABYTE)
    return lambda step: {"document": step.to_bytes(8, "big") + rest}


def same_megabyte() -> Payload:
    document = random.randbytes(MEGABYTE)
    return lambda step: {"document": document, "step": step}


class Comparison:
    """The savers, and what became of the promises."""

    def __init__(self, benchmark: Benchmark, savers: Mapping[str, Saver]) -> None:
        self._benchmark = benchmark
        self._savers = savers
        self._numbers = count()
        self.claims: list[str] = []

    def conversations(self, payloads: Callable[[], Payload], callers: int) -> dict[str, list[Conversation]]:
        """For each saver as many as there are callers, all with payloads of their own."""
        return {
            name: [Conversation(saver, f"thread {next(self._numbers)}", payloads()) for _ in range(callers)]
            for name, saver in self._savers.items()
        }

    async def settle(self) -> None:
        """Write until each file has its usual size: while a log still grows, every commit in it takes much longer."""
        for talks in self.conversations(lambda: small, 64).values():
            await all_put(talks, SETTLING_STEPS)

    async def puts(
        self, title: str, payloads: Callable[[], Payload], callers: int, each: int, promised: float | None
    ) -> None:
        """`callers` conversations at once, `each` puts in a row."""
        talks = self.conversations(payloads, callers)
        contenders = [
            Contender(name, partial(all_put, these, each), callers * each, before=partial(all_ready, these, each))
            for name, these in talks.items()
        ]
        await self.compare(title, contenders, promised)

    async def gets(
        self, title: str, payloads: Callable[[], Payload], callers: int, each: int, promised: float | None
    ) -> None:
        """`callers` read the newest checkpoint of their conversation, `each` times in a row."""
        talks = self.conversations(payloads, callers)
        for these in talks.values():
            await all_put(these, 1)
        contenders = [Contender(name, partial(all_get, these, each), callers * each) for name, these in talks.items()]
        await self.compare(title, contenders, promised)

    async def compare(self, title: str, contenders: Sequence[Contender], promised: float | None) -> None:
        result = await self._benchmark.compare(title, contenders)
        times = 1 / result.ratios[OURS]
        verdict = "nothing promised"
        if promised is not None:
            verdict = f"promised {promised:.1f}: {'ok' if times >= promised else 'MISSED'}"
        self.claims.append(f"{title}: {times:.2f} x as fast as {STOCK}, {verdict}")

    async def blocks(self, title: str, payloads: Callable[[], Payload], callers: int, each: int) -> None:
        """How long the event loop stands still meanwhile; a loop with nothing to do shows what is the machine's."""
        delays: dict[str, list[float]] = {IDLE: []}
        talks = self.conversations(payloads, callers)
        while len(delays.get(OURS, ())) < SAMPLES and talks[OURS][0].steps < MOST_STEPS:
            delays[IDLE] += await delays_during(asyncio.sleep(0.2))
            for name, these in talks.items():
                await all_ready(these, each)
                delays.setdefault(name, []).extend(await delays_during(all_put(these, each)))
        p99s = {name: statistics.quantiles(those, n=100)[-1] for name, those in delays.items()}
        print(f"event loop blocked, {title}")
        for name, p99 in p99s.items():
            print(f"  {name:25} p99 {p99 * 1000:7.2f} ms, longest {max(delays[name]) * 1000:7.2f} ms")
        print()
        verdict = "ok" if p99s[OURS] < LONGEST_BLOCK_SECONDS else "MISSED"
        if verdict == "MISSED" and p99s[IDLE] > LONGEST_BLOCK_SECONDS / 2:
            verdict += f", but the machine is busy with something else (idle p99 {p99s[IDLE] * 1000:.2f} ms)"
        self.claims.append(f"event loop blocked, {title}: p99 {p99s[OURS] * 1000:.2f} ms, promised 5 ms: {verdict}")

    async def graphs(self, title: str, build: Callable[[Saver], Any], given: Any, callers: int) -> None:
        """Whole graphs, `durability="sync"`; a step is one checkpoint and the writes before it."""
        graphs = {name: build(saver) for name, saver in self._savers.items()}

        async def run(graph: Any) -> None:
            configs = ({"configurable": {"thread_id": f"graph {next(self._numbers)}"}} for _ in range(callers))
            await asyncio.gather(*(graph.ainvoke(given, config, durability="sync") for config in configs))

        contenders = [Contender(name, partial(run, graph), callers * GRAPH_STEPS) for name, graph in graphs.items()]
        await self.compare(title, contenders, 1.0)


async def all_ready(conversations: Sequence[Conversation], each: int) -> None:
    for one in conversations:
        one.make_ready(each)


async def all_put(conversations: Sequence[Conversation], each: int) -> None:
    await asyncio.gather(*(one.puts(each) for one in conversations))


async def all_get(conversations: Sequence[Conversation], each: int) -> None:
    await asyncio.gather(*(one.gets(each) for one in conversations))


async def delays_during(work: Awaitable[object]) -> list[float]:
    """How much later than asked for a task is woken, asked every millisecond."""
    delays: list[float] = []
    pause = 0.001

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(pause)
            delays.append(time.perf_counter() - start - pause)

    watching = asyncio.ensure_future(watch())
    await work
    await asyncio.sleep(2 * pause)
    watching.cancel()
    return delays


async def run(benchmark: Benchmark) -> None:
    """In the working directory: on the disk that data would be on, not in a memory file system."""
    with (
        tempfile.TemporaryDirectory(dir=".") as place,
        running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server,
    ):
        async with server.empty_database() as targets, opened(Path(place), targets.administration.display) as savers:
            comparison = Comparison(benchmark, savers)
            await _measure(comparison, bare_commit_seconds(Path(place)))
    for claim in comparison.claims:
        print(claim)
    print()


async def _measure(comparison: Comparison, commit: float) -> None:
    await comparison.settle()
    print(f"bare commit, synchronous=FULL: {commit * 1000:.3f} ms\n")
    alone = 1.3 if commit < QUICK_COMMIT_SECONDS else 1.0
    await comparison.puts("put, small, 1 caller", lambda: small, 1, 40, alone)
    await comparison.puts("put, small, 32 callers", lambda: small, 32, 6, 6.0)
    await comparison.puts("put, small, 64 callers", lambda: small, 64, 4, 8.0)
    await comparison.puts(f"put, chat of {MESSAGES} messages and one more, 8 callers", chat, 8, 2, 3.0)
    await comparison.puts("put, 1 MB, new each time, 4 callers", new_megabytes, 4, 1, 1.0)
    await comparison.puts("put, 1 MB, unchanged, 4 callers", same_megabyte, 4, 3, 6.0)
    await comparison.gets("get, small, 8 callers", lambda: small, 8, 10, 2.0)
    # Making 200 message objects is most of it, whoever reads them.
    await comparison.gets(f"get, chat of {MESSAGES} messages, 8 callers", chat, 8, 2, None)
    await comparison.graphs("step of a graph, 1 run", counting, {"left": GRAPH_STEPS}, 1)
    await comparison.graphs("step of a graph, 16 runs", counting, {"left": GRAPH_STEPS}, 16)
    await comparison.graphs("step of a chat, 1 run", chatting, {"messages": [("user", "hi")], "left": GRAPH_STEPS}, 1)
    await comparison.blocks("put, small, 64 callers", lambda: small, 64, 20)
    await comparison.blocks(f"put, chat of {MESSAGES} messages, 8 callers", chat, 8, 10)
    await comparison.blocks("put, 1 MB, new each time, 4 callers", new_megabytes, 4, 5)


@asynccontextmanager
async def opened(place: Path, postgres: str) -> AsyncIterator[dict[str, Saver]]:
    """The savers, each in its own file or database; the first is what the others are measured against."""
    strict = JsonPlusSerializer(allowed_msgpack_modules=None)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(aiosqlite.connect(place / "stock.db"))
        await connection.execute("pragma synchronous = full")
        pool = AsyncConnectionPool(
            postgres,
            kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
            min_size=20,
            max_size=20,
            open=False,
        )
        await stack.enter_async_context(pool)
        in_postgres = AsyncPostgresSaver(pool, serde=strict)  # type: ignore[arg-type] # rows are dicts by its arguments
        await in_postgres.setup()
        ours = await stack.enter_async_context(HybridCheckpointer(place / "ours"))
        yield {STOCK: AsyncSqliteSaver(connection, serde=strict), POSTGRES: in_postgres, OURS: ours}


def bare_commit_seconds(place: Path) -> float:
    """Begin, insert, commit on a plain connection: what the disk asks for."""
    bare = apsw.Connection(str(place / "bare.db"))
    bare.pragma("journal_mode", "wal")
    bare.pragma("synchronous", "full")
    bare.execute("create table rows (payload text) strict")
    taken = []
    for _ in range(200):
        start = time.perf_counter()
        bare.execute("begin immediate")
        bare.execute("insert into rows (payload) values (?)", ("x" * 200,))
        bare.execute("commit")
        taken.append(time.perf_counter() - start)
    bare.close()
    return statistics.median(taken)
