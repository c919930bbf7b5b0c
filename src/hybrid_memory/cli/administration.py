"""`init`, `schema`, `psql` and `stop`."""

import asyncio
import shutil
import subprocess
from typing import Annotated

import asyncpg
import typer

from hybrid_memory import migrations, queries
from hybrid_memory.cli.output import done, note, warn
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.observability import Events
from hybrid_memory.postgres import embedded, permissions, schema as postgres_schema
from hybrid_memory.postgres.inspection import ServerState, inspect
from hybrid_memory.postgres.reach import embedded_server, reached
from hybrid_memory.postgres.script import schema_script
from hybrid_memory.postgres.target import Embedded, Target, Targets, resolve
from hybrid_memory.settings import Settings, misspelled

_MAINTENANCE_DATABASE = "postgres"


def init(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; test connection, rights and extension.")
    ] = False,
    create_database: Annotated[bool, typer.Option("--create-database", help="Create the database if missing.")] = False,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Drop the schema with all memories; needs --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm --recreate.")] = False,
    runtime_role: Annotated[str | None, typer.Option(help="Give this role what the library needs at run time.")] = None,
) -> None:
    """Prepare Postgres: extension, schema, migrations and rights. Safe to repeat."""
    settings = Settings()
    for line in misspelled():
        warn(line)
    asyncio.run(_check(settings) if check else _init(settings, create_database, recreate, yes, runtime_role))


def schema() -> None:
    """Print the whole schema as one script for psql -f."""
    typer.echo(schema_script(Settings().schema_name), nl=False)


def psql(
    context: typer.Context,
    commands: Annotated[list[str] | None, typer.Option("-c", help="Run this SQL and exit; may be repeated.")] = None,
) -> None:
    """Open psql on the configured server, or on the embedded one as its superuser. Further options go to psql."""
    given = [argument for command in commands or () for argument in ("-c", command)]
    raise typer.Exit(asyncio.run(_psql(Settings(), [*given, *context.args])))


def stop() -> None:
    """Stop the embedded server, whoever uses it. Committed data are safe; the next start brings it back."""
    server = embedded_server(Settings(), Events())
    if server.stop():
        done(f"stopped the embedded server in {server.directory}")
    else:
        note(f"no embedded server is running in {server.directory}")


async def _init(settings: Settings, create_database: bool, recreate: bool, yes: bool, runtime_role: str | None) -> None:
    events = Events()
    async with reached(settings, events) as targets:
        note(f"Postgres: {targets.migration.display}")
        if isinstance(chosen := resolve(settings), Embedded):
            note(f"an embedded server; its data live in {chosen.directory}")
        if create_database:
            await _create_database(targets.migration, settings)
        if recreate:
            await _drop(targets, settings, confirmed=yes)
        remove = events.add_hook(lambda event: _progress(event.name, dict(event.fields)))
        state = await postgres_schema.ensure(targets, settings, events)
        remove()
        if runtime_role:
            async with postgres_schema.connected(targets.migration, settings) as connection:
                new = await postgres_schema.grant_runtime(connection, settings.schema_name, runtime_role)
            done(f"role {runtime_role!r} {'was given' if new else 'has'} what the library needs")
        done(f"{state.where} is at migration {len(state.applied)}, nothing is pending")
        for text in state.warnings:
            warn(text)


def _progress(name: str, fields: dict[str, object]) -> None:
    if name == "migration_applied":
        done(f"applied migration {fields['number']:04} {fields['migration']} ({fields['duration_ms']} ms)")


async def _check(settings: Settings) -> None:
    chosen = resolve(settings)
    if chosen is None:
        done("MEMORY_TYPE=sqlite: everything is local, no Postgres is needed")
        return
    if isinstance(chosen, Embedded):
        server = embedded_server(settings, Events())
        program = server.program("postgres")
        done(f"no server is configured; the embedded one will be used ({program.parent})")
        if server.socket_directory() is None:
            done(f"it is not running; `hybrid-memory init` starts it with its data in {chosen.directory}")
            return
        async with reached(settings, Events()) as targets:
            await _check_server(targets, settings)
        return
    await _check_server(chosen, settings)


