"""The command, as a user runs it: in a process of its own."""

import asyncio
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from langgraph.store.postgres import AsyncPostgresStore
from typer.main import get_command

from hybrid_memory import HybridCheckpointer, migrations
from hybrid_memory.cli import app, demo, status
from hybrid_memory.postgres.target import Target, Targets
from hybrid_memory.settings import Settings
from tests.support.checkpoints import Thread
from tests.support.commands import run, run_with
from tests.support.managers import environment_of, settings_for
from tests.support.servers import Server, administration, connection_to

SHIPPED = len(migrations.load("postgres"))
COMMAND = Path(sys.executable).with_name("hybrid-memory")


def url(target: Target, password: str = "") -> str:
    return f"postgresql://{target.user}:{password}@/{target.database}?host={quote(target.hosts[0])}"


@pytest.fixture
async def langgraph_store(server: Server) -> AsyncIterator[str]:
    """Another database, with a store of LangGraph in it."""
    async with server.empty_database() as targets:
        place = url(targets.administration)
        async with AsyncPostgresStore.from_conn_string(place) as store:
            await store.setup()
            await store.aput(("memories", "nick"), "tea", {"text": "prefers tea"})
            await store.aput(("memories", "store:x"), "tea", {"text": "of nobody"})
        yield place


@pytest.fixture
async def empty(server: Server) -> AsyncIterator[Targets]:
    async with server.empty_database() as targets:
        yield targets


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory that Postgres' account may reach: pytest's own are closed anew by every other run."""
    with tempfile.TemporaryDirectory(prefix="hm-") as name:
        monkeypatch.chdir(name)
        yield Path(name)
        run("stop")


# Twelve processes, of which each loads all of LangGraph: not quick on a busy machine.
@pytest.mark.timeout(300)
def test_the_demo_keeps_and_finds_what_it_kept(place: Path, tmp_path: Path) -> None:
    elsewhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "HYBRID_MEMORY_DATA_DIR": str(tmp_path / "mine")}
    said = run_with(elsewhere, "--log-json", "demo", "--keep", "kept")
    assert said.splitlines()[0].startswith("A demo with an embedded Postgres server of its own")
    told = "\n".join(line for line in said.splitlines() if not line.startswith("{"))
    for part in (
        "(SIGKILL) after the first of three steps",
        "what is left of the plan: write down who looks after GenePoint; tell the user",
        "agent: Sarah Lee looks after GenePoint.\nok  recalled from the memory graph",
        "memories, from the copy on this machine",
        "operations wait in the outbox of state.db",
        "each fact is in Postgres once, the one from the outage too",
        "Postgres, schema memory: 16 memories",
        "eve, another user, has an empty memory",
        "nothing is running any more",
    ):
        assert part in told
    events = [json.loads(line)["event"] for line in said.splitlines() if line.startswith("{")]
    assert events[0] == "embedded_server_started"
    assert events[-1] == "embedded_server_stopped"
    assert list(tmp_path.iterdir()) == []
    assert "nick has 16 memories" in run("demo", "--keep", "kept")
    found = run("psql", "-c", "select user_id, summary from memory.nodes", HYBRID_MEMORY_DATA_DIR=str(place / "kept"))
    assert "nick    | GenePoint (account in salesforce)" in found


def test_without_a_place_to_keep_it_the_demo_leaves_nothing() -> None:
    with demo._place(None) as directory:
        (directory / "postgres").mkdir()
        assert directory.is_absolute()
    assert not directory.exists()


def test_the_demo_does_not_move_in_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    assert "holds other files" in run("demo", "--keep", str(tmp_path), code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_embedded_server_from_nothing(place: Path) -> None:
    assert "not created" in run("status")
    assert "it is not running" in run("init", "--check")
    assert list(place.iterdir()) == [], "neither wrote anything"
    said = run("init")
    assert str(place / ".hybrid_memory" / "postgres") in said
    assert "applied migration 0001" in said
    assert "nothing is pending" in run("init")
    assert json.loads(run("status", "--json"))["postgres"]["state"] == "stopped"
    assert "postgres" in run("psql", "-A", "-t", "-c", "select current_user")


@pytest.mark.usefixtures("place")
def test_psql_hands_on_its_options_and_its_exit_code() -> None:
    run("init")
    assert run("psql", "-A", "-t", "-c", "select 40 + 2").strip() == "42"
    assert run("psql", "-Atq", "-c", "set my.answer = 42", "-c", "select current_setting('my.answer')").strip() == "42"
    assert "syntax error" in run("psql", "-v", "ON_ERROR_STOP=1", "-c", "nonsense", code=1)


async def test_a_configured_server(empty: Targets) -> None:
    environment = {"DATABASE_URL": url(empty.migration, "s3cret")}
    assert f"{SHIPPED} pending" in run_with(environment, "init", "--check")
    async with connection_to(empty.administration) as connection:
        assert await connection.fetchval("select to_regnamespace('memory')") is None, "--check wrote nothing"
    assert "run `hybrid-memory init`" in run_with(environment, "status")
    said = run_with(environment, "init", "--runtime-role", "hybrid_memory")
    assert "role 'hybrid_memory' was given what the library needs" in said
    assert "role 'hybrid_memory' has what the library needs" in run_with(
        environment, "init", "--runtime-role", "hybrid_memory"
    )
    running = {"DATABASE_URL": url(empty.runtime)}
    report = json.loads(run_with(running, "status", "--json"))["postgres"]
    assert (report["state"], report["role"], report["row_security"]) == ("up", "hybrid_memory", "in force")
    assert report["migrations"] == SHIPPED
    assert report["pending"] == []
    assert "nodes" in {relation["relation"] for relation in report["relations"]}
    assert report["totals"] == {"users": 0, "memories": 0, "relationships": 0, "entities": 0}
    assert "not counted yet" in run_with(running, "status")
    async with connection_to(empty.administration) as connection:
        await connection.execute("insert into memory.nodes (user_id, content) values ('nick', '{}'), ('eve', '{}')")
        await connection.execute("select memory.refresh_stats()")
    assert "2 users, 2 memories, 0 relationships, 0 entities (counted" in run_with(running, "status")
    assert "s3cret" not in said + run_with(environment, "status") + run_with(environment, "status", "--json")


async def test_the_owner_migrates_and_the_running_role_is_given_its_rights(empty: Targets) -> None:
    environment = {"DATABASE_URL": url(empty.runtime), "HYBRID_MEMORY_MIGRATION_URL": url(empty.migration)}
    run_with(environment, "init")
    async with connection_to(empty.runtime) as connection:
        assert await connection.fetchval("select count(*) from memory.nodes") == 0


async def test_recreate_names_what_it_drops_and_wants_a_yes(targets: Targets) -> None:
    environment = {"DATABASE_URL": url(targets.migration)}
    async with administration(targets) as connection:
        await connection.execute(
            "insert into memory.nodes (user_id, content) select 'nick', '{}' from generate_series(1, 3)"
        )
    assert "3 nodes" in run_with(environment, "init", "--recreate", code=1)
    async with administration(targets) as connection:
        assert await connection.fetchval("select count(*) from memory.nodes") == 3
        run_with(environment, "init", "--recreate", "--yes")
        assert await connection.fetchval("select count(*) from memory.nodes") == 0


async def test_recreate_does_not_drop_what_is_not_ours(empty: Targets) -> None:
    async with connection_to(empty.migration) as connection:
        await connection.execute("create schema memory; create table memory.nodes (node_id uuid)")
        said = run("init", "--recreate", "--yes", code=1, DATABASE_URL=url(empty.migration))
        assert "was not made by hybrid-memory" in said
        assert "HYBRID_MEMORY_SCHEMA" in said
        assert await connection.fetchval("select count(*) from memory.nodes") == 0


async def test_a_database_is_made_on_request(server: Server, empty: Targets) -> None:
    name = 'new "one"'
    target = empty.administration.to_database(quote(name))
    assert "--create-database" in run("init", code=1, DATABASE_URL=url(target))
    async with administration(server.targets) as connection:
        try:
            assert "created database" in run("init", "--create-database", DATABASE_URL=url(target))
            assert "is there" in run("init", "--create-database", DATABASE_URL=url(target))
        finally:
            await connection.execute('drop database "new ""one""" with (force)')


