"""TLS in front of a test server, whose build has none: what a server with a certificate does at the beginning."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from hybrid_memory.postgres.target import Target
from tests.support.proxy import connect_to

_TLS_REQUEST = struct.pack("!ii", 8, 80877103)


class TlsFront:
    """Takes encrypted connections, and plain ones unless `required`, and passes what they say to the target."""

    def __init__(self, target: Target, context: ssl.SSLContext, *, required: bool) -> None:
        self._target = target
        self._context = context
        self._required = required
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.encrypted = 0
        self.plain = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, ExceptionGroup, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(8)
        if first == _TLS_REQUEST:
            writer.write(b"S")
            await writer.start_tls(self._context)
            self.encrypted += 1
            first = b""
        elif self._required:
            fields = b"SFATAL\0C28000\0Mno pg_hba.conf entry for this host, no encryption\0\0"
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            await writer.drain()
            writer.close()
            return
        else:
            self.plain += 1
        server_reader, server = await connect_to(self._target)
        server.write(first)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, server))
                pumps.create_task(_pump(server_reader, writer))
        finally:
            server.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


@asynccontextmanager
async def tls_front(target: Target, context: ssl.SSLContext, *, required: bool = False) -> AsyncIterator[TlsFront]:
    """Such a front on 127.0.0.1."""
    front = TlsFront(target, context, required=required)
    listening = await asyncio.start_server(front.accept, "127.0.0.1", 0)
    front.port = int(listening.sockets[0].getsockname()[1])
    try:
        yield front
    finally:
        listening.close()
        await front.end()