async def _check_server(targets: Targets, settings: Settings) -> None:
    async with postgres_schema.connected(targets.migration, settings) as connection:
        state = await inspect(connection, settings.schema_name)
        done(f"connected to {targets.migration.display} as {state.role!r}")
        state.check_server()
        done(f"Postgres {state.version}")
        todo = state.pending(migrations.load("postgres"))
        _check_rights(state, needed=bool(todo))
        if state.vector_version:
            done(f"pgvector {state.vector_version} in schema {state.vector_schema!r}")
        else:
            note(f"    pgvector {state.vector_available} is offered; init will run CREATE EXTENSION vector")
        done(f"{state.where}: {len(state.applied)} migration(s) applied, {len(todo)} pending")
        for text in state.warnings:
            warn(text)
    if targets.runtime != targets.migration:
        async with postgres_schema.connected(targets.runtime, settings):
            done(f"connected to {targets.runtime.display} as the running role")


def _check_rights(state: ServerState, *, needed: bool) -> None:
    if not needed:
        return
    if state.schema_present and not state.is_owner:
        raise ConfigurationError(f"role {state.role!r} does not own {state.where}; {state.schema_owner!r} does")
    if not state.schema_present:
        state.check_may_create_schema()
    done(f"role {state.role!r} may make the schema")


async def _create_database(target: Target, settings: Settings) -> None:
    name = target.database or target.user
    if not name:
        raise ConfigurationError("--create-database needs a name: set POSTGRES_DB, or a database in DATABASE_URL")
    known = queries.load("postgres", settings.schema_name)
    async with postgres_schema.connected(target.to_database(_MAINTENANCE_DATABASE), settings) as connection:
        if await connection.fetchval(known["server.database_exists"].text, name):
            done(f"database {name!r} is there")
            return
        statement = await connection.fetchval(known["server.create_database_statement"].text, name)
        try:
            await connection.execute(statement)
        except asyncpg.InsufficientPrivilegeError as error:
            raise ConfigurationError(
                f"role {target.user!r} may not create a database: run as a superuser: "
                f"CREATE DATABASE {queries.quote(name)} OWNER {queries.quote(target.user or '')};"
            ) from error
    done(f"created database {name!r}")


async def _drop(targets: Targets, settings: Settings, *, confirmed: bool) -> None:
    known = queries.load("postgres", settings.schema_name)
    async with postgres_schema.connected(targets.migration, settings) as connection:
        state = await inspect(connection, settings.schema_name)
        if not state.is_ours:
            state.pending([])
            note(f"{state.where}: there is nothing to drop")
            return
        async with connection.transaction():
            await connection.execute(known["schema.set_scope"].text)
            counts = await connection.fetchrow(known["schema.row_counts"].text)
        found = ", ".join(f"{count} {name}" for name, count in dict(counts or {}).items())
        if not confirmed:
            raise ConfigurationError(f"--recreate would drop {state.where} with {found}; add --yes to do it")
        await connection.execute(known["schema.drop"].text)
        done(f"dropped {state.where} with {found}")


async def _psql(settings: Settings, arguments: list[str]) -> int:
    async with reached(settings, Events()) as targets:
        chosen = resolve(settings)
        if isinstance(chosen, Embedded):
            program = str(embedded_server(settings, Events()).program("psql"))
        else:
            program = shutil.which("psql") or _bundled_psql()
        environment = permissions.environment() | targets.administration.psql_environment()
        finished = await asyncio.to_thread(subprocess.run, [program, *arguments], env=environment, check=False)
    return finished.returncode


def _bundled_psql() -> str:
    try:
        return str(embedded.programs() / "psql")
    except ConfigurationError:
        raise ConfigurationError("psql is not on the path: install Postgres' client programs") from None
