"""Processes that write to one state.db are killed: whatever was acknowledged is there, once and whole."""

import asyncio
import json
import os
import random
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hybrid_memory.observability import Events
from hybrid_memory.replication.local_batches import LocalBatches
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.local_rows import LocalRows
from tests.support.children import Child, several
from tests.support.operations import Instance
from tests.support.sqlite_files import integrity, state_in
from tests.support.waiting import until_blocking

USERS = ("ann", "nick")
TASKS = 4
ENTITY = str(uuid4())


class Diary:
    """What was begun and acknowledged; the notes outlive the process."""

    def __init__(self, log: str) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, word: str, name: str) -> None:
        os.write(self._log, (json.dumps({word: name}) + "\n").encode())


async def write_until_killed(_: Events, directory: str, log: str, entity: str, bug: str | None) -> None:
    """Memory, relationship and report of an entity in one batch, each batch once or twice."""
    diary, number = Diary(log), count()
    with Database(STATE, Path(directory), Events()) as database:

        async def work(user: str) -> None:
            instance = Instance()
            batches = LocalBatches(database, instance.instance_id)
            for step in number:
                name, node_id = f"{user} {instance.instance_id} {step}", str(uuid4())
                batch = [
                    instance.node(node_id, name),
                    instance.entity(entity, {name: step}, at=step),
                    instance.edge(node_id, entity, at=step),
                ]
                diary.note("begun", name)
                if bug == "acknowledges early":
                    diary.note("acknowledged", name)
                    await asyncio.sleep(0.005)
                for _ in range(1 + step % 2):
                    await batches.apply({user: batch})
                diary.note("acknowledged", name)

        await asyncio.gather(*(work(user) for user in USERS for _ in range(TASKS)))


def notes(logs: list[Path], word: str) -> Iterator[str]:
    for log in logs:
        # The last line may be half written.
        lines = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        yield from (said[word] for said in map(json.loads, lines) if word in said)


def wait_for_acknowledged(log: Path, wanted: int) -> None:
    until_blocking(lambda: len([*notes([log], "acknowledged")]) >= wanted, "it writes", seconds=30)


def kill_again_and_again(directory: Path, rng: random.Random, kills: int, bug: str | None = None) -> list[Path]:
    """Two processes at a time, each killed at a moment of its own."""
    logs: list[Path] = []

    def start() -> Child:
        logs.append(directory / f"{len(logs)}.log")
        where = {"directory": str(directory / "data"), "log": str(logs[-1]), "entity": ENTITY, "bug": bug}
        return Child(write_until_killed, where)

    for _ in range(kills):
        with several(start, start) as children:
            for child, log in zip(children, logs[-2:], strict=True):
                wait_for_acknowledged(log, rng.randrange(1, 60))
                child.kill()
    return logs


def check(directory: Path, logs: list[Path]) -> int:
    """How many batches were acknowledged."""
    with state_in(directory / "data") as (database, _):
        assert database.read_blocking(integrity) == "ok"
        found: set[str] = set()
        for user in USERS:
            found |= database.read_blocking(partial(whole_batches, user))
    acknowledged = set(notes(logs, "acknowledged"))
    assert not acknowledged - found, "acknowledged and lost"
    assert not found - set(notes(logs, "begun"))
    return len(acknowledged)


def whole_batches(user: str, sql: Statements) -> set[str]:
    """The names of a user's memories, after seeing that each came with its relationship and its report, once."""
    rows = LocalRows(sql, user)
    everything, state = rows.since(), rows.state()
    if state is None:
        return set()
    (entity,) = [one.node for one in everything.nodes if one.node.context_type == "domain_entity"]
    memories: dict[str, Any] = {
        one.node.node_id: one.node.text for one in everything.nodes if one.node.context_type != "domain_entity"
    }
    names = set(memories.values())
    assert {one.relationship.from_node_id for one in everything.relationships} == memories.keys()
    assert set(entity.content["entity_data"]) == names
    assert entity.content["update_count"] == len(memories) == len(names) == state.version
    assert (state.node_count, state.relationship_count) == (len(memories) + 1, len(memories))
    return names


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=[pytest.mark.campaign, pytest.mark.timeout(1200)])])
def test_whatever_was_acknowledged_is_there_once(tmp_path: Path, rng: random.Random, kills: int) -> None:
    logs = kill_again_and_again(tmp_path, rng, kills)
    print(f"{2 * kills} kills, {check(tmp_path, logs)} acknowledged batches, all found whole and once")


def test_acknowledging_early_is_caught(tmp_path: Path, rng: random.Random) -> None:
    logs = kill_again_and_again(tmp_path, rng, 1, bug="acknowledges early")
    with pytest.raises(AssertionError, match="acknowledged and lost"):
        check(tmp_path, logs)
