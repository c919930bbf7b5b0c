"""`upload` and `download`: users' memories between `state.db` and Postgres."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

import hybrid_memory
from hybrid_memory.cli.output import complain, done, note, warn
from hybrid_memory.settings import Settings

if TYPE_CHECKING:
    from hybrid_memory.memory.moving import Progress

_SECONDS_BETWEEN_LINES = 1.0


def upload() -> None:
    """Move the memories of users from state.db to Postgres, also when MEMORY_TYPE=sqlite is set. Safe to repeat."""
    users, quarantined = asyncio.run(_upload(_with_postgres()))
    done(f"{users} user(s) moved to Postgres" if users else "nobody is left in state.db who belongs into Postgres")
    if quarantined:
        warn(f"{quarantined} operation(s) are in quarantine: `hybrid-memory outbox list` says why")


def download(
    user: Annotated[list[str] | None, typer.Option(help="Only this user; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Longest wait for writes that are not in Postgres yet.")] = 60,
) -> None:
    """Copy the memories of users from Postgres to state.db, for MEMORY_TYPE=sqlite. Safe to repeat.

    The copies are of now: stop what writes to Postgres before, and switch afterwards.
    """
    users = asyncio.run(_download(_with_postgres(), user, seconds))
    if users is None:
        complain("not everything that was acknowledged here has arrived in Postgres: see `hybrid-memory outbox list`")
        raise typer.Exit(1)
    done(f"{users} user(s) are in state.db now; MEMORY_TYPE=sqlite goes on from there")


def _with_postgres() -> Settings:
    return Settings().model_copy(update={"memory_type": "hybrid"})


async def _upload(settings: Settings) -> tuple[int, int]:
    async with hybrid_memory.HybridMemoryManager(settings) as manager:
        return await manager.upload(_lines("sent")), manager.health().quarantined or 0


async def _download(settings: Settings, users: list[str] | None, seconds: float) -> int | None:
    async with hybrid_memory.HybridMemoryManager(settings) as manager:
        if not await manager.flush(seconds):
            return None
        return await manager.download(users, _lines("copied"))


def _lines(word: str) -> "Progress":
    """A line of progress now and then, and one for the last row of each user."""
    last = time.monotonic()

    def tell(user_id: str, rows: int, expected: int) -> None:
        nonlocal last
        if rows >= expected or time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            note(f"{user_id}: {rows} of {expected} rows {word}")

    return tell
