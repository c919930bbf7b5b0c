"""`threads`: which threads have checkpoints, and what they take."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import hybrid_memory
from hybrid_memory.cli.output import console, note, size
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.files import STATE


def threads(
    limit: Annotated[int, typer.Option(min=1, help="How many, the most recently used first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line instead of a table.")] = False,
) -> None:
    """Show the threads in state.db with last activity, step and size."""
    settings = Settings()
    directory = settings.data_dir.expanduser()
    if not (directory / STATE.name).exists():
        note(f"no {STATE.name} in {directory.absolute()} yet")
        return
    with hybrid_memory.HybridCheckpointer(settings=settings) as checkpointer:
        found = checkpointer.threads()
    if as_json:
        for one in found[:limit]:
            typer.echo(
                json.dumps(
                    {
                        "thread_id": one.thread_id,
                        "last_activity": one.last_activity.isoformat(),
                        "step": one.step,
                        "checkpoints": one.checkpoints,
                        "bytes": one.bytes,
                    }
                )
            )
        return
    table = Table(box=None, pad_edge=False)
    for name in ("thread", "last activity", "step", "checkpoints", "size"):
        table.add_column(name, justify="left" if name in ("thread", "last activity") else "right", overflow="fold")
    now = datetime.now(UTC)
    for one in found[:limit]:
        step = "" if one.step is None else str(one.step)
        ago = _ago((now - one.last_activity).total_seconds())
        table.add_row(Text(one.thread_id), ago, step, str(one.checkpoints), size(one.bytes))
    console.print(table)
    total = f"{len(found)} threads, {size(sum(one.bytes for one in found))}"
    note(total if len(found) <= limit else f"{total}; --limit shows more")


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
