"""Processes that start together, migrations that are killed, and tables that somebody else holds."""

import asyncio
import random
import time
from collections import Counter
from typing import Any

import pytest

from hybrid_memory import migrations
from hybrid_memory.migrations import Migration
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.target import Targets
from hybrid_memory.settings import Settings
from tests.support.children import Child, together
from tests.support.managers import as_json, reached_by, settings_for, url
from tests.support.recording import Recorded
from tests.support.servers import Server, administration, connection_to
from tests.support.waiting import until

SHIPPED = migrations.load("postgres")
NUMBERS = [migration.number for migration in SHIPPED]
NEXT = len(SHIPPED) + 1


def place(targets: Targets) -> dict[str, Any]:
    """The database, as arguments of a child."""
    return {"settings": as_json(settings_for(targets, migration_url=url(targets.migration)))}


async def start_up(events: Events, settings: dict[str, Any], extra: str | None = None, index: int = 0) -> list[int]:
    """What a process does at its start; the numbers of the migrations that it applied."""
    del index
    applied: list[int] = []
    events.add_hook(lambda event: applied.append(event.fields["number"]) if event.name == "migration_applied" else None)
    shipped = [*SHIPPED, Migration(NEXT, "extra", extra)] if extra else SHIPPED
    await schema.ensure(reached_by(settings), Settings(), events, shipped=shipped)
    return applied


async def recorded(targets: Targets) -> list[int]:
    async with administration(targets) as outside:
        rows = await outside.fetch("select number from memory.schema_migrations order by number")
        await outside.fetch("select * from memory.nodes, memory.user_stats, memory.deployment")
    return [row["number"] for row in rows]


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.campaign)])
async def test_sixteen_processes_start_at_once(server: Server, rounds: int) -> None:
    start = time.monotonic()
    for _ in range(rounds):
        async with server.empty_database() as targets:
            answers = await asyncio.to_thread(together, start_up, 16, **place(targets))
            applied = Counter(number for answer in answers for number in answer)
            assert applied == Counter(NUMBERS), "each migration is applied by one process, once"
            assert await recorded(targets) == NUMBERS
    print(
        f"{rounds} rounds of 16 processes: applied once, no error, {(time.monotonic() - start) / rounds:.2f} s a round"
    )


async def killed_in(number: int, server: Server, settings: Settings, rng: random.Random) -> None:
    """Before its first statement or, let go on, somewhere in it."""
    async with server.empty_database() as targets:
        with Child(start_up, place(targets), stop_at="migration_started", fields={"number": number}) as child:
            await asyncio.to_thread(child.reached)
            if rng.random() < 0.7:
                child.go_on()
                await asyncio.sleep(rng.uniform(0, 0.03))
            child.kill()
        events = Recorded()
        await schema.ensure(targets, settings, events)
        assert await recorded(targets) == NUMBERS
        again = [event["number"] for event in events.named("migration_applied")]
        assert again == NUMBERS[len(NUMBERS) - len(again) :]


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.campaign)])
async def test_killed_in_each_migration(server: Server, settings: Settings, rng: random.Random, rounds: int) -> None:
    for _ in range(rounds):
        await asyncio.gather(*(killed_in(number, server, settings, rng) for number in NUMBERS))
    print(f"{rounds * len(NUMBERS)} kills in migrations: every next start completed them")


async def waits(targets: Targets, beginning: str) -> bool:
    """Whether a statement that begins so is running or waiting now."""
    async with administration(targets) as outside:
        found = await outside.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' "
            "and application_name = 'hybrid-memory' and query ilike '%' || $1 || '%'",
            beginning,
        )
    return bool(found)


async def test_killed_inside_the_statements_of_a_migration(targets: Targets, settings: Settings) -> None:
    """The server is in the middle of the text when its client dies; nothing of it stays."""
    extra = "create table memory.half (a int);\nselect pg_sleep(600);\n"
    with Child(start_up, {**place(targets), "extra": extra}) as child:
        await until(lambda: waits(targets, "pg_sleep(600)"), "the migration is in its middle")
        child.kill()
    await schema.ensure(
        targets, settings, Events(), shipped=[*SHIPPED, Migration(NEXT, "extra", "create table memory.half (a int);")]
    )
    assert await recorded(targets) == [*NUMBERS, NEXT]


async def test_killed_between_the_statements_of_one_without_a_transaction(targets: Targets, settings: Settings) -> None:
    extra = (
        "-- transactional: no\n"
        "drop index concurrently if exists memory.nodes_by_confidence;\n"
        "create index concurrently nodes_by_confidence on memory.nodes (user_id, confidence);\n"
    )
    valid = "select indisvalid from pg_index where indexrelid = to_regclass('memory.nodes_by_confidence')"
    async with administration(targets) as outside:
        busy = outside.transaction()
        await busy.start()
        await outside.execute("update memory.nodes set confidence = 1")
        with Child(start_up, {**place(targets), "extra": extra}) as child:
            await until(lambda: waits(targets, "create index concurrently"), "the index waits for the open transaction")
            child.kill()

        async def gone() -> bool:
            return not await waits(targets, "create index concurrently")

        await until(gone, "the server noticed that its client is gone")
        assert await outside.fetchval(valid) is False, "the killed process left a broken index"
        await busy.rollback()
        shipped = [*SHIPPED, Migration(NEXT, "extra", extra)]
        await schema.ensure(targets, settings, Events(), shipped=shipped)
        assert await outside.fetchval(valid) is True
    assert await recorded(targets) == [*NUMBERS, NEXT]


async def test_a_migration_gives_way_and_tries_again(targets: Targets, settings: Settings) -> None:
    """It does not queue for a table lock for long, because everybody else queues behind it."""
    shipped = [*SHIPPED, Migration(NEXT, "extra", "alter table memory.nodes add column later integer;")]
    async with connection_to(targets.administration) as reader:
        reading = reader.transaction()
        await reading.start()
        await reader.fetch("select from memory.nodes")
        ensuring = asyncio.create_task(schema.ensure(targets, settings, Events(), shipped=shipped))
        await until(lambda: waits(targets, "add column later"), "the migration waits for the table")
        async with connection_to(targets.administration) as other:
            # Behind the migration in the queue for the table, of which the reader does not let go.
            assert await other.fetchval("select count(*) from memory.nodes", timeout=5) == 0
        assert not ensuring.done()
        await reading.rollback()
        await asyncio.wait_for(ensuring, 10)
    assert await recorded(targets) == [*NUMBERS, NEXT]
