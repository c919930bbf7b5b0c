"""The listener: a connection of its own on which other processes' notifications arrive, as long as they do.

A notification is a hint that is lost whenever nobody listens, so whoever needs it compares after every (re)connection:
first LISTEN, then look. A pooler between may swallow notifications without a word; therefore each connection is tested
with a notification that goes the way the others go, and one that hears nothing is given up for asking now and then.
"""

import asyncio
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from hybrid_memory import queries
from hybrid_memory.errors import ConfigurationError, SchemaMismatch, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.failures import is_failure, translate
from hybrid_memory.postgres.link import Link
from hybrid_memory.settings import Settings

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

Hearing = Literal["listening", "polling"]
_TEST = "test "
_TEST_SECONDS = 2.0
_PING_EVERY_SECONDS = 5.0
_PING_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_PAUSE_OF_THE_DEAF_SECONDS = 300.0
_LONGEST_NAME = 63


def channel_of(schema_name: str) -> str:
    """The channel of a schema; two long names may share one, and do not understand each other."""
    return f"hybrid_memory_{schema_name}"[:_LONGEST_NAME]


class Listener:
    """Hears what other processes say. Belongs to the event loop that started it.

    Args:
        link: how the database is reached; notifications are sent through it.
        settings: the name of the schema, and deadlines.
        events: where to report.
        heard: called with every notification.
        listening: called each time notifications begin to arrive: from now on nothing is missed, before it was.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        events: Events,
        *,
        heard: Callable[[str], None],
        listening: Callable[[], None],
    ) -> None:
        self._link = link
        self._settings = settings
        self._events = events
        self._heard = heard
        self._listening = listening
        self._ping = queries.load("postgres", settings.schema_name)["server.ping"].text
        self._channel = channel_of(settings.schema_name)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said: bool | None = None
        self.hearing: Hearing = "polling"
        """`listening` while notifications arrive; `polling` while changes have to be asked for."""

    def start(self) -> None:
        """Connect in the background, and again whenever the connection is lost."""
        self._task = asyncio.create_task(self._keep_listening(), name="hybrid-memory listener")
        self._link.on_recovery(self._wake.set)

    async def close(self) -> None:
        """Hang up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_listening(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._wake.clear()
            try:
                await self._listen()
            except (_Deaf, ConfigurationError, SchemaMismatch) as error:
                self._lost(str(error), for_good=True)
                pause = _PAUSE_OF_THE_DEAF_SECONDS
            except Exception as error:  # noqa: BLE001 - a listener that gives up would be missed by nobody
                # One that was heard is missed at once; one that never was is looked for less and less often.
                pause = _FIRST_PAUSE_SECONDS if self.hearing == "listening" else min(pause * 2, _LONGEST_PAUSE_SECONDS)
                self._lost(str(error) or type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.5, 1)):  # noqa: S311 - many should not come at once
                    await self._wake.wait()

    async def _listen(self) -> None:
        """Connect, and return only by raising: the connection was lost, or hears nothing."""
        direct = self._link.direct
        if direct is None or not self._link.answering:
            raise StorageUnavailable("Postgres is away; it is asked again every few seconds")
        target, pooled = direct
        if pooled:
            raise _Deaf("the pooler gives every transaction another session: set POSTGRES_LISTEN_URL")
        arrived: asyncio.Queue[str] = asyncio.Queue()
        async with schema.connected(target, self._settings) as connection:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(self._channel, lambda *message: self._receive(message[-1], arrived))
            await self._test(arrived)
            self.hearing, self._said = "listening", None
            self._events.info("listener_connected", address=target.display)
            self._listening()
            await self._watch(connection, lost)

    def _receive(self, payload: Any, arrived: "asyncio.Queue[str]") -> None:
        if str(payload).startswith(_TEST):
            arrived.put_nowait(str(payload))
        else:
            self._heard(str(payload))

    async def _test(self, arrived: "asyncio.Queue[str]") -> None:
        """What goes out through the link has to come in here."""
        token = _TEST + secrets.token_hex(8)
        await self._link.call("changes.notify", channel=self._channel, payloads=[token])
        try:
            async with asyncio.timeout(_TEST_SECONDS):
                while await arrived.get() != token:
                    """The test of another process."""
        except TimeoutError:
            raise _Deaf(
                "a notification did not arrive: POSTGRES_LISTEN_URL has to be a direct connection to the same database"
            ) from None

    async def _watch(self, connection: "Connection", lost: asyncio.Event) -> None:
        """Ask now and then whether the other end is still there, until it is not."""
        while True:
            try:
                async with asyncio.timeout(_PING_EVERY_SECONDS):
                    await lost.wait()
            except TimeoutError:
                await self._asked(connection)
            else:
                raise StorageUnavailable("the connection that listens was closed")

    async def _asked(self, connection: "Connection") -> None:
        try:
            await connection.fetchval(self._ping, timeout=_PING_SECONDS)
        except BaseException as error:
            # It may hang: nobody says goodbye to it.
            connection.terminate()
            if is_failure(error):
                raise translate(error, "the connection that listens") from error
            raise

    def _lost(self, reason: str, *, for_good: bool = False) -> None:
        """Say so once, until something is heard again; and once more when it is known not to be for a moment only."""
        if self._said is not for_good:
            self._events.warning("listener_lost", reason=reason)
        self._said, self.hearing = for_good, "polling"


class _Deaf(Exception):
    """Connected, and nothing arrives."""
