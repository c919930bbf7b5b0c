"""`outbox`: what was acknowledged and is not in Postgres yet, and what Postgres refused."""

import asyncio
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import hybrid_memory
from hybrid_memory.cli.output import complain, console, done, note, warn
from hybrid_memory.errors import ConfigurationError, InvalidInput
from hybrid_memory.memory.identity import new_id
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.outbox import Outbox, UserQueue
from hybrid_memory.sqlite.outbox_files import read_lines, write_lines
from hybrid_memory.sqlite.queued import QueuedOperation

app = typer.Typer(help="What was acknowledged and is not in Postgres yet, and what Postgres refused.")

_AT_A_TIME = 100
_SECONDS_BETWEEN_LINES = 2.0
_HEADS = {"user_id": "user", "oldest": "oldest (UTC)", "since": "since (UTC)", "row": "content"}


@app.command("list")
def show(
    limit: Annotated[int, typer.Option(min=1, help="Users and refused operations shown at most.")] = 20,
    show_content: Annotated[bool, typer.Option("--show-content", help="Show what the refused operations say.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Show how much waits, for whom and since when, and what is in quarantine and why."""
    report = asyncio.run(_gather(Settings(), limit, show_content))
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print(report)


@app.command()
def requeue(
    ids: Annotated[list[int] | None, typer.Argument(help="Ids as `list` shows them.")] = None,
    user: Annotated[str | None, typer.Option(help="All operations of this user.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All operations.")] = False,
) -> None:
    """Put operations from quarantine at the end of their users' queues, to be sent once more."""
    if sum([bool(ids), user is not None, everything]) != 1:
        raise typer.BadParameter("give ids, or --user, or --all")
    moved, left = asyncio.run(_requeue(Settings(), ids, user))
    done(f"{moved} operation(s) will be sent again by the next process that runs, in the order they had")
    if left:
        warn(f"{left} stay in quarantine: their content is damaged, or they are not there any more")


@app.command()
def replay(
    seconds: Annotated[float, typer.Option(min=1, help="Give up when nothing has arrived for so long.")] = 60,
) -> None:
    """Send what waits, now, and say how far it is; processes that run do so by themselves."""
    waiting, quarantined = asyncio.run(_replay(Settings(), seconds))
    if quarantined:
        warn(f"{quarantined} operation(s) are in quarantine: `hybrid-memory outbox list` says why")
    if waiting:
        complain(f"{waiting} operation(s) still wait: Postgres does not answer, or another process is sending them")
        raise typer.Exit(1)
    done("everything has arrived in Postgres")


@app.command()
def export(file: Annotated[Path, typer.Argument(help="A file that is not there yet.")]) -> None:
    """Write everything, waiting and in quarantine, as JSON lines. They hold the contents of memories in full."""
    try:
        count = asyncio.run(_export(Settings(), file))
    except FileExistsError:
        raise ConfigurationError(f"{file} is there already; give another name") from None
    done(f"{count} operation(s) written to {file}, readable for you alone; memories are in it in full")


@app.command("import")
def take_in(file: Annotated[Path, typer.Argument(help="What `export` wrote.")]) -> None:
    """Take the export of a lost data directory in: what waited waits, what was in quarantine is there.

    What is there already is left out. Not while the directory it came from is still in use: both would send it.
    """
    before, after = asyncio.run(_import(Settings(), file))
    done(f"{after - before} operation(s) taken in; {after} are kept now")


async def _gather(settings: Settings, limit: int, show_content: bool) -> dict[str, Any]:
    if not _state_path(settings).exists():
        return _report(0, None, 0, [], [])
    with _outbox(settings) as outbox:
        age = await outbox.oldest_age(datetime.now(UTC))
        refused = await outbox.quarantined(limit=limit)
        return _report(
            await outbox.depth(),
            age,
            await outbox.quarantined_count(),
            await outbox.queues(limit),
            [_described(one, show_content=show_content) for one in refused],
        )


def _report(
    depth: int, age: timedelta | None, count: int, queues: list[UserQueue], refused: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "waiting": depth,
        "oldest_seconds": None if age is None else round(age.total_seconds(), 1),
        "quarantined": count,
        "users": [
            {"user_id": one.user_id, "waiting": one.operations, "oldest": one.oldest.isoformat()} for one in queues
        ],
        "quarantine": refused,
    }


def _described(operation: QueuedOperation, *, show_content: bool) -> dict[str, Any]:
    since = operation.quarantined_at
    described = {
        "id": operation.position,
        "user_id": operation.user_id,
        "kind": operation.kind,
        "since": None if since is None else since.isoformat(),
        "attempts": operation.attempts,
        "reason": operation.reason,
    }
    return described | ({"row": operation.row} if show_content else {})


def _print(report: dict[str, Any]) -> None:
    age = report["oldest_seconds"]
    oldest = "" if age is None else f", the oldest for {timedelta(seconds=round(age))}"
    note(f"{report['waiting']} waiting for Postgres{oldest}; {report['quarantined']} in quarantine")
    if report["users"]:
        console.print(_table(report["users"]))
    if report["quarantine"]:
        note("\nin quarantine: `hybrid-memory outbox requeue ID` sends one again, `outbox export` saves them")
        console.print(_table(report["quarantine"]))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(_HEADS.get(name, name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(name, value)) for name, value in row.items()))
    return table


def _shown(name: str, value: Any) -> str:
    if name in ("oldest", "since"):
        return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S}"
    if name == "row":
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


async def _requeue(settings: Settings, ids: list[int] | None, user: str | None) -> tuple[int, int]:
    instance, number, now = new_id(), _numbers(), datetime.now(UTC)
    moved = seen = after = 0
    with _outbox(settings) as outbox:
        while chosen := await outbox.quarantined(user, _AT_A_TIME, positions=ids, after=after):
            moved += await outbox.requeue(chosen, instance, number, now)
            seen, after = seen + len(chosen), chosen[-1].position
    return moved, max(seen, len(set(ids or ()))) - moved


async def _replay(settings: Settings, seconds: float) -> tuple[int, int]:
    async with hybrid_memory.HybridMemoryManager(settings) as manager:
        health = manager.health()
        while health.outbox_depth:
            note(f"{health.outbox_depth} waiting, Postgres is {health.postgres}")
            before, began = health.outbox_depth, time.monotonic()
            while health.outbox_depth == before and time.monotonic() - began < seconds:
                await manager.flush(_SECONDS_BETWEEN_LINES)
                health = manager.health()
            if health.outbox_depth == before:
                break
    return health.outbox_depth or 0, health.quarantined or 0


def _numbers() -> Callable[[str], int]:
    """This command is a run of its own, whose numbers begin at one for every user."""
    counters: defaultdict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))
    return lambda user_id: next(counters[user_id])


async def _export(settings: Settings, file: Path) -> int:
    with _outbox(settings) as outbox:
        return await write_lines(file, outbox.everything())


async def _import(settings: Settings, file: Path) -> tuple[int, int]:
    operations = list(read_lines(file))
    if not operations:
        raise InvalidInput(f"{file}: nothing is in it")
    with _outbox(settings) as outbox:
        before = await outbox.depth() + await outbox.quarantined_count()
        for start in range(0, len(operations), _AT_A_TIME):
            await outbox.put(operations[start : start + _AT_A_TIME])
        return before, await outbox.depth() + await outbox.quarantined_count()


@contextmanager
def _outbox(settings: Settings) -> Iterator[Outbox]:
    with Database(STATE, _state_path(settings).parent, Events()) as state:
        yield Outbox(
            state, Events(), most_operations=settings.max_outbox_operations, most_bytes=settings.max_outbox_bytes
        )


def _state_path(settings: Settings) -> Path:
    return settings.data_dir.expanduser().absolute() / STATE.name
