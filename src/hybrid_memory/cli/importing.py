"""`import`: what other stores hold."""

import asyncio
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hybrid_memory.cli.output import done, errors, warn
from hybrid_memory.settings import Settings

app = typer.Typer(help="Memories from elsewhere.", no_args_is_help=True)


@app.callback()
def _import() -> None:
    """Memories from elsewhere."""


@app.command("langgraph-store")
def langgraph_store(
    dsn: Annotated[str, typer.Argument(help="The database of a PostgresStore or AsyncPostgresStore; it is only read.")],
    model: Annotated[
        str | None, typer.Option(help="The model that made its vectors; the configured embedder by default.")
    ] = None,
) -> None:
    """Bring the items of LangGraph's Postgres store, with their vectors. Repeating it brings what is new there."""
    from hybrid_memory.transfer.langgraph_store import import_langgraph_store  # noqa: PLC0415 - it brings LangGraph with it

    columns = (TextColumn("items"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        imported = asyncio.run(
            import_langgraph_store(
                dsn,
                Settings(),
                model=model,
                progress=lambda looked_at, total: progress.update(bar, completed=looked_at, total=total),
            )
        )
    done(f"{imported.looked_at} item(s) looked at: {imported.new} are new here, with {imported.vectors} vector(s)")
    if imported.refused:
        warn(f"{imported.refused} item(s) cannot be memories and were left out:")
        for reason in imported.reasons:
            warn(f"  {reason}")
