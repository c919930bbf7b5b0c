"""What one process writes, the others show soon, whether they hear of it or have to ask; and never half of it."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from hybrid_memory import HybridMemoryManager, UserMemory
from hybrid_memory.errors import StorageRejected, StorageUnavailable
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory import freshness
from hybrid_memory.memory.freshness import COMPARE, Freshness
from hybrid_memory.memory.loading import Loader
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.observability import Events
from hybrid_memory.postgres.continuity import Continuity
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.listener import channel_of
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.invalidation import Invalidation
from tests.support.managers import run_job, settings_for
from tests.support.recording import Recorded
from tests.support.servers import Server, administration, connection_to
from tests.support.waiting import until

Make = Callable[..., HybridMemoryManager]
CHANNEL = channel_of("memory")
# Long enough that nothing is seen because its time has come.
NEVER = {"max_staleness_seconds": 3600, "poll_interval_seconds": 3600}


def texts(memory: UserMemory) -> set[str]:
    return {str(node.text) for node in memory.get_all_nodes()}


async def hears(*managers: HybridMemoryManager) -> None:
    for manager in managers:
        await manager.start()
    await until(lambda: {manager.health().listener for manager in managers} == {"listening"}, "all listen")


async def cut_off(targets: Targets) -> int:
    """End every connection that listens; how many there were."""
    async with administration(targets) as connection:
        return len(
            await connection.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = $1 and pid <> pg_backend_pid() and query ilike 'listen%'",
                targets.runtime.database,
            )
        )


@pytest.fixture
def writing(instance: Make) -> HybridMemoryManager:
    return instance(**NEVER)


@pytest.fixture
def reading(instance: Make, events: Recorded) -> HybridMemoryManager:
    return instance(events=events, **NEVER)


async def test_a_write_whose_caller_has_given_up_is_shown_once_it_is_there(
    writing: HybridMemoryManager, targets: Targets
) -> None:
    await writing.store_persistent_memory("nick", "before")
    memory = await writing.ensure_user_memories("nick")
    async with administration(targets) as connection, connection.transaction():
        await connection.execute("select from memory.user_metadata where user_id = 'nick' for update")
        given_up = asyncio.create_task(writing.store_persistent_memory("nick", "after all"))
        await until(
            lambda: connection.fetchval("select exists (select from pg_locks where not granted)"), "it waits for a lock"
        )
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert texts(memory) == {"before"}
    await until(lambda: texts(memory) == {"before", "after all"}, "what was written is shown")


@pytest.mark.hears
class TestHearing:
    async def test_a_memory_in_the_hands_of_an_agent_shows_what_others_write(
        self, writing: HybridMemoryManager, reading: HybridMemoryManager
    ) -> None:
        await hears(writing, reading)
        await writing.store_persistent_memory("nick", "before")
        memory = await reading.ensure_user_memories("nick")
        entity = await writing.store_entity(
            "nick", entity_id="1", entity_system="crm", entity_type="account", entity_name="GenePoint"
        )
        fact = await writing.store_persistent_memory("nick", "looks after GenePoint", relates_to=[entity])
        await until(lambda: len(memory.get_all_edges()) == 1, "the new memories and their relationship are shown")
        assert {"before", "looks after GenePoint"} < texts(memory)
        await writing.forget("nick", fact)
        await until(lambda: "looks after GenePoint" not in texts(memory), "what was forgotten is gone")
        assert memory.get_all_edges() == []

    async def test_a_user_who_has_left_and_is_still_held_is_brought_up_to_date(
        self, writing: HybridMemoryManager, instance: Make
    ) -> None:
        reading = instance(max_loaded_users=1, **NEVER)
        await hears(writing, reading)
        memory = await reading.ensure_user_memories("nick")
        await reading.ensure_user_memories("eve")
        await writing.store_persistent_memory("nick", "news")
        await until(lambda: texts(memory) == {"news"}, "the news are shown")

    async def test_what_a_cleanup_or_a_replay_does_is_heard_too(
        self, writing: HybridMemoryManager, reading: HybridMemoryManager
    ) -> None:
        await hears(writing, reading)
        await writing.store_persistent_memory("nick", "old")
        memory = await reading.ensure_user_memories("nick")
        await writing.cleanup(0.001, user_id="nick")
        await until(lambda: texts(memory) == set(), "what was cleaned up is gone")

    async def test_own_writes_and_users_nobody_asked_for_cost_no_query(
        self, writing: HybridMemoryManager, reading: HybridMemoryManager, events: Recorded
    ) -> None:
        await hears(writing, reading)
        memory = await reading.ensure_user_memories("nick")
        await run_job(reading, COMPARE)
        events.seen.clear()
        await writing.store_persistent_memory("eve", "not here")
        await reading.store_persistent_memory("nick", "mine")
        await writing.store_persistent_memory("nick", "theirs")
        await until(lambda: texts(memory) == {"mine", "theirs"}, "both are shown")
        asked = [one["query"] for one in events.named("postgres_statement") if one["query"].startswith("users.")]
        assert asked == ["users.news"], "only the write of the other process was a reason to ask"

    async def test_a_notification_says_nothing_about_anybody(
        self, writing: HybridMemoryManager, targets: Targets
    ) -> None:
        heard: list[str] = []
        async with connection_to(targets.direct) as connection:
            await connection.add_listener(CHANNEL, lambda *message: heard.append(message[-1]))
            await hears(writing)
            await writing.store_persistent_memory("nick-the-user", "the secret", tags=["hidden"], node_id="my-name")
            await until(lambda: any(":" in one for one in heard), "it was told")
            await writing.store_many("nick-the-user", [{"content": f"fact {number}"} for number in range(300)])
            await until(lambda: sum(":" in one for one in heard) > 1, "and told again")
        assert not [one for one in heard if any(word in one for word in ("nick", "secret", "hidden", "my-name"))]
        assert max(map(len, heard)) < 100

    async def test_many_users_at_once_fit_into_what_postgres_takes(
        self, writing: HybridMemoryManager, reading: HybridMemoryManager
    ) -> None:
        await hears(writing, reading)
        users = [f"user-{number}" for number in range(400)]
        memories = [await reading.ensure_user_memories(user) for user in users]

        await asyncio.gather(*(writing.store_persistent_memory(user, "news") for user in users))
        await until(lambda: all(texts(memory) == {"news"} for memory in memories), "all are shown")

    async def test_foreign_words_on_the_channel_do_no_harm(
        self, writing: HybridMemoryManager, reading: HybridMemoryManager, targets: Targets
    ) -> None:
        await hears(writing, reading)
        memory = await reading.ensure_user_memories("nick")
        async with connection_to(targets.direct) as connection:
            for words in ("", "x", "test 1", f"{uuid4()} restored", f"{uuid4()} {'0' * 24}:1,;:99", "\N{SNOWMAN} a:b"):
                await connection.execute("select pg_notify($1, $2)", CHANNEL, words)
        await writing.store_persistent_memory("nick", "news")
        await until(lambda: texts(memory) == {"news"}, "the news are shown")

    async def test_news_that_come_at_the_moment_when_all_were_looked_at_are_not_left_lying(
        self, reading: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await reading.start()
        assert reading._parts is not None
        watching, looked_at = reading._parts.freshness, []

        async def at_once(_: Sessions, user_id: str, __: int | None) -> None:
            looked_at.append(user_id)

        monkeypatch.setattr(Sessions, "changed", at_once)
        for number in range(freshness._USERS_AT_ONCE):
            watching._look_at(f"user-{number}", 1)
        # Those who look have just ended, and nobody has been told.
        await asyncio.sleep(0)
        watching._look_at("late", 1)
        await until(lambda: "late" in looked_at, "the last one is looked at", seconds=2)

    async def test_who_cannot_be_read_is_looked_at_more_and_more_seldom_and_bothers_nobody_else(
        self, reading: HybridMemoryManager, events: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await hears(reading)
        await run_job(reading, COMPARE)
        assert reading._parts is not None
        looks: list[float] = []
        readable = asyncio.Event()

        async def changed(_: Sessions, user_id: str, version: int | None) -> None:
            assert (user_id, version) == ("nick", 7)
            looks.append(time.monotonic())
            if not readable.is_set():
                raise StorageRejected("not to be read", sqlstate="22000")

        monkeypatch.setattr(freshness, "_FIRST_PAUSE_SECONDS", 0.05)
        monkeypatch.setattr(Sessions, "changed", changed)
        events.seen.clear()
        await reading._on_home(lambda parts: looked_at(parts.freshness, "nick", 7))
        await until(lambda: len(looks) == 4, "it is tried again and again", seconds=5)
        pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
        assert all(pause > least for pause, least in zip(pauses, (0.04, 0.09, 0.19), strict=True)), pauses
        assert "changes.versions" not in {one["query"] for one in events.named("postgres_statement")}
        readable.set()
        await until(lambda: len(looks) == 5, "it is looked at when it can be read", seconds=5)
        await until(lambda: not reading._parts.freshness._pauses, "and all is well")  # type: ignore[union-attr] # asserted


@pytest.mark.hears
class TestClosing:
    async def test_what_is_not_told_yet_is_told_at_the_end_though_it_failed_before(
        self, database: Database, targets: Targets
    ) -> None:
        continuity = Continuity(same, Events())
        await continuity.check(lambda: standing(database))
        heard: list[str] = []
        async with connection_to(targets.direct) as connection:
            await connection.add_listener(CHANNEL, lambda *message: heard.append(message[-1]))
            access = FailsAtFirst(database)
            telling = Invalidation(access, continuity, CHANNEL, "me")
            telling.changed("nick", 7)
            await until(lambda: access.failed, "it has failed")
            assert heard == []
            began = time.monotonic()
            await telling.close()
            assert time.monotonic() - began < 0.9
            await until(lambda: len(heard) == 1, "it was told")
            assert heard[0].startswith("me ")
            assert heard[0].endswith(":7")


async def looked_at(one: Freshness, user_id: str, version: int) -> None:
    one._look_at(user_id, version)


async def same(epoch: UUID) -> UUID:
    return epoch


async def standing(database: Database) -> "asyncpg.Record":
    (row,) = await database.call("deployment.standing")
    return row


class FailsAtFirst:
    """The database, whose first answer does not come."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.transaction = database.transaction
        self.failed = False

    async def call(self, name: str, /, *, timeout: float | None = None, **values: object) -> list[asyncpg.Record]:
        if not self.failed:
            self.failed = True
            raise StorageUnavailable("no answer")
        return await self._database.call(name, timeout=timeout, **values)


