"""`checkpoints import` and `checkpoints export`: from and to files of langgraph-checkpoint-sqlite."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hybrid_memory.cli.output import done, errors, warn
from hybrid_memory.settings import Settings

if TYPE_CHECKING:
    from hybrid_memory.transfer.checkpoints import Transferred

app = typer.Typer(help="Checkpoints from and to files of langgraph-checkpoint-sqlite.", no_args_is_help=True)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="A file of SqliteSaver or AsyncSqliteSaver; it stays as it is.")],
) -> None:
    """Bring every thread of a file into this data directory. Repeating it brings what is new."""
    from hybrid_memory.transfer.checkpoints import import_checkpoints  # noqa: PLC0415 - it brings LangGraph with it

    settings = Settings()
    _report(_with_bar(import_checkpoints, file, settings), file, settings.data_dir)


@app.command("export")
def export_file(
    file: Annotated[Path, typer.Argument(help="A file for SqliteSaver or AsyncSqliteSaver; made when missing.")],
) -> None:
    """Bring every thread of this data directory into a file. Repeating it brings what is new."""
    from hybrid_memory.transfer.checkpoints import export_checkpoints  # noqa: PLC0415 - it brings LangGraph with it

    settings = Settings()
    _report(_with_bar(export_checkpoints, file, settings), settings.data_dir, file)


def _with_bar(transfer: Callable[..., "Transferred"], file: Path, settings: Settings) -> "Transferred":
    columns = (TextColumn("checkpoints"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        return transfer(
            file, settings, progress=lambda looked_at, total: progress.update(bar, completed=looked_at, total=total)
        )


def _report(transferred: "Transferred", source: Path, target: Path) -> None:
    moved = transferred.moved
    done(f"{source}: {moved.threads} thread(s), {moved.checkpoints} checkpoint(s)")
    done(f"{target}: {moved.new_checkpoints} checkpoint(s) and {moved.new_writes} pending write(s) are new there")
    if transferred.not_allowed:
        warn(
            f"threads hold types that checkpoints restore only when they are allowed: set "
            f"HYBRID_MEMORY_ALLOWED_TYPES={','.join(transferred.not_allowed)}"
        )
