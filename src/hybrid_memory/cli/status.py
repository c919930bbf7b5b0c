"""`status`: what is where, and whether it is well."""

import asyncio
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import hybrid_memory
from hybrid_memory import migrations, queries
from hybrid_memory.cli.output import complain, console, size, warn
from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.observability import Events
from hybrid_memory.postgres.inspection import ServerState, inspect
from hybrid_memory.postgres.reach import embedded_server
from hybrid_memory.postgres.schema import connected
from hybrid_memory.postgres.target import Embedded, Target, Targets, embedded_targets, resolve
from hybrid_memory.settings import Settings, misspelled
from hybrid_memory.sqlite.version import is_vulnerable, sqlite_version

_MISSING_INDEX = (
    "The index over vectors of {} is missing: a process makes it again; until then they are compared one by one."
)

Report = dict[str, Any]


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Show databases, versions, schema and sizes. Starts and writes nothing; exit code 1 when something is wrong."""
    report = asyncio.run(_gather(Settings()))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    if report["postgres"].get("error"):
        raise typer.Exit(1)


async def _gather(settings: Settings) -> Report:
    return {
        "version": hybrid_memory.__version__,
        "mode": "sqlite" if settings.memory_type == "sqlite" else "hybrid",
        "postgres": await _postgres(settings),
        "local": _local(settings),
        "warnings": misspelled(),
    }


async def _postgres(settings: Settings) -> Report:
    try:
        chosen = resolve(settings)
        if chosen is None:
            return {"state": "off"}
        if isinstance(chosen, Targets):
            return await _server(chosen.runtime, settings, pooled=chosen.pooled) | {"kind": "configured"}
        return await _embedded(chosen, settings) | {"kind": "embedded", "directory": str(chosen.directory)}
    except HybridMemoryError as error:
        return {"state": "failing", "error": str(error)}


async def _embedded(chosen: Embedded, settings: Settings) -> Report:
    running = embedded_server(settings, Events()).socket_directory()
    if running is None:
        return {"state": "stopped" if (chosen.directory / "data").exists() else "not created"}
    return await _server(embedded_targets(running).runtime, settings)


async def _server(target: Target, settings: Settings, *, pooled: bool = False) -> Report:
    report: Report = {"state": "up", "dsn": target.display}
    try:
        async with connected(target, settings, pooled=pooled) as connection:
            state = await inspect(connection, settings.schema_name)
            report |= _described(state)
            state.check_server()
            pending = state.pending(migrations.load("postgres"))
            report["pending"] = [f"{one.number:04}_{one.name}" for one in pending]
            if state.is_ours:
                known = queries.load("postgres", settings.schema_name)
                deployment = await connection.fetchrow(known["schema.deployment"].text)
                sizes = await connection.fetch(known["schema.sizes"].text, settings.schema_name)
                report["stats_age_seconds"] = _age(deployment["stats_refreshed_at"] if deployment else None)
                report["relations"] = [dict(row) for row in sizes]
                if not pending:
                    totals = await connection.fetchrow(known["statistics.totals"].text)
                    report["totals"] = dict(totals or {})
                    missing = await connection.fetch(known["large_owners.missing_ann_indexes"].text)
                    report["warnings"] += [_MISSING_INDEX.format(row["mark"]) for row in missing]
    except HybridMemoryError as error:
        report |= {"state": "failing", "error": str(error)}
    return report


def _described(state: ServerState) -> Report:
    return {
        "server_version": state.version,
        "pgvector_version": state.vector_version,
        "citus": state.is_citus,
        "role": state.role,
        "row_security": "bypassed" if state.bypasses_row_security else "in force",
        "database": state.database,
        "database_bytes": state.database_bytes,
        "schema": state.schema,
        "migrations": len(state.applied),
        "warnings": state.warnings,
    }


def _local(settings: Settings) -> Report:
    directory = settings.data_dir.expanduser().absolute()
    files = {path.name: _size_of(path) for path in sorted(directory.glob("*.db*"))} if directory.exists() else {}
    return {
        "data_dir": str(directory),
        "exists": directory.exists(),
        "sqlite_version": sqlite_version(),
        "sqlite_safe": not is_vulnerable(sqlite_version()),
        "files": {name: size for name, size in files.items() if size is not None},
        "postgres_bytes": _tree_size(directory / "postgres"),
    }


def _tree_size(directory: Path) -> int:
    files = (Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return sum(_size_of(path) or 0 for path in files)


def _size_of(path: Path) -> int | None:
    """Of a file; None when it is none, or has gone meanwhile: whoever works there removes some all the time."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _age(moment: datetime | None) -> float | None:
    return round((datetime.now(UTC) - moment).total_seconds(), 1) if moment else None


def _print(report: Report) -> None:
    postgres, local = report["postgres"], report["local"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows: list[tuple[str, Any]] = [
        ("hybrid-memory", f"{report['version']}, {report['mode']}"),
        ("Postgres", _in_words(postgres)),
        ("  data in", postgres.get("directory")),
        ("  address", postgres.get("dsn")),
        ("  server", postgres.get("server_version")),
        ("  pgvector", postgres.get("pgvector_version")),
        ("  role", f"{postgres['role']} (row security {postgres['row_security']})" if "role" in postgres else None),
        ("  database", f"{postgres['database']}, {size(postgres['database_bytes'])}" if "role" in postgres else None),
        ("  schema", _schema_in_words(postgres) if "schema" in postgres else None),
        ("  holds", _totals_in_words(postgres) if "totals" in postgres else None),
        ("  size on disk", size(local["postgres_bytes"]) if local["postgres_bytes"] else None),
        ("local data in", local["data_dir"] + ("" if local["exists"] else " (not created yet)")),
        (
            "  SQLite",
            local["sqlite_version"] + ("" if local["sqlite_safe"] else ", which can corrupt files: upgrade apsw"),
        ),
    ]
    rows += [(f"  {name}", size(count)) for name, count in local["files"].items()]
    for name, value in rows:
        if value is not None:
            table.add_row(name, Text(str(value)))
    console.print(table)
    for text in [*report["warnings"], *postgres.get("warnings", [])]:
        warn(text)
    if postgres.get("error"):
        complain(postgres["error"])


def _in_words(postgres: Report) -> str:
    kind = postgres.get("kind")
    return f"{postgres['state']}, {kind} server" if kind else str(postgres["state"])


def _schema_in_words(postgres: Report) -> str:
    pending = len(postgres.get("pending", []))
    total = sum(relation["bytes"] for relation in postgres.get("relations", []))
    waiting = f", {pending} pending: run `hybrid-memory init`" if pending else ""
    return f"{postgres['schema']}, migration {postgres['migrations']}{waiting}, {size(total)}"


def _totals_in_words(postgres: Report) -> str:
    age = postgres.get("stats_age_seconds")
    if age is None:
        return "not counted yet"
    counts = ", ".join(f"{count} {name}" for name, count in postgres["totals"].items())
    return f"{counts} (counted {age:.0f} s ago)"