def test_a_server_that_is_away_is_one_line_and_exit_code_1() -> None:
    away = {"DATABASE_URL": "postgresql://me:s3cret@127.0.0.1:1/db"}
    for command in (["init"], ["init", "--check"], ["status"], ["psql", "-c", "select 1"]):
        said = run_with(away, *command, code=2 if command[0] == "psql" else 1)
        assert "s3cret" not in said
        assert "127.0.0.1" in said
    assert json.loads(run_with(away, "status", "--json", code=1))["postgres"]["state"] == "failing"


def test_bad_settings_are_one_line() -> None:
    assert run("status", code=1, POSTGRES_PORT="many").startswith("error: POSTGRES_PORT: allowed is")
    assert "did you mean HYBRID_MEMORY_DATA_DIR" in run("status", HYBRID_MEMORY_DATADIR="x")


def test_local_only_needs_no_server() -> None:
    assert "no Postgres is needed" in run("init", "--check", MEMORY_TYPE="sqlite")
    assert json.loads(run("status", "--json", MEMORY_TYPE="sqlite"))["postgres"] == {"state": "off"}
    assert "MEMORY_TYPE=sqlite" in run("psql", code=1, MEMORY_TYPE="sqlite")


def test_the_status_of_a_directory_in_which_files_come_and_go(tmp_path: Path) -> None:
    ended = threading.Event()

    def come_and_go(folder: Path) -> None:
        while not ended.is_set():
            for name in ("state.db-wal", "folder.db"):
                (folder / name).mkdir() if name == "folder.db" else (folder / name).touch()
            (folder / "folder.db").rmdir()
            (folder / "state.db-wal").unlink()

    (tmp_path / "postgres").mkdir()
    (tmp_path / "state.db").write_text("12345")
    with ThreadPoolExecutor(2) as others:
        others.map(come_and_go, (tmp_path, tmp_path / "postgres"))
        try:
            found = [status._local(Settings.without_environment(data_dir=tmp_path)) for _ in range(300)]
        finally:
            ended.set()
    assert {(one["files"].pop("state.db"), one["postgres_bytes"]) for one in found} == {(5, 0)}
    assert {name for one in found for name in one["files"]} <= {"state.db-wal"}