@pytest.mark.hears
class TestOneSnapshot:
    async def test_a_view_never_shows_half_a_batch(
        self, writing: HybridMemoryManager, reading: HybridMemoryManager
    ) -> None:
        """Pairs are written together, with a relationship between them; nobody ever sees one without the other."""
        await hears(writing, reading)
        memory = await reading.ensure_user_memories("nick")
        halves: list[int] = []
        written = asyncio.Event()

        def look() -> None:
            while not written.is_set():
                shown = texts(memory)
                halves.append(sum((f"left {n}" in shown) != (f"right {n}" in shown) for n in range(60)))

        looking = asyncio.create_task(asyncio.to_thread(look))
        for number in range(60):
            left = str(uuid4())
            await writing.store_many(
                "nick",
                [
                    {"content": f"left {number}", "node_id": left},
                    {"content": f"right {number}", "relates_to": [left]},
                ],
            )
        await until(lambda: len(texts(memory)) == 120, "everything is shown")
        written.set()
        await looking
        assert len(halves) > 10
        assert not any(halves)

    @pytest.mark.parametrize("bug", [None, "applies an older delta"])
    async def test_own_writes_and_versions_never_go_back(
        self, instance: Make, monkeypatch: pytest.MonkeyPatch, rng: random.Random, bug: str | None
    ) -> None:
        """Two instances write for one user, and hear late of each other: each sees its own writes from then on."""
        managers = [instance(max_staleness_seconds=0) for _ in range(2)]
        await hears(*managers)
        changes = Loader.changes

        async def late(loader: Loader, *arguments: Any, **keywords: Any) -> Any:
            answer = await changes(loader, *arguments, **keywords)
            await asyncio.sleep(rng.uniform(0, 0.01))
            return answer

        monkeypatch.setattr(Loader, "changes", late)
        if bug is not None:
            monkeypatch.setattr(UserGraph, "_is_known", lambda *_: False)
        agents = [Watched(manager, place) for place, manager in enumerate(managers)]
        found = await asyncio.gather(*(agent.writes(80) for agent in agents), return_exceptions=True)
        failed = [one for one in found if isinstance(one, BaseException)]
        assert all(isinstance(one, AssertionError) for one in failed), failed
        assert bool(failed) == (bug is not None), failed
        assert bug is not None or all(agent.looks > 120 for agent in agents), [agent.looks for agent in agents]


