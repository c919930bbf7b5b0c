"""`hybrid-memory outbox`: what waits, and what a person can do about what does not go on."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from hybrid_memory.cli import app
from hybrid_memory.errors import ConfigurationError, InvalidInput
from hybrid_memory.memory.identity import new_id
from hybrid_memory.postgres.batches import Operation
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.queue import queued
from hybrid_memory.sqlite.outbox import Outbox
from tests.support.commands import run as run_in_a_process
from tests.support.managers import environment_of, settings_for
from tests.support.outboxes import NOW, RUN, drained, numbers, operation, outbox_in
from tests.support.rows import fact_row

T = TypeVar("T")

STAMP = {"written_at": "2026-05-01T00:00:00+00:00", "written_by": "0198c0de-0000-7000-8000-000000000001"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "data"
    monkeypatch.setenv("HYBRID_MEMORY_DATA_DIR", str(directory))
    return directory


@pytest.fixture
def filled(place: Path) -> Path:
    """Three operations of nick wait, one is refused; one of eve is refused."""

    async def fill(outbox: Outbox) -> None:
        await outbox.put([operation("nick", n) for n in (1, 2, 3, 4)] + [operation("eve", 1)])
        await outbox.quarantine("nick", RUN, 2, "22021: invalid byte sequence", NOW)
        await outbox.quarantine("eve", RUN, 1, "54000: too large", NOW)

    in_outbox(place, fill)
    return place


def in_outbox(directory: Path, work: Callable[[Outbox], Awaitable[T]]) -> T:
    async def opened() -> T:
        async with outbox_in(directory) as (_, outbox):
            return await work(outbox)

    return asyncio.run(opened())


def run(*arguments: str, code: int = 0) -> str:
    """In this process, which saves the start of one; errors of ours are raised."""
    done = CliRunner().invoke(app, ["outbox", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def listed(*options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("list", "--json", *options))
    return found


def test_nothing_is_made_to_say_that_nothing_waits(place: Path) -> None:
    assert run("list").strip() == "0 waiting for Postgres; 0 in quarantine"
    assert not place.exists()


@pytest.mark.usefixtures("filled")
def test_the_list_says_what_waits_and_why_but_not_what_it_says() -> None:
    said = run("list")
    assert "3 waiting for Postgres, the oldest for" in said
    assert "2 in quarantine" in said
    assert "22021: invalid byte sequence" in said
    report = listed()
    assert report["users"] == [{"user_id": "nick", "waiting": 3, "oldest": NOW.isoformat()}]
    assert [(one["id"], one["user_id"]) for one in report["quarantine"]] == [(2, "nick"), (5, "eve")]
    assert "value-" not in said + str(report)
    assert "value-00000002" in run("list", "--show-content")
    assert len(listed("--limit", "1")["quarantine"]) == 1


@pytest.mark.parametrize(
    ("which", "left"),
    [(["2"], ["eve"]), (["2", "5"], []), (["--user", "eve"], ["nick"]), (["--all"], [])],
    ids=["an id", "ids", "a user", "all"],
)
def test_requeued_operations_are_sent_after_those_that_wait(filled: Path, which: list[str], left: list[str]) -> None:
    assert f"{2 - len(left)} operation(s) will be sent again" in run("requeue", *which)

    async def look(outbox: Outbox) -> None:
        assert [one.user_id for one in await outbox.quarantined()] == left
        queue = await outbox.of_user("nick")
        assert [one.row["content"]["text"][-1] for one in queue] == ["1", "3", "4", "2"][: 3 + ("nick" not in left)]
        assert len({one.instance_id for one in queue}) == 1 + ("nick" not in left)
        assert sum(map(len, await drained(outbox))) == 5 - len(left)

    in_outbox(filled, look)


@pytest.mark.usefixtures("filled")
def test_what_cannot_be_requeued_is_said() -> None:
    said = run("requeue", "2", "77")
    assert "1 operation(s) will be sent again" in said
    assert "1 stay in quarantine" in said
    assert "give ids, or --user, or --all" in run("requeue", code=2)
    assert "give ids, or --user, or --all" in run("requeue", "2", "--all", code=2)


def test_an_export_moves_to_another_machine(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "export.jsonl"
    assert "5 operation(s) written" in run("export", str(file))
    with pytest.raises(ConfigurationError, match="is there already"):
        run("export", str(file))
    assert len(file.read_text().splitlines()) == 5
    monkeypatch.setenv("HYBRID_MEMORY_DATA_DIR", str(tmp_path / "other"))
    assert "5 operation(s) taken in; 5 are kept now" in run("import", str(file))
    assert "0 operation(s) taken in; 5 are kept now" in run("import", str(file))

    async def everything(outbox: Outbox) -> object:
        return [one async for one in outbox.everything()], numbers(await outbox.of_user("nick"))

    assert in_outbox(tmp_path / "other", everything) == in_outbox(filled, everything)
    file.write_text("nonsense\n")
    with pytest.raises(InvalidInput, match=r"export\.jsonl, line 1"):
        run("import", str(file))


async def test_it_works_beside_a_process_that_uses_the_outbox(place: Path) -> None:
    async with outbox_in(place) as (_, outbox):
        await outbox.put([operation("nick", 1), operation("nick", 2)])
        await outbox.quarantine("nick", RUN, 1, "poison", NOW)
        assert "1 operation(s) will be sent again" in run_in_a_process("outbox", "requeue", "--all")
        assert [one[0] for operations in await drained(outbox) for one in operations] == ["nick", "nick"]
        assert "0 waiting for Postgres; 0 in quarantine" in run_in_a_process("outbox", "list")


def test_replay_sends_what_waits_and_says_what_does_not(
    place: Path, targets_outside: Targets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fill(outbox: Outbox) -> None:
        await outbox.put(
            [
                queued(
                    "nick", None, RUN, Operation(n, "nodes", fact_row(new_id(), f"fact {n}") | STAMP), datetime.now(UTC)
                )
                for n in (1, 2, 3)
            ]
        )

    in_outbox(place, fill)
    reached = environment_of(settings_for(targets_outside))
    for name, value in reached.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("POSTGRES_HOST", str(place))
    assert "3 operation(s) still wait" in run("replay", "--seconds", "1", code=1)
    monkeypatch.setenv("POSTGRES_HOST", reached["POSTGRES_HOST"])
    assert "everything has arrived" in run("replay")
    assert listed()["waiting"] == 0
