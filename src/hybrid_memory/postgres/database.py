"""The connection pool: bound transactions, named queries, a deadline on everything.

A pool belongs to the event loop that opened it. Within a transaction every statement sees the users it is bound to
and nobody else. A call that runs out of time, loses its connection or is cancelled gives the connection up instead of
waiting for a server that may not answer. In the background the server is told to stop and roll back, and the connection
goes back to the pool if it answers within a second.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import asyncpg
from pgvector.asyncpg import register_vector

from hybrid_memory import queries
from hybrid_memory.errors import ConfigurationError, StorageRejected, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres.connecting import BoundedConnection, Connector, connection_arguments
from hybrid_memory.postgres.failures import is_failure, translate
from hybrid_memory.postgres.lending import Lending
from hybrid_memory.postgres.target import Targets
from hybrid_memory.queries import Query
from hybrid_memory.settings import Settings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
# A server that works answers a ping within this; what it costs to be wrong is a new connection.
_ANSWER_SECONDS = 0.5
_ROLLBACK_SECONDS = 1.0
Isolation: TypeAlias = Literal["read_committed", "repeatable_read"]
_FETCHED_AT_ONCE = 1000
_HANDED_OVER_AT_ONCE = 250
# While the server is away the pool logs every attempt; without any handler Python would print them.
logging.getLogger("asyncpg.pool").addHandler(logging.NullHandler())


async def _as_it_is(_: "Connection") -> None:
    """Nothing to look at."""


class Transaction:
    """An open transaction; its methods take the name of a query and its parameters as keywords."""

    def __init__(
        self,
        connection: "Connection",
        known: Mapping[str, Query],
        events: Events,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._queries = known
        self._events = events
        self._go_on = go_on

    async def fetch(self, name: str, /, **values: object) -> list[asyncpg.Record]:
        """All rows."""
        query, start = self._queries[name], time.perf_counter()
        rows = await self._connection.fetch(query.text, *query.arguments(values))
        self._report(name, start, rows=len(rows))
        return rows

    async def stream(self, name: str, /, **values: object) -> AsyncIterator[Sequence[asyncpg.Record]]:
        """All rows of a large answer, portion by portion; other tasks have their turn in between.

        The deadline of the transaction counts anew as long as rows arrive.
        """
        query, start, count = self._queries[name], time.perf_counter(), 0
        statement = await self._connection.prepare(query.text)
        cursor = await statement.cursor(*query.arguments(values))
        while rows := await cursor.fetch(_FETCHED_AT_ONCE):
            count += len(rows)
            self._go_on()
            for first in range(0, len(rows), _HANDED_OVER_AT_ONCE):
                yield rows[first : first + _HANDED_OVER_AT_ONCE]
                await asyncio.sleep(0)
        self._report(name, start, rows=count)

    async def fetchrow(self, name: str, /, **values: object) -> asyncpg.Record | None:
        """The first row, if there is one."""
        query, start = self._queries[name], time.perf_counter()
        row = await self._connection.fetchrow(query.text, *query.arguments(values))
        self._report(name, start)
        return row

    async def fetchval(self, name: str, /, **values: object) -> Any:
        """The first column of the first row."""
        query, start = self._queries[name], time.perf_counter()
        value = await self._connection.fetchval(query.text, *query.arguments(values))
        self._report(name, start)
        return value

    async def execute(self, name: str, /, **values: object) -> int:
        """Run it; how many rows it touched."""
        query, start = self._queries[name], time.perf_counter()
        status = await self._connection.execute(query.text, *query.arguments(values))
        self._report(name, start)
        last = status.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    def _report(self, name: str, start: float, **counts: int) -> None:
        duration = round((time.perf_counter() - start) * 1000, 3)
        self._events.debug("postgres_statement", query=name, **counts, duration_ms=duration)


@dataclass(slots=True)
class _Talk:
    """One use of a connection, its deadline, and whether COMMIT may have been sent in it."""

    connection: "PoolConnectionProxy[asyncpg.Record]"
    limit: asyncio.Timeout
    seconds: float
    committing: bool = False

    def go_on(self) -> None:
        """Let the deadline count anew, unless it is over."""
        now = asyncio.get_running_loop().time()
        if now < (self.limit.when() or now):
            self.limit.reschedule(now + self.seconds)


class Database:
    """Postgres through a pool. Open it with `await Database.open(...)` on the loop that will use it."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        known: Mapping[str, Query],
        settings: Settings,
        events: Events,
    ) -> None:
        self._pool = pool
        self._queries = known
        self._settings = settings
        self._events = events
        self._recovering: set[asyncio.Task[None]] = set()
        self._lending = Lending(pool, self._behind)
        self._deadlines: set[asyncio.Timeout] = set()
        # The server processes that have answered since a call failed; None as long as none has.
        self._heard_from: set[int] | None = None

    @classmethod
    async def open(
        cls,
        targets: Targets,
        settings: Settings,
        events: Events,
        *,
        vector_schema: str = "public",
        opened: Callable[["Connection"], Awaitable[None]] = _as_it_is,
    ) -> "Database":
        """Connect; the schema must be there (see `hybrid_memory.postgres.schema`).

        Args:
            targets: where the database is.
            settings: deadlines, and how many connections.
            events: where to report.
            vector_schema: where pgvector is.
            opened: looks at each connection before it is used.

        Raises:
            StorageUnavailable: the server did not answer within the connect timeout.
            ConfigurationError: it refused the role, the password or the database.
        """
        arguments = connection_arguments(targets.runtime, settings, pooled=targets.pooled)
        known = queries.load("postgres", settings.schema_name, vector_schema)

        async def prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
            try:
                async with asyncio.timeout(settings.connect_timeout_seconds):
                    await register_vector(connection, schema=vector_schema)
                    if not targets.pooled:
                        await connection.execute(known["server.notice_lost_clients"].text)
                    await opened(connection)
            except BaseException as error:
                # asyncpg would say goodbye to the server and wait for its answer, without a deadline.
                connection.terminate()
                if isinstance(error, ValueError):
                    raise ConfigurationError(
                        f"pgvector is not in schema {vector_schema!r} of {targets.runtime.display}: run `hybrid-memory "
                        "init`, which makes it or says where it is."
                    ) from error
                raise

        async def keep_session(connection: "Connection") -> None:
            """Every setting is local to its transaction, so a released connection has nothing to reset."""

        arguments["connect"] = Connector()
        pool = asyncpg.create_pool(
            **arguments,
            min_size=min(settings.postgres_pool_min_size, settings.postgres_pool_size),
            max_size=settings.postgres_pool_size,
            init=prepare,
            reset=keep_session,
            connection_class=BoundedConnection,
        )
        try:
            async with asyncio.timeout(settings.connect_timeout_seconds):
                await pool
        except BaseException as error:
            pool.terminate()
            if is_failure(error):
                raise translate(error, f"a connection to {targets.runtime.display}") from error
            raise
        return cls(pool, known, settings, events)

    async def close(self, timeout: float | None = None) -> None:
        """Wait for running calls, but not for a server that does not answer."""
        try:
            async with asyncio.timeout(self._settings.close_timeout_seconds if timeout is None else timeout):
                await self._lending.close()
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
            self._pool.terminate()
        for task in self._recovering:
            task.cancel()
        await asyncio.gather(*self._recovering, return_exceptions=True)

    @asynccontextmanager
    async def transaction(
        self,
        users: Sequence[str] = (),
        *,
        timeout: float | None = None,
        isolation: Isolation = "read_committed",
    ) -> AsyncIterator[Transaction]:
        """A transaction bound to `users`, committed when the block ends and rolled back when it raises.

        Args:
            users: whose rows it may see and write.
            timeout: deadline for the whole block, waiting for a connection included; the setting when None.
            isolation: `repeatable_read` for several reads of one moment.

        Raises:
            StorageUnavailable: no answer in time. Only `outcome_unknown` leaves open whether it was committed.
            StorageRejected: Postgres refused the data.
            ConfigurationError: schema, rights or settings do not fit.
        """
        async with self._conversation("a transaction", timeout) as talk:
            await talk.connection.execute(
                "begin" if isolation == "read_committed" else "begin isolation level repeatable read"
            )
            transaction = Transaction(talk.connection, self._queries, self._events, talk.go_on)
            if users:
                await transaction.execute("users.bind", users=sorted(set(users)))
            yield transaction
            talk.committing = True
            await _commit(talk.connection)

    async def call(self, name: str, /, *, timeout: float | None = None, **values: object) -> list[asyncpg.Record]:
        """One statement in its own transaction, for tables without users and functions that bind by themselves."""
        async with self._conversation(name, timeout) as talk:
            talk.committing = True
            return await Transaction(talk.connection, self._queries, self._events).fetch(name, **values)

    async def ping(self, *, timeout: float | None = None) -> None:
        """Ask whether the server answers.

        Raises:
            StorageUnavailable: it does not, within `timeout`.
        """
        await self.call("server.ping", timeout=timeout)

    async def interrupt(self) -> None:
        """End every call under way as if its time were over, and use none of the present connections again."""
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(now)
        self._lending.forget()
        await self._pool.expire_connections()

    @asynccontextmanager
    async def _conversation(self, doing: str, timeout: float | None) -> AsyncIterator["_Talk"]:
        """A connection for a limited time; whatever fails becomes an error of ours."""
        talk: _Talk | None = None
        seconds = self._settings.command_timeout_seconds if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds) as limit:
                self._deadlines.add(limit)
                try:
                    async with self._connection() as connection:
                        talk = _Talk(connection, limit, seconds)
                        yield talk
                finally:
                    self._deadlines.discard(limit)
        except BaseException as error:
            if not is_failure(error):
                raise
            raised = translate(error, doing)
            if isinstance(raised, StorageUnavailable):
                self._heard_from = set()
                # Before COMMIT was sent, nothing can have been written, whatever happened to the connection.
                raised.outcome_unknown = raised.outcome_unknown and talk is not None and talk.committing
            raise raised from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """A pooled connection, which goes back to the pool in the background, also when the block was interrupted."""
        connection = await self._answering()
        try:
            yield connection
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, OSError):
                await self._take_back(connection, interrupted=False)
            else:
                self._behind(self._take_back(connection, interrupted=True))
            raise
        if self._heard_from is not None:
            self._heard_from.add(connection.get_server_pid())
        # The answer is here: nobody has to wait until the pool is done.
        self._lending.take_back(connection)

    def _behind(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._recovering.add(task)
        task.add_done_callback(self._recovering.discard)
        return task

    async def _answering(self) -> "PoolConnectionProxy[asyncpg.Record]":
        """A connection that answers.

        What ended one connection may have ended others without a word. After a failure each of them is asked before its
        next use, and when one does not answer, none of them is used again.
        """
        while True:
            connection = await self._lending.borrow()
            if self._heard_from is None or connection.get_server_pid() in self._heard_from:
                return connection
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.execute(self._queries["server.ping"].text)
            except BaseException as error:
                with suppress(asyncpg.InterfaceError):
                    connection.terminate()
                await self._pool.release(connection)
                if not is_failure(error):
                    raise
                self._heard_from.clear()
                self._lending.forget()
                await self._pool.expire_connections()
            else:
                self._heard_from.add(connection.get_server_pid())
                return connection

    async def _take_back(self, connection: "PoolConnectionProxy[asyncpg.Record]", *, interrupted: bool) -> None:
        """Stop what the server still does for a failed call, then give the connection back, or up."""
        try:
            async with asyncio.timeout(_ROLLBACK_SECONDS):
                # After an interruption the driver first waits until its request to cancel has been answered.
                if interrupted or connection.is_in_transaction():
                    await connection.execute("rollback")
        except (
            TimeoutError,
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            asyncio.CancelledError,
        ) as error:
            # A connection that the server has closed is back in the pool already and takes no more calls.
            with suppress(asyncpg.InterfaceError):
                connection.terminate()
            if isinstance(error, asyncio.CancelledError):
                raise
        await self._pool.release(connection)


async def _commit(connection: "PoolConnectionProxy[asyncpg.Record]") -> None:
    # Postgres answers COMMIT with ROLLBACK, and no error, when a statement had failed before.
    if await connection.execute("commit") != "COMMIT":
        raise StorageRejected("nothing was written: a statement of the transaction had failed before", sqlstate="25P02")
