"""The link to Postgres, a circuit breaker: while the server is away calls fail at once, and it is asked now and then.

A call that fails or waits for long is a reason to ask whether the server still answers, on a connection of its own. If
it does, the failure was that call's: the shard of one user may be away while all others work. If it does not, the link
opens: calls under way end, and nobody waits for the server until it has answered a probe.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from hybrid_memory import queries
from hybrid_memory.errors import HybridMemoryError, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.continuity import Continuity
from hybrid_memory.postgres.database import Connection, Database, Isolation, Transaction
from hybrid_memory.postgres.reach import embedded_server_crashed, reached, restart_embedded
from hybrid_memory.postgres.target import Target, Targets, resolve
from hybrid_memory.settings import Settings

if TYPE_CHECKING:
    import asyncpg

_SUSPICIOUS_SECONDS = 0.75
_PROBE_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.25
# A probe that hangs, the pause after it and what waits until then are over within five seconds.
_LONGEST_PAUSE_SECONDS = 1.5
# The server answered: it has no room for one more connection, which those that are open do not need.
_ALIVE = "53"

Breaker = Literal["closed", "open", "half-open"]


class Link:
    """Postgres as far as it answers. Belongs to the event loop that started it."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self.is_absent = settings.memory_type == "sqlite"
        """Whether there is no Postgres and is to be none: such a link does not start, and nothing answers behind it."""
        self._settings = settings
        self._events = events
        self._queries = queries.load("postgres", settings.schema_name)
        self._closing = AsyncExitStack()
        self._targets: Targets | None = None
        self._database: Database | None = None
        self._checking: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._recovered: list[Callable[[], object]] = []
        chosen = resolve(settings)
        self.address = chosen.runtime.display if isinstance(chosen, Targets) else str(chosen)
        """Where the server is meant to be."""
        self.continuity = Continuity(self._renew_epoch, events)
        """Which database it is, looked at on every new connection."""
        self.breaker: Breaker = "closed"
        """`closed` while calls pass, `open` while they fail at once, `half-open` during a probe."""

    async def start(self) -> None:
        """Connect and bring the schema up to date. A server that is away is no error: it is asked again from now on.

        Raises:
            ConfigurationError: settings, server or rights do not fit; the text says what to do.
            SchemaMismatch: the schema in the database is not the one this version works with.
        """
        try:
            await self._connect()
        except StorageUnavailable as error:
            self._open(error)
        except BaseException:
            await self._closing.aclose()
            raise

    async def close(self) -> None:
        """End the probes, close the connections, and leave the embedded server."""
        await self.continuity.close()
        tasks = [task for task in (self._checking, self._recovering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._database = None
        await self._closing.aclose()

    def on_recovery(self, call: Callable[[], object]) -> None:
        """Call this each time the server answers again."""
        self._recovered.append(call)

    @property
    def direct(self) -> tuple[Target, bool] | None:
        """Where notifications can be received, and whether that goes through a pooler; None before it was reached."""
        if self._targets is None:
            return None
        return self._targets.direct, self._targets.pooled and self._targets.direct == self._targets.runtime

    @property
    def answering(self) -> bool:
        """Whether calls pass."""
        return self.breaker == "closed" and self._database is not None

    @asynccontextmanager
    async def transaction(
        self,
        users: Sequence[str] = (),
        *,
        timeout: float | None = None,
        isolation: Isolation = "read_committed",
    ) -> AsyncIterator[Transaction]:
        """A transaction bound to `users`; see `Database.transaction`."""
        with self._watched() as database:
            async with database.transaction(users, timeout=timeout, isolation=isolation) as transaction:
                yield transaction

    async def call(self, name: str, /, *, timeout: float | None = None, **values: object) -> "list[asyncpg.Record]":
        """One statement in its own transaction; see `Database.call`."""
        with self._watched() as database:
            return await database.call(name, timeout=timeout, **values)

    @contextmanager
    def _watched(self) -> Iterator[Database]:
        if self._database is None or self.breaker != "closed":
            if self.is_absent:
                raise StorageUnavailable("there is no Postgres: MEMORY_TYPE=sqlite")
            raise StorageUnavailable("Postgres is away; it is asked again every few seconds")
        slow = asyncio.get_running_loop().call_later(_SUSPICIOUS_SECONDS, self._suspect)
        try:
            yield self._database
        except StorageUnavailable:
            self._suspect()
            raise
        finally:
            slow.cancel()

    def _suspect(self) -> None:
        if self.breaker == "closed" and (self._checking is None or self._checking.done()):
            self._checking = asyncio.create_task(self._check())

    async def _check(self) -> None:
        try:
            await self._probe()
        except StorageUnavailable as error:
            if self._database is not None:
                self._open(error)
                await self._database.interrupt()
        except HybridMemoryError as error:
            self._events.error("postgres_misconfigured", error=str(error))

    def _open(self, error: StorageUnavailable) -> None:
        self.breaker = "open"
        self._events.warning("postgres_unavailable", error=str(error))
        self._recovering = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        """Ask until the server answers, at growing intervals."""
        since, pause, said, crashed = time.monotonic(), _FIRST_PAUSE_SECONDS, "", False
        while True:
            await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - many clients should not ask at once
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            self.breaker = "half-open"
            try:
                # One that was stopped on purpose stays so. A restart can fail until the last of its processes is gone.
                crashed = crashed or embedded_server_crashed(self._settings, self._events)
                if crashed:
                    await restart_embedded(self._settings, self._events)
                    crashed = False
                await (self._connect() if self._database is None else self._probe())
            except StorageUnavailable:
                self.breaker = "open"
            except HybridMemoryError as error:
                self.breaker = "open"
                if str(error) != said:
                    said = str(error)
                    self._events.error("postgres_misconfigured", error=said)
            else:
                break
        self.breaker = "closed"
        self._events.info("postgres_recovered", seconds=round(time.monotonic() - since, 3))
        for call in self._recovered:
            call()

    async def _probe(self) -> None:
        """Ask on a fresh connection: a pooled one may hang although the server answers."""
        if self._targets is None:
            return
        try:
            async with (
                asyncio.timeout(_PROBE_SECONDS),
                schema.connected(self._targets.runtime, self._settings, pooled=self._targets.pooled) as connection,
            ):
                await connection.fetchval(self._queries["server.ping"].text)
        except TimeoutError:
            raise StorageUnavailable("no answer from Postgres to a probe") from None
        except StorageUnavailable as error:
            if not (error.sqlstate or "").startswith(_ALIVE):
                raise

    async def _connect(self) -> None:
        if self._targets is None:
            self._targets = await self._closing.enter_async_context(reached(self._settings, self._events))
        state = await schema.ensure(self._targets, self._settings, self._events)
        database = await Database.open(
            self._targets,
            self._settings,
            self._events,
            vector_schema=state.vector_schema or "public",
            opened=self._look_at,
        )
        self._closing.push_async_callback(database.close)
        self._database = database

    async def _look_at(self, connection: Connection) -> None:
        """A connection that replaces a lost one may lead to another database."""
        await self.continuity.check(lambda: connection.fetchrow(self._queries["deployment.standing"].text))

    async def _renew_epoch(self, seen: UUID) -> UUID:
        ((epoch,),) = await self.call("deployment.renew", epoch=seen)
        return UUID(str(epoch))
