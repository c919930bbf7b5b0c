"""A TCP proxy in front of a Postgres server that fails on command.

It listens on 127.0.0.1 and forwards to the target, a Unix socket or a port. Every fault can be switched on and off
while connections are open. A connection that has lost a byte never speaks again, also after `heal`: what would follow
is not the stream the other side expects, and a firewall that forgot a connection behaves the same.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from hybrid_memory.postgres.target import Target, Targets

Direction = Literal["to_server", "to_client"]
_Address = tuple[tuple[str, ...], tuple[int, ...]]
CommitFault = Literal["drop_reply", "lose", "swallow_reply", "swallow"]
_BOTH: tuple[Direction, ...] = ("to_server", "to_client")
_CHUNK = 65_536
_PROTOCOL_3 = 3


@dataclass(frozen=True)
class _Faults:
    """What happens to bytes now."""

    swallow: frozenset[Direction] = frozenset()
    delay: float = 0
    reset: bool = False
    cut_after: int | None = None
    cut_direction: Direction = "to_server"
    cut_silently: bool = False
    at_commit: CommitFault | None = None


class FaultProxy:
    """A listening port for each address that is behind it, and the connections through them."""

    def __init__(self, *targets: Target) -> None:
        self._targets = {_address(target): target for target in targets}
        self._servers: dict[_Address, asyncio.Server] = {}
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults = _Faults()
        self.accepted = 0
        self.commits = 0
        """How many COMMITs the clients have sent."""
        self.swallowed = 0
        """How many bytes were lost in a black hole."""
        self.commits_itself: bytes | None = None
        """What a statement says that is a transaction of its own, and counts as a COMMIT."""
        self.replies_dropped = 0
        """How many COMMITs were answered and the client never heard of it."""

    async def start(self) -> None:
        for address, target in self._targets.items():
            self._servers[address] = await asyncio.start_server(partial(self._accept, target), "127.0.0.1", 0)

    async def stop(self) -> None:
        for server in self._servers.values():
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """That of the first address."""
        return _port(next(iter(self._servers.values())))

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def target(self, target: Target) -> Target:
        """The same role and database, through this proxy."""
        server = self._servers.get(_address(target))
        port = self.port if server is None else _port(server)
        return replace(target, hosts=("127.0.0.1",), ports=(port,), tls="disable")

    def targets(self, targets: Targets) -> Targets:
        """Everything through this proxy but the administrator, who looks at the server from outside."""
        return replace(
            targets,
            runtime=self.target(targets.runtime),
            migration=self.target(targets.migration),
            direct=self.target(targets.direct),
        )

    def heal(self) -> None:
        """Pass everything on."""
        self._become(_Faults())

    def black_hole(self, *directions: Direction) -> None:
        """Take what is sent and pass nothing on, in one direction or both; new connections are accepted."""
        self._become(_Faults(swallow=frozenset(directions or _BOTH)))

    def delay(self, seconds: float) -> None:
        """Pass everything on later."""
        self._become(_Faults(delay=seconds))

    def reset(self) -> None:
        """Answer with RST: the open connections now, new ones when they come."""
        self._become(_Faults(reset=True))
        for link in list(self._links):
            link.cut()

    def cut_after(self, count: int, direction: Direction) -> None:
        """Every connection, open or new, passes `count` more bytes in that direction and is reset then."""
        self._become(_Faults(cut_after=count, cut_direction=direction))

    def swallow_after(self, count: int, direction: Direction) -> None:
        """The same, but into a black hole."""
        self._become(_Faults(cut_after=count, cut_direction=direction, cut_silently=True))

    def at_commit(self, fault: CommitFault) -> None:
        """What happens to the next COMMITs.

        `drop_reply`: the server gets it and answers, then the client's connection is reset. `lose`: it does not reach
        the server, and the connection is reset. `swallow_reply` and `swallow`: the same two without a word to the
        client.
        """
        self._become(_Faults(at_commit=fault))

    def _become(self, faults: _Faults) -> None:
        self.faults = faults
        for link in self._links:
            link.passed = dict.fromkeys(_BOTH, 0)

    async def _accept(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run(target)
        finally:
            self._links.discard(link)
            self._tasks.discard(task)


def _address(target: Target) -> _Address:
    return target.hosts, target.ports


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


class _Link:
    """A client's connection and its counterpart at the server."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client_reader = reader
        self._client = writer
        self._server: asyncio.StreamWriter | None = None
        self._dead: set[Direction] = set()
        self._commit_sent = False
        self._messages = _Messages()
        self.passed: dict[Direction, int] = dict.fromkeys(_BOTH, 0)

    async def run(self, target: Target) -> None:
        try:
            if self._proxy.faults.reset:
                return
            if "to_server" in self._proxy.faults.swallow:
                await self._swallow_all()
                return
            server_reader, self._server = await connect_to(target)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump("to_server", self._client_reader, self._server))
                pumps.create_task(self._pump("to_client", server_reader, self._client))
        except (OSError, ExceptionGroup):
            pass
        finally:
            self.cut()

    def cut(self) -> None:
        """End both connections with RST."""
        for writer in (self._client, self._server):
            if writer is not None and not writer.transport.is_closing():
                with contextlib.suppress(OSError):
                    sock = writer.get_extra_info("socket")
                    if sock.family != socket.AF_UNIX:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def _swallow_all(self) -> None:
        while data := await self._client_reader.read(_CHUNK):
            self._proxy.swallowed += len(data)

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            faults = self._proxy.faults
            if faults.delay:
                await asyncio.sleep(faults.delay)
            if direction in faults.swallow:
                self._dead.add(direction)
            if direction == "to_server" and self._messages.holds_commit(data, self._proxy.commits_itself):
                self._proxy.commits += 1
                self._commit_sent = True
            self._fail_at_commit(direction)
            if direction in self._dead:
                self._proxy.swallowed += len(data)
                continue
            await self._pass_on(direction, data, writer)
        raise ConnectionResetError  # The end of one side ends the other.

    def _fail_at_commit(self, direction: Direction) -> None:
        if not self._commit_sent:
            return
        fault = self._proxy.faults.at_commit
        if direction == "to_client" and fault in ("drop_reply", "swallow_reply"):
            self._proxy.replies_dropped += 1
        if direction == "to_client" or fault in ("lose", "swallow"):
            if fault in ("drop_reply", "lose"):
                raise ConnectionResetError
            if fault is not None:
                self._dead.update(_BOTH)
            self._commit_sent = direction == "to_server"

    async def _pass_on(self, direction: Direction, data: bytes, writer: asyncio.StreamWriter) -> None:
        faults = self._proxy.faults
        cut = faults.cut_after if direction == faults.cut_direction else None
        if cut is not None:
            data = data[: max(0, cut - self.passed[direction])]
        self.passed[direction] += len(data)
        writer.write(data)
        await writer.drain()
        if cut is not None and self.passed[direction] >= cut:
            if not faults.cut_silently:
                raise ConnectionResetError
            self._dead.update(_BOTH)