def test_threads_are_shown(tmp_path: Path) -> None:
    assert "no state.db" in run("threads", HYBRID_MEMORY_DATA_DIR=str(tmp_path))
    with HybridCheckpointer(tmp_path, settings=Settings.without_environment()) as checkpointer:
        for name in ("first", "second", "[bold]third[/bold]"):
            Thread(checkpointer, name).put({"document": "d" * 5000})
    shown = run("threads", "--limit", "2", HYBRID_MEMORY_DATA_DIR=str(tmp_path))
    assert [line.split()[0] for line in shown.splitlines()] == ["thread", "[bold]third[/bold]", "second", "3"]
    assert "5.3 kB" in shown
    lines = run("threads", "--json", HYBRID_MEMORY_DATA_DIR=str(tmp_path)).splitlines()
    assert [json.loads(line)["thread_id"] for line in lines] == ["[bold]third[/bold]", "second", "first"]
    assert {(json.loads(line)["step"], json.loads(line)["checkpoints"]) for line in lines} == {(0, 1)}


def test_the_schema_is_printed_for_the_configured_name() -> None:
    assert "create table memory.nodes" in run("schema")
    assert 'create table "agents".nodes' in run("schema", HYBRID_MEMORY_SCHEMA="agents")


def test_every_command_and_option_explains_itself() -> None:
    installed = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: hybrid-memory" in installed.stdout
    commands = dict(commands_of(get_command(app)))
    assert {"demo", "outbox", "outbox list"} <= commands.keys()
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def commands_of(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All commands, those of groups included, by what one types."""
    for name, command in vars(group).get("commands", {}).items():
        yield f"{path}{name}", command
        yield from commands_of(command, f"{path}{name} ")


async def test_items_of_langgraphs_store_are_imported(targets: Targets, langgraph_store: str, place: Path) -> None:
    settings = environment_of(settings_for(targets, data_dir=place))
    said = await asyncio.to_thread(run_with, settings, "import", "langgraph-store", langgraph_store)
    assert "2 item(s) looked at: 1 are new here" in said
    assert "store:x" in said
    assert "1 are new" not in await asyncio.to_thread(run_with, settings, "import", "langgraph-store", langgraph_store)
    wrong = await asyncio.to_thread(
        partial(run_with, settings, "import", "langgraph-store", url(targets.administration), code=1)
    )
    assert "no table `store`" in wrong
