"""Which kind each SQLSTATE and each error of the driver is, and what a caller is told."""

import socket
import ssl

import asyncpg
import pytest
from asyncpg import exceptions

from hybrid_memory.errors import ConfigurationError, HybridMemoryError, StorageRejected, StorageUnavailable
from hybrid_memory.postgres.failures import Failure, classify, is_failure, translate

TRANSIENT, UNKNOWN, PERMANENT, MISCONFIGURED = (
    Failure.TRANSIENT,
    Failure.UNKNOWN_OUTCOME,
    Failure.PERMANENT,
    Failure.MISCONFIGURED,
)

BY_SQLSTATE = {
    # Never taken: bad data, violated constraints, limits, and whatever nobody thought of.
    "22000": PERMANENT,
    "22021": PERMANENT,
    "22P02": PERMANENT,
    "22P05": PERMANENT,
    "23502": PERMANENT,
    "23503": PERMANENT,
    "23505": PERMANENT,
    "23514": PERMANENT,
    "54000": PERMANENT,
    "54001": PERMANENT,
    "P0001": PERMANENT,
    "0A000": PERMANENT,
    "21000": PERMANENT,
    # Taken later: nothing was written.
    "08001": TRANSIENT,
    "08004": TRANSIENT,
    "25006": TRANSIENT,
    "25P03": TRANSIENT,
    "40001": TRANSIENT,
    "40P01": TRANSIENT,
    "53000": TRANSIENT,
    "53100": TRANSIENT,
    "53200": TRANSIENT,
    "53300": TRANSIENT,
    "55P03": TRANSIENT,
    "57P03": TRANSIENT,
    # No answer: it may have been written.
    "08000": UNKNOWN,
    "08003": UNKNOWN,
    "08006": UNKNOWN,
    "08007": UNKNOWN,
    "08P01": UNKNOWN,
    "40003": UNKNOWN,
    "57014": UNKNOWN,
    "57P01": UNKNOWN,
    "57P02": UNKNOWN,
    "57P05": UNKNOWN,
    "XX000": UNKNOWN,
    # Schema, rights and settings.
    "26000": MISCONFIGURED,
    "28000": MISCONFIGURED,
    "28P01": MISCONFIGURED,
    "3D000": MISCONFIGURED,
    "3F000": MISCONFIGURED,
    "42501": MISCONFIGURED,
    "42601": MISCONFIGURED,
    "42703": MISCONFIGURED,
    "42883": MISCONFIGURED,
    "42P01": MISCONFIGURED,
    "42P05": MISCONFIGURED,
}

BY_ERROR = [
    (ConnectionRefusedError(), TRANSIENT),
    (FileNotFoundError(), TRANSIENT),
    (socket.gaierror(), TRANSIENT),
    (exceptions.TargetServerAttributeNotMatched("standby"), TRANSIENT),
    (exceptions.InvalidCachedStatementError("cached plan must not change result type"), TRANSIENT),
    (exceptions.OutdatedSchemaCacheError("changed"), TRANSIENT),
    (ConnectionResetError(), UNKNOWN),
    (BrokenPipeError(), UNKNOWN),
    (TimeoutError(), UNKNOWN),
    (asyncpg.InterfaceError("connection is closed"), UNKNOWN),
    (exceptions.ProtocolError("unexpected message"), UNKNOWN),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), PERMANENT),
    (OverflowError("date value out of range"), PERMANENT),
    (ssl.SSLCertVerificationError("self-signed"), MISCONFIGURED),
    (ConnectionError('PostgreSQL server at "x:1" rejected SSL upgrade'), MISCONFIGURED),
    (exceptions.ClientConfigurationError("target_session_attrs is expected to be one of ..."), MISCONFIGURED),
    (asyncpg.ProtocolViolationError("unsupported startup parameter: statement_timeout"), MISCONFIGURED),
]

SHOWN_AS: dict[Failure, type[HybridMemoryError]] = {
    TRANSIENT: StorageUnavailable,
    UNKNOWN: StorageUnavailable,
    PERMANENT: StorageRejected,
    MISCONFIGURED: ConfigurationError,
}


def of_state(sqlstate: str) -> asyncpg.PostgresError:
    return asyncpg.PostgresError.new({"C": sqlstate, "M": "Key (user_id)=(a secret) is not right", "S": "ERROR"})


@pytest.mark.parametrize(("sqlstate", "kind"), BY_SQLSTATE.items())
def test_by_sqlstate(sqlstate: str, kind: Failure) -> None:
    error = of_state(sqlstate)
    assert classify(error) is kind
    shown = translate(error, "a transaction")
    assert type(shown) is SHOWN_AS[kind]
    assert sqlstate in str(shown)
    assert "secret" not in str(shown), "the server's text may quote rows"
    if isinstance(shown, StorageUnavailable):
        assert shown.outcome_unknown == (kind is UNKNOWN)
        assert shown.sqlstate == sqlstate


@pytest.mark.parametrize(("error", "kind"), BY_ERROR, ids=lambda value: type(value).__name__)
def test_by_error(error: Exception, kind: Failure) -> None:
    assert is_failure(error)
    assert classify(error) is kind
    assert type(translate(error, "a transaction")) is SHOWN_AS[kind]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (of_state("26000"), "HYBRID_MEMORY_POOLER=true"),
        (of_state("42P05"), "HYBRID_MEMORY_POOLER=true"),
        (asyncpg.ProtocolViolationError("unsupported startup parameter: x"), "HYBRID_MEMORY_POOLER=true"),
        (of_state("42501"), "init --runtime-role"),
        (of_state("42P01"), "hybrid-memory init"),
        (of_state("3D000"), "--create-database"),
        (of_state("28P01"), "password"),
        (ssl.SSLCertVerificationError("self-signed"), "POSTGRES_SSL_ROOT_CERT"),
        (ConnectionError("rejected SSL upgrade"), "POSTGRES_SSL=false"),
    ],
)
def test_a_misconfiguration_says_what_to_do(error: Exception, advice: str) -> None:
    assert advice in str(translate(error, "a transaction"))


def test_what_is_not_a_failure_of_storage() -> None:
    for error in (KeyError("x"), asyncpg.exceptions.InternalServerError("x")):
        assert is_failure(error) == isinstance(error, asyncpg.PostgresError)


def test_our_own_errors_stay() -> None:
    error = StorageRejected("as it is")
    assert translate(error, "a transaction") is error
