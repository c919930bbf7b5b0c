"""Bringing the schema in Postgres up to date.

Migrations run on a direct connection, one migrator at a time under a polled advisory lock. A database that is already
up to date is recognised without any lock.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from hybrid_memory import migrations, queries
from hybrid_memory.errors import ConfigurationError, SchemaMismatch, StorageUnavailable
from hybrid_memory.migrations import Migration
from hybrid_memory.observability import Events
from hybrid_memory.postgres.connecting import Connector, connection_arguments
from hybrid_memory.postgres.failures import is_failure, translate
from hybrid_memory.postgres.inspection import ServerState, inspect
from hybrid_memory.postgres.target import Target, Targets
from hybrid_memory.settings import Settings

_POLL_SECONDS = 0.05
_LOCK_ATTEMPTS = 40
_NOT_THROUGH_A_POOLER = (
    "the schema has to be brought up to date, and a pooler that shares sessions cannot hold the lock for it: set "
    "POSTGRES_LISTEN_URL or HYBRID_MEMORY_MIGRATION_URL to a direct connection, or run `hybrid-memory init` with one."
)


@asynccontextmanager
async def connected(
    target: Target, settings: Settings, *, pooled: bool = False
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A single connection, direct or through a pooler, closed within its deadline.

    Raises:
        StorageUnavailable: the server did not answer.
        ConfigurationError: it refused the role, the password or the database.
    """
    connection: asyncpg.Connection[asyncpg.Record] | None = None
    try:
        async with asyncio.timeout(settings.connect_timeout_seconds):
            connection = await Connector()(
                **connection_arguments(target, settings, pooled=pooled)
                | {"command_timeout": settings.command_timeout_seconds}
            )
        yield connection
    except BaseException as error:
        if connection is not None and isinstance(error, (OSError, asyncio.CancelledError)):
            # No answer came, so none will come to a goodbye.
            connection.terminate()
        if is_failure(error):
            raise translate(error, f"a connection to {target.display}") from error
        raise
    finally:
        if connection is not None:
            await _close(connection, settings)


async def ensure(
    targets: Targets, settings: Settings, events: Events, *, shipped: Sequence[Migration] | None = None
) -> ServerState:
    """Bring the schema up to date and describe the result. Safe to call from many processes at once.

    A running role that is not the migrating one is given the rights it needs.

    Args:
        targets: where the database is.
        settings: the name of the schema, and deadlines.
        events: where to report.
        shipped: the migrations to apply; this version's own when None.

    Raises:
        ConfigurationError: server or rights do not fit; the text names the line an administrator has to run.
        SchemaMismatch: the schema is not ours, newer than this version, or was altered.
        StorageUnavailable: the server did not answer, or another process migrates for too long.
    """
    shipped = migrations.load("postgres") if shipped is None else shipped
    pooled = targets.pooled and targets.migration == targets.runtime
    async with connected(targets.migration, settings, pooled=pooled) as connection:
        state = await inspect(connection, settings.schema_name)
        state.check_server()
        if state.pending(shipped) or state.vector_version is None:
            if pooled:
                raise ConfigurationError(_NOT_THROUGH_A_POOLER)
            async with _migrating(connection, settings):
                await _prepare(connection, settings.schema_name)
                await _apply_pending(connection, shipped, settings, events)
            state = await inspect(connection, settings.schema_name)
        role, schema = targets.runtime.user, settings.schema_name
        if role not in (None, state.role) and state.is_owner and not await _is_granted(connection, schema, str(role)):
            # Two sessions that grant on the same table at once disturb each other.
            async with _migrating(connection, settings):
                await grant_runtime(connection, schema, str(role))
    for text in state.warnings:
        events.warning("postgres_warning", text=text)
    return state


async def grant_runtime(connection: "asyncpg.Connection[asyncpg.Record]", schema: str, role: str) -> bool:
    """Give `role` what the library needs at run time; False when it had it already.

    Raises:
        ConfigurationError: there is no such role.
    """
    known = queries.load("postgres", schema)
    if await _is_granted(connection, schema, role):
        return False
    if await connection.fetchval(known["server.role_exists"].text, role) is None:
        raise ConfigurationError(
            f"there is no role {role!r}: run CREATE ROLE {queries.quote(role)} LOGIN PASSWORD '...';"
        )
    await connection.execute(known["schema.grant_runtime"].text, role)
    return True


