"""TLS modes, and passwords against a server that asks for them."""

import ssl
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from hybrid_memory.errors import ConfigurationError
from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets, resolve
from hybrid_memory.settings import Settings
from tests.support.proxy import FaultProxy
from tests.support.servers import Server, administration
from tests.support.tls import TlsFront, tls_front

pytestmark = pytest.mark.unpooled


@dataclass(frozen=True)
class Certificates:
    """For `localhost`, by an authority of our own; and another authority."""

    context: ssl.SSLContext
    root: Path
    other_root: Path


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "root.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return Certificates(context, tmp_path / "root.pem", tmp_path / "other.pem")


@pytest.fixture
async def front(targets: Targets, certificates: Certificates) -> AsyncIterator[TlsFront]:
    async with tls_front(targets.runtime, certificates.context) as started:
        yield started


def settings_for(port: int, targets: Targets, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "postgres_host": "localhost",
        "postgres_port": port,
        "postgres_db": targets.runtime.database,
        "postgres_user": targets.runtime.user,
        "postgres_pool_min_size": 1,
    }
    return Settings(**(given | more))


async def connects(settings: Settings) -> None:
    targets = resolve(settings)
    assert isinstance(targets, Targets)
    database = await Database.open(targets, settings, Events())
    try:
        assert await database.call("server.ping")
    finally:
        await database.close()


async def test_false_is_not_encrypted(front: TlsFront, targets: Targets) -> None:
    await connects(settings_for(front.port, targets, postgres_ssl="false"))
    assert (front.plain, front.encrypted) == (1, 0)


async def test_false_is_refused_where_encryption_is_required(targets: Targets, certificates: Certificates) -> None:
    async with tls_front(targets.runtime, certificates.context, required=True) as front:
        with pytest.raises(ConfigurationError, match="28000"):
            await connects(settings_for(front.port, targets, postgres_ssl="false"))
        await connects(settings_for(front.port, targets, postgres_ssl="require"))


@pytest.mark.parametrize("mode", ["true", "require"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_require_takes_any_certificate(front: TlsFront, targets: Targets, mode: str, host: str) -> None:
    await connects(settings_for(front.port, targets, postgres_ssl=mode, postgres_host=host))
    assert (front.plain, front.encrypted) == (0, 1)


async def test_verify_full_takes_the_right_certificate(
    front: TlsFront, targets: Targets, certificates: Certificates
) -> None:
    await connects(
        settings_for(front.port, targets, postgres_ssl="verify-full", postgres_ssl_root_cert=certificates.root)
    )
    assert (front.plain, front.encrypted) == (0, 1)


async def test_verify_full_refuses_every_other(front: TlsFront, targets: Targets, certificates: Certificates) -> None:
    full: dict[str, Any] = {"postgres_ssl": "verify-full", "postgres_ssl_root_cert": certificates.root}
    for wrong in (
        full | {"postgres_host": "127.0.0.1"},
        full | {"postgres_ssl_root_cert": certificates.other_root},
        {"postgres_ssl": "verify-full"},
    ):
        with pytest.raises(ConfigurationError, match="POSTGRES_SSL_ROOT_CERT to the authority that signed it"):
            await connects(settings_for(front.port, targets, **wrong))
    assert front.plain == 0


async def test_a_root_certificate_that_cannot_be_read(targets: Targets, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for path in (tmp_path / "missing.pem", broken):
        with pytest.raises(ConfigurationError, match="POSTGRES_SSL_ROOT_CERT"):
            await connects(settings_for(1, targets, postgres_ssl="verify-full", postgres_ssl_root_cert=path))


async def test_a_server_without_tls(proxy: FaultProxy, targets: Targets) -> None:
    with pytest.raises(ConfigurationError, match="does not offer TLS"):
        await connects(settings_for(proxy.port, targets, postgres_ssl="require"))
    await connects(settings_for(proxy.port, targets, postgres_ssl="false"))


async def test_passwords(server: Server, targets: Targets, front: TlsFront) -> None:
    """A role that must give one, which is refused without showing it when it is wrong."""
    right, wrong, role = "right:pass/word", "wrong@pass/word", "with_password"
    hba = server.embedded._data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"local all {role} scram-sha-256\n{before}")
    try:
        async with administration(targets) as outside:
            await outside.execute(f"create role {role} login password '{right}'; select pg_reload_conf()")
            runtime = replace(targets.runtime, user=role)
            for mode in ("false", "require"):
                given = settings_for(front.port, targets, postgres_user=role, postgres_ssl=mode)
                await connects(given.model_copy(update={"postgres_password": SecretStr(right)}))
                with pytest.raises(ConfigurationError, match="refused this role or its password") as caught:
                    await connects(given.model_copy(update={"postgres_password": SecretStr(wrong)}))
                assert wrong not in "".join(traceback.format_exception(caught.value))
                with pytest.raises(ConfigurationError, match="refused this role or its password"):
                    await Database.open(replace(targets, runtime=runtime), given, Events())
            await outside.execute(f"drop role {role}")
    finally:
        hba.write_text(before)
        async with administration(targets) as outside:
            await outside.execute("select pg_reload_conf()")
