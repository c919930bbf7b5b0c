"""Opening connections: what a server is told, and which of several hosts is asked first."""

import asyncio
import itertools
from contextlib import suppress
from typing import Any

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched

from hybrid_memory.postgres.target import Target
from hybrid_memory.settings import Settings

APPLICATION = "hybrid-memory"
_GOODBYE_SECONDS = 1.0
_NEXT_HOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    TargetServerAttributeNotMatched,
)


class BoundedConnection(asyncpg.Connection):
    """A connection that takes a limited time to say goodbye.

    A pool closes connections on its own, and would wait for the answer of a server that never answers: for good, and
    the place in the pool with it.
    """

    async def close(self, *, timeout: float | None = None) -> None:
        """Close it, politely if the server listens."""
        with suppress(TimeoutError, OSError):
            await super().close(timeout=_GOODBYE_SECONDS if timeout is None else timeout)


class Connector:
    """`asyncpg.connect` for a pool, with a share of the timeout for each of several hosts.

    asyncpg gives all hosts one timeout, which the first one uses up when it swallows packets. A host that failed is
    asked last from then on, so that calls with short deadlines reach the next one too.
    """

    def __init__(self) -> None:
        self._order: list[tuple[str, int]] = []

    async def __call__(self, *dsn: Any, **arguments: Any) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection to the first host that answers and has the wanted role."""
        if isinstance(arguments["host"], str):
            return await asyncpg.connect(*dsn, **arguments)
        addresses = list(zip(arguments.pop("host"), arguments.pop("port"), strict=True))
        self._order = self._order or addresses
        wanted = arguments.pop("target_session_attrs")
        rounds = ["standby", "any"] if wanted == "prefer-standby" else [wanted]
        arguments["timeout"] /= len(addresses) * len(rounds)
        failed: BaseException = TargetServerAttributeNotMatched("no host")
        for role, address in itertools.product(rounds, list(self._order)):
            try:
                return await asyncpg.connect(
                    *dsn, host=address[0], port=address[1], target_session_attrs=role, **arguments
                )
            except (*_NEXT_HOST, asyncio.CancelledError) as error:
                self._order.remove(address)
                self._order.append(address)
                if isinstance(error, asyncio.CancelledError):
                    raise
                failed = error
        raise failed


def connection_arguments(target: Target, settings: Settings, *, pooled: bool) -> dict[str, Any]:
    """Keywords for asyncpg that are the same for the pool and for single connections."""
    server_settings = {"application_name": APPLICATION}
    arguments = target.asyncpg_arguments() | {"timeout": settings.connect_timeout_seconds}
    if pooled:
        # A pooler in transaction mode hands sessions around, with their statements and settings.
        return arguments | {"statement_cache_size": 0, "server_settings": server_settings}
    milliseconds = int(settings.command_timeout_seconds * 1000) + 5_000
    server_settings |= {
        "statement_timeout": str(milliseconds),
        "idle_in_transaction_session_timeout": str(milliseconds),
    }
    return arguments | {"server_settings": server_settings}