class Watched:
    """An agent that holds a memory while others open it: it writes, and looks all the time."""

    def __init__(self, manager: HybridMemoryManager, place: int) -> None:
        self._manager = manager
        self._place = place
        self._mine: dict[str, int] = {}
        self._version = 0
        self.looks = 0

    async def writes(self, times: int) -> None:
        memory = await self._manager.ensure_user_memories("nick")
        others = [asyncio.create_task(self._open_on(memory)) for _ in range(2)]
        try:
            for number in range(times):
                name = f"{self._place}-{number % 5}"
                await self._manager.store_persistent_memory("nick", {"number": number}, node_id=name, deduplicate=False)
                self._mine[name] = number
                self._look(memory)
        finally:
            for task in others:
                task.cancel()
        for task in others:
            with suppress(asyncio.CancelledError):
                await task

    async def _open_on(self, memory: UserMemory) -> None:
        while True:
            await self._manager.ensure_user_memories("nick")
            self._look(memory)

    def _look(self, memory: UserMemory) -> None:
        shown = {node.external_id: node.content["number"] for node in memory.get_all_nodes()}
        # One that is on its way may be shown before it is acknowledged.
        undone = {name for name, number in self._mine.items() if shown.get(name, -1) < number}
        assert not undone, "an own write is missing, or was undone"
        assert memory.version >= self._version, "time ran backwards"
        self._version = memory.version
        self.looks += 1


