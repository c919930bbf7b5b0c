"""The `hybrid-memory` command."""

import sys
from typing import Annotated

import typer

import hybrid_memory
from hybrid_memory.cli import administration, checkpoints, demo, importing, outbox, status, threads
from hybrid_memory.cli.output import complain
from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.observability import configure_logging

app = typer.Typer(
    help="Checkpoints, store and memory graph for LangGraph agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo")(demo.demo)
app.command("init")(administration.init)
app.command("status")(status.status)
app.command("schema")(administration.schema)
app.command("psql", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(administration.psql)
app.command("threads")(threads.threads)
app.command("stop")(administration.stop)
app.add_typer(outbox.app, name="outbox", no_args_is_help=True)
app.add_typer(checkpoints.app, name="checkpoints")
app.add_typer(importing.app, name="import")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hybrid-memory {hybrid_memory.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    log: Annotated[str | None, typer.Option(help="Show what happens inside: debug, info, warning or error.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="The same as JSON lines.")] = False,
) -> None:
    if log or log_json:
        level = (log or "info").upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise typer.BadParameter("allowed is debug, info, warning or error", param_hint="--log")
        configure_logging("json" if log_json else "readable", level=level)


def main() -> None:
    """Run the command; an expected error is one message and exit code 1, without a traceback."""
    try:
        app()
    except (HybridMemoryError, OSError) as error:
        complain(str(error))
        sys.exit(1)
