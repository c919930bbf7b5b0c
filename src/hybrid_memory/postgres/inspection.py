"""What a Postgres server and our schema on it look like, and whether they will do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid_memory import migrations, queries
from hybrid_memory.errors import ConfigurationError, SchemaMismatch, StorageUnavailable
from hybrid_memory.migrations import Applied, Migration

if TYPE_CHECKING:
    import asyncpg

OLDEST_POSTGRES = 15
NEWEST_POSTGRES = 18
_OLDEST_VECTOR = (0, 8, 0)
_SOUND_VECTOR = (0, 8, 4)
_SHOWN = 4


@dataclass(frozen=True)
class ServerState:
    """What a server, its vector extension and our schema on it look like."""

    version: str
    version_number: int
    role: str
    database: str
    is_superuser: bool
    bypasses_row_security: bool
    may_create_schema: bool
    is_citus: bool
    database_bytes: int
    vector_version: str | None
    vector_schema: str | None
    vector_available: str | None
    schema: str
    schema_present: bool
    schema_owner: str
    is_owner: bool
    is_ours: bool
    relations: tuple[str, ...]
    applied: tuple[Applied, ...]

    @property
    def where(self) -> str:
        """The schema in words."""
        return f"schema {self.schema!r} in database {self.database!r}"

    @property
    def warnings(self) -> list[str]:
        """What works but should not stay so."""
        found = []
        if self.version_number >= (NEWEST_POSTGRES + 1) * 10_000:
            tested = f"{OLDEST_POSTGRES}-{NEWEST_POSTGRES}"
            found.append(f"Postgres {self.version} is newer than what is tested ({tested}).")
        if self.vector_version and _version(self.vector_version) < _SOUND_VECTOR:
            found.append(
                f"pgvector {self.vector_version} has known faults in HNSW indexes; upgrade the server's package to "
                "0.8.4 or newer, then run: ALTER EXTENSION vector UPDATE;"
            )
        if self.bypasses_row_security:
            found.append(
                f"Role {self.role!r} bypasses row-level security, so only this library's own statements keep users "
                "apart; connect as a plain role (`hybrid-memory init --runtime-role ROLE`)."
            )
        return found

    def pending(self, shipped: Sequence[Migration]) -> list[Migration]:
        """The migrations still to be applied.

        Raises:
            SchemaMismatch: the schema is somebody else's, newer than this version, or was altered.
        """
        if self.relations and not self.is_ours:
            shown = (
                ", ".join((*self.relations[:_SHOWN], "...")) if self.relations[_SHOWN:] else ", ".join(self.relations)
            )
            raise SchemaMismatch(
                f"{self.where} was not made by hybrid-memory (it holds {shown}) and is left as it is: "
                "set HYBRID_MEMORY_SCHEMA to another name, or rename the old one with "
                f"ALTER SCHEMA {queries.quote(self.schema)} RENAME TO old_{self.schema};"
            )
        return migrations.pending(shipped, self.applied, self.where)

    def check_server(self) -> None:
        """Refuse a server that cannot serve.

        Raises:
            ConfigurationError: Postgres is too old, or pgvector is missing, too old or cannot be installed.
        """
        if self.version_number < OLDEST_POSTGRES * 10_000:
            raise ConfigurationError(
                f"Postgres {self.version} is too old: hybrid-memory needs {OLDEST_POSTGRES} to {NEWEST_POSTGRES}."
            )
        if self.vector_version is None and self.vector_available is None:
            major = self.version_number // 10_000
            raise ConfigurationError(
                f"pgvector is not installed on this server: install its package (Debian: postgresql-{major}-pgvector; "
                f"image: pgvector/pgvector:pg{major}), "
                f"then run in database {self.database!r} as a superuser: CREATE EXTENSION vector;"
            )
        offered = self.vector_version or self.vector_available or ""
        if _version(offered) < _OLDEST_VECTOR:
            raise ConfigurationError(
                f"pgvector {offered} is too old, 0.8.0 or newer is needed: upgrade the server's package, then run in "
                f"database {self.database!r} as a superuser: "
                + ("ALTER EXTENSION vector UPDATE;" if self.vector_version else "CREATE EXTENSION vector;")
            )

    def check_may_create_schema(self) -> None:
        """Refuse a role that cannot make the schema where it is missing.

        Raises:
            ConfigurationError: the text is the line that somebody else has to run.
        """
        if not self.may_create_schema:
            raise ConfigurationError(
                f"Role {self.role!r} may not create a schema: run in database {self.database!r} as its owner: "
                f"CREATE SCHEMA {queries.quote(self.schema)} AUTHORIZATION {queries.quote(self.role)};"
            )


async def inspect(connection: "asyncpg.Connection[asyncpg.Record]", schema: str) -> ServerState:
    """Look at the server and the schema without writing anything."""
    known = queries.load("postgres", schema)
    facts = await connection.fetchrow(known["server.facts"].text)
    state = await connection.fetchrow(known["schema.state"].text, schema)
    if facts is None or state is None:
        raise StorageUnavailable("Postgres gave no answer about itself")
    applied: list[asyncpg.Record] = []
    if state["is_ours"]:
        applied = await connection.fetch(known["schema.applied"].text)
    return ServerState(
        **dict(facts),
        schema=schema,
        schema_present=state["present"],
        schema_owner=state["owner"],
        is_owner=state["is_owner"],
        is_ours=state["is_ours"],
        relations=tuple(state["relations"]),
        applied=tuple(Applied(row["number"], row["name"], row["checksum"]) for row in applied),
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