class TestNotHearing:
    @pytest.mark.hears
    async def test_without_a_listener_changes_are_asked_for(self, writing: HybridMemoryManager, instance: Make) -> None:
        reading = instance(listen=False, max_staleness_seconds=60, poll_interval_seconds=0.2)
        assert reading.health().listener == "off"
        await hears(writing)
        await reading.start()
        memory = await reading.ensure_user_memories("nick")
        await writing.store_persistent_memory("nick", "news")
        began = time.monotonic()
        await until(lambda: texts(memory) == {"news"}, "the news are shown")
        assert time.monotonic() - began < 1.2
        assert reading.health().listener == "polling"
        assert memory.age is not None
        assert memory.age < 1.2

    @pytest.mark.hears
    async def test_what_was_written_while_nobody_listened_is_found(
        self, writing: HybridMemoryManager, reading: HybridMemoryManager, targets: Targets, events: Recorded
    ) -> None:
        await hears(writing, reading)
        memory = await reading.ensure_user_memories("nick")
        for number in range(5):
            assert await cut_off(targets) == 2
            await writing.store_persistent_memory("nick", f"fact {number}")
            await until(lambda: len(texts(memory)) == number + 1, "it is found", seconds=3)  # noqa: B023 - asked at once
            await hears(writing, reading)
        assert len(events.named("listener_lost")) == 5
        assert len(events.named("listener_connected")) == 6

    @pytest.mark.hears
    @pytest.mark.parametrize("bug", [None, "compares before it listens"])
    async def test_what_is_written_just_before_it_listens_is_not_missed(
        self,
        instance: Make,
        reading: HybridMemoryManager,
        targets: Targets,
        monkeypatch: pytest.MonkeyPatch,
        bug: str | None,
    ) -> None:
        writing = instance(listen=False, **NEVER)
        await hears(reading)
        memory = await reading.ensure_user_memories("nick")
        added, compared = asyncpg.Connection.add_listener, asyncio.Event()

        async def write_and_listen(connection: Any, *arguments: Any) -> None:
            if bug is not None:
                await run_job(reading, COMPARE)
            if not compared.is_set():
                compared.set()
                await writing.store_persistent_memory("nick", "in between")
                await told(writing)
            await added(connection, *arguments)

        monkeypatch.setattr(asyncpg.Connection, "add_listener", write_and_listen)
        if bug is not None:
            assert reading._parts is not None
            monkeypatch.setattr(reading._parts.freshness._listener, "_listening", lambda: None)
        await cut_off(targets)
        await asyncio.wait_for(compared.wait(), 10)
        await hears(reading)
        # The comparison that the listener asks for, and everything it leads to, is over.
        await writing.store_persistent_memory("eve", "later")
        await settled(reading)
        assert ("in between" in texts(memory)) == (bug is None)

    @pytest.mark.hears
    @pytest.mark.parametrize("bug", [None, "drops every notification"])
    async def test_a_lost_notification_costs_no_more_than_the_staleness_that_is_allowed(
        self, writing: HybridMemoryManager, instance: Make, monkeypatch: pytest.MonkeyPatch, bug: str | None
    ) -> None:
        reading = instance(max_staleness_seconds=2, poll_interval_seconds=2)
        await hears(writing, reading)
        memory = await reading.ensure_user_memories("nick")
        if bug is not None:
            monkeypatch.setattr(Invalidation, "received", lambda *_: None)
            assert reading._parts is not None
            monkeypatch.setattr(reading._parts.freshness._listener, "_heard", lambda _: None)
        began = time.monotonic()
        await writing.store_persistent_memory("nick", "news")
        await until(lambda: texts(memory) == {"news"}, "it is shown all the same")
        took = time.monotonic() - began
        assert took < 3
        assert (took < 0.25) == (bug is None), f"{took:.3f} s"

    async def test_a_listener_that_leads_elsewhere_is_found_out(
        self, writing: HybridMemoryManager, server: Server, targets: Targets, events: Recorded
    ) -> None:
        async with server.migrated_database() as elsewhere:
            there = elsewhere.runtime
            settings = settings_for(
                targets,
                poll_interval_seconds=0.2,
                max_staleness_seconds=60,
                postgres_listen_url=f"postgresql://{there.user}@/{there.database}?host={there.hosts[0]}",
                migration_url=f"postgresql://{targets.runtime.user}@/{targets.runtime.database}?host={there.hosts[0]}",
            )
            async with HybridMemoryManager(settings, events=events) as reading:
                memory = await reading.ensure_user_memories("nick")
                await until(lambda: events.named("listener_lost"), "it is found out", seconds=5)
                assert "POSTGRES_LISTEN_URL" in events.named("listener_lost")[-1]["reason"]
                assert reading.health().listener == "polling"
                await writing.store_persistent_memory("nick", "news")
                await until(lambda: texts(memory) == {"news"}, "the news are asked for")


async def told(manager: HybridMemoryManager) -> None:
    """Wait until everything has been told to whoever listens now."""
    parts = manager._parts
    assert parts is not None
    await until(lambda: parts.freshness._invalidation._sending is None, "nothing is to be told any more")


async def settled(manager: HybridMemoryManager) -> None:
    """Wait until nobody is to be looked at."""
    parts = manager._parts
    assert parts is not None
    await until(lambda: parts.background.idle and not parts.freshness._looking, "nobody is to be looked at")
