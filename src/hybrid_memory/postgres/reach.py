"""Reaching the Postgres that the settings mean, the embedded one included."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hybrid_memory.blocking import elsewhere
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.observability import Events
from hybrid_memory.postgres.embedded import EmbeddedServer
from hybrid_memory.postgres.target import Embedded, Targets, resolve
from hybrid_memory.settings import Settings


@asynccontextmanager
async def reached(settings: Settings, events: Events) -> AsyncIterator[Targets]:
    """How to connect; an embedded server runs at least until the block ends.

    Raises:
        ConfigurationError: everything is local (`MEMORY_TYPE=sqlite`), or there is no server to use.
    """
    chosen = resolve(settings)
    if chosen is None:
        raise ConfigurationError("MEMORY_TYPE=sqlite keeps everything local: there is no Postgres to connect to")
    if isinstance(chosen, Targets):
        yield chosen
        return
    server = EmbeddedServer(chosen.directory, events)
    events.info("embedded_server_chosen", directory=str(chosen.directory))
    # No task: those that are left when a loop ends are cancelled all at once.
    starting = asyncio.get_running_loop().run_in_executor(None, server.start)
    try:
        yield await asyncio.shield(starting)
    finally:
        # A start goes on in its thread when whoever waits for it is cancelled, and would leave a server to nobody.
        await asyncio.gather(starting, return_exceptions=True)
        await elsewhere(server.leave)


def embedded_server_crashed(settings: Settings, events: Events) -> bool:
    """Whether there is an embedded server that was killed, and nobody to start it but its users."""
    return isinstance(resolve(settings), Embedded) and embedded_server(settings, events).crashed


async def restart_embedded(settings: Settings, events: Events) -> None:
    """Start the embedded server again, for those who have been using it."""
    server = embedded_server(settings, events)
    await asyncio.to_thread(server.start)
    # The use that began before the crash goes on.
    await asyncio.to_thread(server.leave)


def embedded_server(settings: Settings, events: Events) -> EmbeddedServer:
    """The embedded server of these settings, running or not.

    Raises:
        ConfigurationError: the settings name another server, or none.
    """
    chosen = resolve(settings)
    if not isinstance(chosen, Embedded):
        raise ConfigurationError("the settings do not use the embedded server")
    return EmbeddedServer(chosen.directory, events)
