"""What a failed call to Postgres means, decided in one place, and the error a caller sees.

| kind            | meaning                                                        | what the layers above do      |
|-----------------|----------------------------------------------------------------|-------------------------------|
| TRANSIENT       | nothing was written; the same call can succeed later           | try again, without limit      |
| UNKNOWN_OUTCOME | no answer came; it may have been written                       | send it again (D15 of DESIGN) |
| PERMANENT       | these data will never be taken                                 | split the batch, quarantine   |
| MISCONFIGURED   | schema, rights or settings are wrong; the data are not at fault | pause and alarm               |
"""

import enum
import socket
import ssl

import asyncpg
from asyncpg.exceptions import (
    ClientConfigurationError,
    InternalClientError,
    InvalidCachedStatementError,
    OutdatedSchemaCacheError,
    TargetServerAttributeNotMatched,
)

from hybrid_memory.errors import ConfigurationError, HybridMemoryError, StorageRejected, StorageUnavailable


class Failure(enum.Enum):
    """The four kinds of failure."""

    TRANSIENT = "transient"
    UNKNOWN_OUTCOME = "unknown outcome"
    PERMANENT = "permanent"
    MISCONFIGURED = "misconfigured"


# The first line that fits decides; what fits none is permanent.
_KINDS = (
    # Cannot connect now, no resources, serialisation, deadlock, lock not available, read-only, transaction ended by a
    # server's time limit: nothing happened.
    (
        ("57P03", "53", "40001", "40P01", "55P03", "25006", "25P03", "25P04", "08001", "08004"),
        Failure.TRANSIENT,
    ),
    # Connection lost, shutdown, crash or cancel in the middle, completion unknown, Citus' commit on a worker.
    (("08", "57P", "57014", "40003", "XX000"), Failure.UNKNOWN_OUTCOME),
    # Missing objects and rights, refused role, unknown database or schema, lost prepared statements.
    (("42", "28", "3D", "3F", "26"), Failure.MISCONFIGURED),
)
_NEVER_CONNECTED = (
    ConnectionRefusedError,
    FileNotFoundError,
    PermissionError,
    socket.gaierror,
    TargetServerAttributeNotMatched,
)
# A migration elsewhere changed what this connection had prepared; the driver has forgotten it and will ask again.
_OUTDATED = (InvalidCachedStatementError, OutdatedSchemaCacheError)
_POOLER = "is a pooler in between? Set HYBRID_MEMORY_POOLER=true and POSTGRES_LISTEN_URL to a direct connection."
_ADVICE = (
    # A prepared statement that is not there or there twice: a pooler gave the session to somebody else.
    (("26000", "42P05"), _POOLER),
    (("42501",), "the role lacks a right; run `hybrid-memory init --runtime-role ROLE` as the owner of the schema."),
    (("42P01", "42703", "42883", "3F000"), "the schema is missing or old; run `hybrid-memory init`."),
    (("28",), "the server refused this role or its password."),
    (("3D000",), "the database does not exist; run `hybrid-memory init --create-database`."),
)


def classify(error: BaseException) -> Failure:
    """The kind of a failure raised by asyncpg, the event loop or the system."""
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(error, _OUTDATED):
        return Failure.TRANSIENT
    if _refuses_startup(error):
        return Failure.MISCONFIGURED
    if sqlstate is None:
        return _without_sqlstate(error)
    for beginnings, kind in _KINDS:
        if sqlstate.startswith(beginnings):
            return kind
    return Failure.PERMANENT


def _without_sqlstate(error: BaseException) -> Failure:
    if isinstance(error, _NEVER_CONNECTED):
        return Failure.TRANSIENT
    if isinstance(error, (UnicodeError, OverflowError)):
        return Failure.PERMANENT
    if isinstance(error, (ssl.SSLCertVerificationError, ClientConfigurationError)) or _refuses_tls(error):
        return Failure.MISCONFIGURED
    return Failure.UNKNOWN_OUTCOME


def _refuses_tls(error: BaseException) -> bool:
    # asyncpg has no class of its own for it.
    return type(error) is ConnectionError and "rejected SSL upgrade" in str(error)


def _refuses_startup(error: BaseException) -> bool:
    """PgBouncer takes none of the settings that a direct connection is opened with."""
    return isinstance(error, asyncpg.ProtocolViolationError) and "startup parameter" in str(error)


def translate(error: BaseException, doing: str) -> HybridMemoryError:
    """The error a caller sees. The server's own text may quote rows, so only permanent failures keep its first line."""
    if isinstance(error, HybridMemoryError):
        return error
    kind, sqlstate = classify(error), getattr(error, "sqlstate", None)
    what = sqlstate or type(error).__name__
    if kind is Failure.PERMANENT:
        constraint = getattr(error, "constraint_name", None)
        where = f", constraint {constraint}" if constraint else ""
        return StorageRejected(f"Postgres refused the data of {doing} ({what}{where})", sqlstate=sqlstate)
    if kind is Failure.MISCONFIGURED:
        return ConfigurationError(f"{doing} failed ({what}): {_advice(error, sqlstate)}")
    unknown = kind is Failure.UNKNOWN_OUTCOME
    return StorageUnavailable(
        f"no answer from Postgres to {doing} ({what})"
        if unknown
        else f"Postgres is not available for {doing} ({what})",
        outcome_unknown=unknown,
        sqlstate=sqlstate,
    )


def is_failure(error: BaseException) -> bool:
    """Whether `translate` has something to say; anything else is a bug or a cancellation and goes on as it is."""
    return isinstance(
        error,
        (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            InternalClientError,
            OSError,
            TimeoutError,
            UnicodeError,
            OverflowError,
        ),
    )


def _advice(error: BaseException, sqlstate: str | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "verify_message", "not trusted")
        return (
            f"the server's certificate was refused ({reason}): set POSTGRES_SSL_ROOT_CERT to the "
            "authority that signed it, and connect by the name it was made for."
        )
    if _refuses_tls(error):
        return "the server does not offer TLS; set POSTGRES_SSL=false if the network is trusted."
    if _refuses_startup(error):
        return _POOLER
    if isinstance(error, ClientConfigurationError):
        return str(error)
    found = (text for beginnings, text in _ADVICE if (sqlstate or "").startswith(beginnings))
    return next(found, type(error).__name__)
