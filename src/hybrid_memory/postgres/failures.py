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

import asyncpg

from hybrid_memory.errors import ConfigurationError, HybridMemoryError, StorageRejected, StorageUnavailable


class Failure(enum.Enum):
    """The four kinds of failure."""

    TRANSIENT = "transient"
    UNKNOWN_OUTCOME = "unknown outcome"
    PERMANENT = "permanent"
    MISCONFIGURED = "misconfigured"


# The first line that fits decides; what fits none is permanent.
_KINDS = (
    # Cannot connect now, no resources, serialisation, deadlock, lock not available, read-only: nothing happened.
    (("57P03", "53", "40001", "40P01", "55P03", "25006", "08001", "08004"), Failure.TRANSIENT),
    # Connection lost, shutdown, crash or cancel in the middle, completion unknown, Citus' commit on a worker.
    (("08", "57P", "57014", "40003", "XX000"), Failure.UNKNOWN_OUTCOME),
    # Missing objects and rights, refused role, unknown database or schema, lost prepared statements.
    (("42", "28", "3D", "3F", "26"), Failure.MISCONFIGURED),
)
_NEVER_CONNECTED = (ConnectionRefusedError, FileNotFoundError, PermissionError, socket.gaierror)
# A prepared statement that is not there: a pooler gave the session to somebody else.
_LOST_STATEMENT = ("26000", "42P05")


def classify(error: BaseException) -> Failure:
    """The kind of a failure raised by asyncpg, the event loop or the system."""
    sqlstate = getattr(error, "sqlstate", None)
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
    return Failure.UNKNOWN_OUTCOME


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
        (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, UnicodeError, OverflowError),
    )


def _advice(error: BaseException, sqlstate: str | None) -> str:
    if sqlstate in _LOST_STATEMENT:
        return "is a pooler in between? Set HYBRID_MEMORY_POOLER=true and POSTGRES_LISTEN_URL to a direct connection."
    if sqlstate == "42501":
        return "the role lacks a right; run `hybrid-memory init --runtime-role ROLE` as the owner of the schema."
    if sqlstate in ("42P01", "42703", "42883", "3F000"):
        return "the schema is missing or old; run `hybrid-memory init`."
    if sqlstate and sqlstate.startswith("28"):
        return "the server refused this role or its password."
    if sqlstate == "3D000":
        return "the database does not exist; run `hybrid-memory init --create-database`."
    return type(error).__name__
