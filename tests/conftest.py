"""What every test can ask for: a clean environment, a seed, real servers and fresh databases."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings, variable_of
from tests.support.pgbouncer import pgbouncer
from tests.support.proxy import FaultProxy, proxy_for
from tests.support.recording import Recorded
from tests.support.servers import Server, running_server

VERSIONS = (18, 16)

# A run starts some hundred processes. Where Python is told to keep no bytecode, each would compile all it imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("without_deadline", deadline=None)
hypothesis.settings.load_profile("without_deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of every random test; printed in the header")
    parser.addoption(
        "--behind-pgbouncer",
        choices=["listening", "polling"],
        help="put PgBouncer in transaction mode in front of every database, with or without a direct connection",
    )


def pytest_configure(config: pytest.Config) -> None:
    told: dict[str, int] = getattr(config, "workerinput", {})
    if config.option.seed is None:
        config.option.seed = told.get("seed", random.SystemRandom().randrange(2**32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Every process of a run has the seed that was printed."""
    node.workerinput["seed"] = node.config.option.seed


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Several processes, as most tests wait for a server or a disk; one where somebody reads along, or for one file."""
    files = [one for one in config.args if one.partition("::")[0].endswith(".py")]
    alone = config.option.capture == "no" or files or "not campaign" not in (config.option.markexpr or "")
    return 0 if alone else min(4, (os.cpu_count() or 1) + 1)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.option.seed} (repeat with --seed={config.option.seed})"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that the printed seed repeats, different in every test."""
    return random.Random(f"{request.config.option.seed}:{request.node.nodeid}")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of whoever runs the tests reaches them, and no test writes into the checkout."""
    ours = {variable_of(field) for field in Settings.model_fields}
    for name in list(os.environ):
        if name in ours or name.startswith(("HYBRID_MEMORY_", "POSTGRES_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[int], Server]]:
    """The server of a version, started when it is first asked for."""
    with ExitStack() as running:
        yield cache(lambda version: running.enter_context(running_server(version)))


@pytest.fixture
def server(server_of: Callable[[int], Server]) -> Server:
    """The Postgres of this run, of the version that the library uses."""
    return server_of(18)


@pytest.fixture(params=VERSIONS, ids=[f"postgres{version}" for version in VERSIONS])
def each_server(request: pytest.FixtureRequest, server_of: Callable[[int], Server]) -> Server:
    """One server of each version in turn."""
    return server_of(request.param)


@pytest.fixture
def events() -> Recorded:
    return Recorded()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", command_timeout_seconds=10)


@pytest.fixture
async def targets(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[Targets]:
    """A fresh database with the whole schema."""
    async with server.migrated_database() as fresh:
        with reached_as_asked(server, fresh, request) as reached:
            yield reached


@pytest.fixture
def targets_outside(server: Server, request: pytest.FixtureRequest) -> Iterator[Targets]:
    """A fresh database for tests that run no event loop."""
    with asyncio.Runner() as runner:
        context = server.migrated_database()
        with reached_as_asked(server, runner.run(context.__aenter__()), request) as reached:
            yield reached
        runner.run(context.__aexit__(None, None, None))


@contextmanager
def reached_as_asked(server: Server, fresh: Targets, request: pytest.FixtureRequest) -> Iterator[Targets]:
    """The database behind a pooler, where the run is one of that kind and the test lets it."""
    pooler = request.config.option.behind_pgbouncer
    if pooler is None or request.node.get_closest_marker("unpooled"):
        yield fresh
        return
    if pooler == "polling" and request.node.get_closest_marker("hears"):
        pytest.skip("nothing is heard behind a pooler without a direct connection")
    with pgbouncer(server, fresh, sessions=20) as pooled:
        yield pooled if pooler == "listening" else replace(pooled, direct=pooled.runtime)


@pytest.fixture
async def each_targets(each_server: Server) -> AsyncIterator[Targets]:
    """A fresh database with the whole schema, on each server version in turn."""
    async with each_server.migrated_database() as fresh:
        yield fresh


@pytest.fixture
async def empty_targets(each_server: Server) -> AsyncIterator[Targets]:
    """A fresh database with nothing but the extension, on each server version in turn."""
    async with each_server.empty_database() as fresh:
        yield fresh


@pytest.fixture
async def proxy(targets: Targets) -> AsyncIterator[FaultProxy]:
    """A proxy that fails on command, in front of the fresh database; `proxy.targets(targets)` goes through it."""
    async with proxy_for(targets) as started:
        yield started


@pytest.fixture
async def database(targets: Targets, settings: Settings, events: Recorded) -> AsyncIterator[Database]:
    """The library's pool on a fresh database."""
    opened = await Database.open(targets, settings, events)
    yield opened
    await opened.close()