class _Messages:
    """Finds COMMIT among the messages that a client sends."""

    def __init__(self) -> None:
        self._rest = b""
        self._started = False

    def holds_commit(self, data: bytes, commits_itself: bytes | None) -> bool:
        self._rest += data
        found = False
        while True:
            head = 1 if self._started else 0
            if len(self._rest) < head + 4:
                return found
            (length,) = struct.unpack_from("!i", self._rest, head)
            if len(self._rest) < head + length:
                return found
            kind, body = self._rest[:head], self._rest[head + 4 : head + length]
            self._rest = self._rest[head + length :]
            if not self._started:
                # Requests for TLS or a cancel come before the startup message, whose first number is the protocol.
                self._started = struct.unpack_from("!h", body)[0] == _PROTOCOL_3
            elif kind == b"Q":
                found = found or body.rstrip(b"\0; ").lower() == b"commit"
            elif kind == b"B" and commits_itself is not None:
                found = found or commits_itself in body


async def connect_to(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection to a Unix socket or a port."""
    if target.is_socket:
        return await asyncio.open_unix_connection(f"{target.hosts[0]}/.s.PGSQL.{target.ports[0]}")
    return await asyncio.open_connection(target.hosts[0], target.ports[0])


def proxy_for(targets: Targets) -> AbstractAsyncContextManager[FaultProxy]:
    """A proxy in front of everything that its `targets(targets)` leads to."""
    return fault_proxy(targets.runtime, targets.direct, targets.migration)


@asynccontextmanager
async def fault_proxy(*targets: Target) -> AsyncIterator[FaultProxy]:
    """A proxy in front of `targets`, passing everything on until told otherwise."""
    proxy = FaultProxy(*targets)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