async def _is_granted(connection: "asyncpg.Connection[asyncpg.Record]", schema: str, role: str) -> bool:
    known = queries.load("postgres", schema)
    return role in await connection.fetchval(known["schema.runtime_roles"].text)


async def _prepare(connection: "asyncpg.Connection[asyncpg.Record]", schema: str) -> None:
    """The extension and the schema, made by us where the administrator has not made them."""
    known = queries.load("postgres", schema)
    state = await inspect(connection, schema)
    if state.vector_version is None:
        try:
            await connection.execute(known["server.create_vector"].text)
        except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError) as error:
            raise ConfigurationError(
                f"Role {state.role!r} may not install pgvector: run in database {state.database!r} as a superuser: "
                "CREATE EXTENSION vector;"
            ) from error
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError):
            pass  # A process that migrates another schema of this database was faster.
    if not state.schema_present:
        state.check_may_create_schema()
        await connection.execute(known["schema.create"].text)


async def _apply_pending(
    connection: "asyncpg.Connection[asyncpg.Record]",
    shipped: Sequence[Migration],
    settings: Settings,
    events: Events,
) -> None:
    schema = settings.schema_name
    state = await inspect(connection, schema)
    todo = state.pending(shipped)
    if not todo:
        return
    if not state.is_owner:
        raise SchemaMismatch(
            f"{state.where} needs {len(todo)} migration(s) and role {state.role!r} does not own it: run "
            f"`hybrid-memory init` as {state.schema_owner!r}, or set HYBRID_MEMORY_MIGRATION_URL to that role."
        )
    known = queries.load("postgres", schema)
    for migration in todo:
        with events.timed("migration_applied", number=migration.number, migration=migration.name, schema=schema):
            events.debug("migration_started", number=migration.number, migration=migration.name)
            await _apply(connection, migration, settings, state.vector_schema or "public")
    await connection.execute(known["schema.regrant"].text)


async def _apply(
    connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration, settings: Settings, vector_schema: str
) -> None:
    known = queries.load("postgres", settings.schema_name)
    record = (known["schema.record"].text, migration.number, migration.name, migration.checksum)
    longest = settings.migration_timeout_seconds
    if not migration.transactional:
        for statement in migration.statements:
            await connection.execute(queries.render(statement, settings.schema_name, vector_schema), timeout=longest)
        await connection.execute(*record)
        return
    text = queries.render(migration.text, settings.schema_name, vector_schema)
    for attempt in range(1, _LOCK_ATTEMPTS + 1):
        try:
            await connection.execute("begin")
            await connection.execute(known["schema.pin_search_path"].text)
            await connection.execute(known["schema.limit_lock_wait"].text)
            await connection.execute(text, timeout=longest)
            await connection.execute(*record)
            await connection.execute("commit")
        except asyncpg.LockNotAvailableError:
            await connection.execute("rollback")
            if attempt == _LOCK_ATTEMPTS:
                raise
            await asyncio.sleep(_POLL_SECONDS * attempt)
        else:
            return


@asynccontextmanager
async def _migrating(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings) -> AsyncIterator[None]:
    """Hold the lock of migrators, released at the end of the block or, when it fails, with the session."""
    known = queries.load("postgres", settings.schema_name)
    longest = settings.migration_timeout_seconds
    await connection.execute(known["schema.allow_long_statements"].text)
    await connection.execute(known["server.notice_lost_clients"].text)
    deadline = time.monotonic() + longest
    while not await connection.fetchval(known["schema.try_lock"].text, settings.schema_name):
        if time.monotonic() > deadline:
            raise StorageUnavailable(
                f"Another process has been migrating schema {settings.schema_name!r} for more than {longest:g} s; "
                "look for it in pg_stat_activity, then start again."
            )
        await asyncio.sleep(_POLL_SECONDS)
    yield
    await connection.execute(known["schema.unlock"].text, settings.schema_name)


async def _close(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings) -> None:
    try:
        await connection.close(timeout=settings.close_timeout_seconds)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
