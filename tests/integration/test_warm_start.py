"""What one process leaves in `cache.db` is what the next begins with; and a load that takes long says how far it is."""

import asyncio
import gc
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import apsw
import pytest

from hybrid_memory import HybridMemoryManager, UserMemory
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.memory.keeping import Keeper, Kept
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.postgres.target import Targets
from hybrid_memory.sqlite import checksum
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.servers import Server, administration
from tests.support.waiting import until

Make = Callable[..., HybridMemoryManager]
NODES = """
insert into memory.nodes (user_id, node_id, content) select $1, md5(i::text)::uuid, '{}' from generate_series(1, $2) i
"""
EDGES = """
insert into memory.relationships (user_id, from_node_id, to_node_id, relationship_type)
select $1, md5(i::text)::uuid, md5((1 + i % $2)::text)::uuid, 'led_to' from generate_series(1, $2) i
"""
CACHE = Path(".hybrid_memory/cache.db")


def asked(events: Recorded) -> list[tuple[str, int | None]]:
    """The statements about users, and how many rows they brought."""
    others = ("users.bind", "deployment.", "changes.")
    own = [one for one in events.named("postgres_statement") if not one["query"].startswith(others)]
    return [(one["query"], one.get("rows")) for one in own]


def sessions_of(manager: HybridMemoryManager) -> Sessions:
    assert manager._parts is not None
    return manager._parts.sessions


def keeper_of(manager: HybridMemoryManager) -> Keeper:
    keeper = sessions_of(manager)._filling._keeper
    assert keeper is not None
    return keeper


async def written(manager: HybridMemoryManager) -> None:
    """Wait until the manager's copies are as its graphs are."""
    await manager._on_home(lambda _: keeper_of(manager).written())


async def kept_of(manager: HybridMemoryManager, user_id: str) -> Kept | None:
    return await manager._on_home(lambda _: keeper_of(manager).copy_of(user_id))


async def remember(manager: HybridMemoryManager) -> list[str]:
    """Some memories and relationships of nick, in a session; closing the manager leaves its copy."""
    await manager.ensure_user_memories("nick")
    ids = await manager.store_many("nick", [{"content": f"fact {number}"} for number in range(20)])
    ids.append(await manager.store_persistent_memory("nick", {"tool": "crm"}, "tool_output", relates_to=ids[:3]))
    ids.append(
        await manager.store_entity(
            "nick", entity_system="crm", entity_type="account", entity_name="GenePoint", relations=[("has", ids[0])]
        )
    )
    return ids


async def healed(proxy: FaultProxy, manager: HybridMemoryManager) -> None:
    """Once its being away was noticed, it is back."""
    await until(lambda: manager.health().postgres == "down", "Postgres is away")
    proxy.heal()
    await until(lambda: manager.health().postgres == "up", "Postgres is found again")


def change_the_file(statement: str, *values: object) -> None:
    """Change the cache from outside, while nobody has it open."""
    connection = apsw.Connection(str(CACHE))
    checksum.register(connection)
    connection.execute(statement, values)
    connection.close()


def same(one: UserMemory, other: UserMemory) -> bool:
    return (one.get_all_nodes(), one.get_all_edges(), one.version) == (
        other.get_all_nodes(),
        other.get_all_edges(),
        other.version,
    )


async def loaded_from_postgres(instance: Make) -> UserMemory:
    """The truth, by a manager that keeps nothing."""
    return await instance(max_cache_bytes=0, data_dir="elsewhere").ensure_user_memories("nick")


class TestTheNextProcess:
    async def test_it_reads_no_rows_that_it_has(self, instance: Make, events: Recorded) -> None:
        first = instance()
        await remember(first)
        await first.aclose()
        memory = await instance(events=events).ensure_user_memories("nick")
        assert asked(events) == [("users.state", None), ("nodes.counts", None)]
        assert (memory.stale, len(memory.get_all_nodes())) == (False, 22)
        (report,) = events.named("user_memories_loaded")
        assert (report["source"], report["nodes"], report["relationships"]) == ("cache", 22, 4)
        assert not events.named("loading_user_memories_from_postgres")
        assert same(memory, await loaded_from_postgres(instance))

    async def test_it_reads_what_others_changed_meanwhile(self, instance: Make, events: Recorded) -> None:
        first, other = instance(), instance(data_dir="another machine")
        ids = await remember(first)
        await first.aclose()
        await other.update_memory("nick", ids[0], content="changed")
        await other.store_persistent_memory("nick", "new", relates_to=[ids[1]])
        assert await other.forget("nick", ids[2])
        memory = await instance(events=events).ensure_user_memories("nick")
        assert asked(events) == [
            ("users.state", None),
            ("nodes.counts", None),
            ("nodes.changed_since", 2),
            ("relationships.changed_since", 1),
            ("users.deleted_since", 1),
        ]
        assert memory.get_node(ids[2]) is None
        assert same(memory, await loaded_from_postgres(instance))

    async def test_one_after_the_other_brings_the_copy_up_to_date(self, instance: Make, events: Recorded) -> None:
        for number in range(4):
            manager = instance(events=events)
            memory = await manager.ensure_user_memories("nick")
            assert [node.text for node in memory.get_all_nodes()] == [f"fact {earlier}" for earlier in range(number)]
            await manager.store_persistent_memory("nick", f"fact {number}")
            await manager.aclose()
        assert [one["source"] for one in events.named("user_memories_loaded")] == ["postgres"] + ["cache"] * 3

    async def test_a_copy_is_written_behind_without_being_closed(self, instance: Make, events: Recorded) -> None:
        first = instance()
        await remember(first)
        await written(first)
        await instance(events=events).ensure_user_memories("nick")
        assert events.named("user_memories_loaded")[0]["source"] == "cache"

    async def test_a_process_that_was_killed_has_left_an_older_copy(self, instance: Make, events: Recorded) -> None:
        first = instance()
        await first.ensure_user_memories("nick")
        await first.store_persistent_memory("nick", "kept")
        await written(first)
        await first.store_persistent_memory("nick", "not kept")
        keeper_of(first)._unwritten.clear()
        await first.aclose()
        memory = await instance(events=events).ensure_user_memories("nick")
        assert {node.text for node in memory.get_all_nodes()} == {"kept", "not kept"}
        assert ("nodes.changed_since", 1) in asked(events)

    async def test_a_deleted_memory_leaves_the_file(self, instance: Make) -> None:
        manager = instance()
        node_id = await manager.store_persistent_memory("nick", "the secret")
        await manager.ensure_user_memories("nick")
        await written(manager)

        async def kept() -> str:
            found = await kept_of(manager, "nick")
            assert found is not None
            return str(found.delta)

        assert "the secret" in await kept()
        await manager.forget("nick", node_id)
        await written(manager)
        assert "the secret" not in await kept()

    async def test_what_postgres_has_not_confirmed_is_not_left_to_others(
        self, manager: HybridMemoryManager, events: Recorded
    ) -> None:
        await manager.ensure_user_memories("nick")
        await manager.store_persistent_memory("nick", "confirmed")
        await written(manager)

        async def queue() -> None:
            graph = sessions_of(manager)._sessions["nick"].graph
            waiting = [replace(node, node_id=str(uuid4()), version=None) for node in graph.everything().nodes]
            now = graph.everything()
            graph.apply(replace(now, nodes=[*now.nodes, *waiting]))
            assert graph.node_count == 2
            keeper_of(manager).note(graph, graph.everything())

        await manager._on_home(lambda _: queue())
        await written(manager)
        kept = await kept_of(manager, "nick")
        assert kept is not None
        assert [node.text for node in kept.delta.nodes] == ["confirmed"]
        assert not events.named("cache_unavailable")

    async def test_what_was_read_is_older_than_what_is_written(self, instance: Make) -> None:
        """The deletion is in the copy, made on a machine whose clock is ahead; nobody reads it again."""
        ahead, slow = instance(), instance()
        await ahead.ensure_user_memories("nick")
        await ahead.store_persistent_memory("nick", "one", node_id="plan")
        ahead._parts.writer.postgres._clock._wall = lambda: time.time() + 30  # type: ignore[union-attr]
        await ahead.forget("nick", "plan")
        await ahead.aclose()
        assert (await slow.ensure_user_memories("nick")).get_all_nodes() == []
        await slow.store_persistent_memory("nick", "two", node_id="plan")
        assert [node.text for node in (await slow.ensure_user_memories("nick")).get_all_nodes()] == ["two"]

    async def test_only_we_may_read_the_file(self, manager: HybridMemoryManager) -> None:
        await remember(manager)
        await written(manager)
        for file in CACHE.parent.glob("cache.db*"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


class TestACopyThatWillNotDo:
    @pytest.mark.parametrize(
        "statement",
        [
            "insert into memory.nodes (user_id, content) values ('nick', '{\"text\": \"by hand\"}')",
            "delete from memory.nodes where user_id = 'nick'",
            "truncate memory.nodes cascade; truncate memory.user_metadata",
            "update memory.nodes set summary = 'by hand'; select memory.touch_user('nick')",
            "update memory.user_metadata set version = version - 1",
        ],
    )
    async def test_what_happened_to_postgres_is_noticed(
        self, instance: Make, targets: Targets, events: Recorded, statement: str
    ) -> None:
        first = instance()
        await remember(first)
        await first.aclose()
        async with administration(targets) as connection:
            await connection.execute(statement)
        memory = await instance(events=events).ensure_user_memories("nick")
        assert events.named("user_cache_invalidated") or events.named("cached_user_dropped")
        assert same(memory, await loaded_from_postgres(instance))
        assert events.named("user_memories_loaded")[0]["source"] == "postgres"

    @pytest.mark.parametrize(
        ("statement", "event"),
        [
            ("delete from cached_buckets where kind = 'nodes'", "cached_user_dropped"),
            ("delete from cached_buckets where kind = 'relationships'", "cached_user_dropped"),
            ("update cached_buckets set body = x'7b7d'", "cache_rebuilt"),
            ("update cached_users set version = version + 1", "cache_rebuilt"),
            ("drop table cached_users", "cache_rebuilt"),
            ("delete from cached_users", None),
        ],
    )
    async def test_what_is_damaged_heals(
        self, instance: Make, events: Recorded, statement: str, event: str | None
    ) -> None:
        first = instance()
        await remember(first)
        await first.aclose()
        change_the_file(statement)
        second = instance(events=events)
        memory = await second.ensure_user_memories("nick")
        assert [one for one in ("cached_user_dropped", "cache_rebuilt") if events.named(one)] == [event] * bool(event)
        assert same(memory, await loaded_from_postgres(instance))
        await second.aclose()
        third = Recorded()
        await instance(events=third).ensure_user_memories("nick")
        assert third.named("user_memories_loaded")[0]["source"] == "cache"

    async def test_a_file_that_is_garbage_or_gone_heals(self, instance: Make, events: Recorded) -> None:
        for damage in (lambda: CACHE.write_bytes(b"garbage" * 1000), CACHE.unlink):
            first = instance()
            await remember(first)
            await first.aclose()
            damage()
            second = instance(events=events)
            assert len((await second.ensure_user_memories("nick")).get_all_nodes()) == 22
            await second.aclose()
        assert len(events.named("cache_rebuilt")) == 2

    async def test_two_databases_on_one_directory_do_not_mix(
        self, server: Server, instance: Make, targets: Targets, events: Recorded
    ) -> None:
        first = instance()
        await remember(first)
        await first.aclose()
        async with administration(targets) as connection:
            (kept,) = await connection.fetch("select incarnation, version from memory.user_metadata")
        async with server.migrated_database() as others:
            async with administration(others) as connection:
                await connection.execute("update memory.deployment set epoch = gen_random_uuid()")
                # Even if everything else agrees.
                await connection.execute("insert into memory.user_metadata (user_id, incarnation, version) "
                                         "values ('nick', $1, $2)", *kept)  # fmt: skip
            async with HybridMemoryManager(settings_for(others), events=events) as stranger:
                assert (await stranger.ensure_user_memories("nick")).get_all_nodes() == []
        assert [one["reason"] for one in events.named("cached_user_dropped")] == ["it is of another database"]
        assert len((await instance().ensure_user_memories("nick")).get_all_nodes()) == 22

    async def test_without_a_cache_everything_works(self, instance: Make, events: Recorded) -> None:
        CACHE.mkdir(parents=True)  # noqa: ASYNC240 - nothing else runs yet
        manager = instance(events=events)
        await remember(manager)
        assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 22
        assert len(events.named("cache_unavailable")) == 1

    async def test_a_cache_that_fails_later_disturbs_nobody(
        self, manager: HybridMemoryManager, events: Recorded, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await manager.start()

        async def fail(*_: object, **__: object) -> None:
            raise StorageUnavailable("the disk is full")

        for name in ("get", "apply", "replace", "make_room"):
            monkeypatch.setattr(keeper_of(manager)._users, name, fail)
        await remember(manager)
        await written(manager)
        await manager.store_persistent_memory("nick", "more")
        await written(manager)
        assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 23
        assert events.named("cache_unavailable") == [{"error": "the disk is full"}], "once, not at every write"

    async def test_nothing_is_kept_when_nothing_is_to_be_kept(self, instance: Make) -> None:
        first = instance()
        await remember(first)
        await first.aclose()
        second = instance(max_cache_bytes=0)
        await remember(second)
        await second.aclose()
        connection = apsw.Connection(str(CACHE))
        assert connection.execute("select count(*) from cached_buckets").fetchall() == [(0,)]
        connection.close()

    async def test_the_least_recently_used_leave(self, instance: Make) -> None:
        manager = instance(max_cache_bytes=10_000)
        for number in range(10):
            await manager.ensure_user_memories(f"user {number}")
            await manager.store_persistent_memory(f"user {number}", "x" * 3000)
            await written(manager)
        keeper_of(manager)._cleared_at = float("-inf")
        await manager.store_persistent_memory("user 9", "y")
        await written(manager)
        there = [await kept_of(manager, f"user {number}") is not None for number in range(10)]
        assert there == [False] * 8 + [True] * 2


class TestWithoutPostgres:
    async def test_the_copy_is_given_stale_and_with_its_age(
        self, instance: Make, targets: Targets, proxy: FaultProxy, events: Recorded
    ) -> None:
        first = instance()
        await remember(first)
        await first.aclose()
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], command_timeout_seconds=1)
        async with HybridMemoryManager(settings, events=events) as manager:
            proxy.black_hole()
            memory = await manager.ensure_user_memories("nick")
            assert (memory.stale, len(memory.get_all_nodes())) == (True, 22)
            assert memory.age is not None
            assert 0 < memory.age < 120
            (warning,) = [fields for fields in events.named("postgres_unavailable") if "user_id" in fields]
            assert warning["user_id"] == "nick"
            assert 0 < warning["age"] <= memory.age
            unknown = await manager.ensure_user_memories("eve")
            assert (unknown.stale, unknown.get_all_nodes()) == (True, [])
            await healed(proxy, manager)
            await manager.ensure_user_memories("nick")
            assert not memory.stale

    async def test_a_server_that_is_away_from_the_start_is_known_by_its_address(
        self, targets: Targets, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], connect_timeout_seconds=0.5)
        async with HybridMemoryManager(settings) as first:
            await remember(first)
        proxy.black_hole()
        async with HybridMemoryManager(settings) as second:
            memory = await second.ensure_user_memories("nick")
            assert (memory.stale, len(memory.get_all_nodes())) == (True, 22)
            assert (await second.ensure_user_memories("eve")).stale
        elsewhere = settings_for(targets, postgres_host=str(tmp_path), connect_timeout_seconds=0.5)
        async with HybridMemoryManager(elsewhere) as stranger:
            memory = await stranger.ensure_user_memories("nick")
            assert (memory.stale, memory.get_all_nodes()) == (True, []), "the copy is of another server"


class TestAMemoryThatIsHeld:
    async def test_it_goes_on_after_others_have_taken_its_place(self, instance: Make) -> None:
        manager, other = instance(max_loaded_users=2, max_staleness_seconds=3600), instance()
        held = await manager.ensure_user_memories("nick")
        for number in range(5):
            await manager.ensure_user_memories(f"user {number}")
        assert "nick" not in sessions_of(manager)._sessions
        await manager.store_persistent_memory("nick", "an own write")
        assert [node.text for node in held.get_all_nodes()] == ["an own write"]
        for number in range(5):
            await manager.ensure_user_memories(f"user {number}")
        await other.store_persistent_memory("nick", "another's")
        again = await manager.ensure_user_memories("nick")
        assert len(held.get_all_nodes()) == 2
        assert held.get_all_nodes() == again.get_all_nodes()

    async def test_what_nobody_holds_is_gone(self, instance: Make) -> None:
        manager = instance(max_loaded_users=2)
        for number in range(6):
            await manager.ensure_user_memories(f"user {number}")
        await written(manager)
        gc.collect()
        sessions = sessions_of(manager)
        assert [len(sessions._sessions), len(sessions._held)] == [2, 0]


class TestLongLoads:
    async def test_progress_is_told_and_shared(self, manager: HybridMemoryManager, targets: Targets) -> None:
        async with administration(targets) as connection:
            await connection.execute(NODES, "nick", 1500)
            await connection.execute(EDGES, "nick", 1500)
            await connection.execute("select memory.touch_user('nick')")
        told: list[list[tuple[int, int | None]]] = [[], []]
        callers = [
            manager.ensure_user_memories("nick", progress=lambda *words, place=place: told[place].append(words))
            for place in range(2)
        ]
        await asyncio.gather(*callers)
        assert told[0] == told[1]
        rows = [one for one, _ in told[0]]
        assert rows == sorted(set(rows))
        assert len(rows) >= 6
        assert (rows[-1], {of for _, of in told[0]}) == (3000, {3000})

    async def test_a_small_memory_and_a_copy_are_told_of_at_once(self, instance: Make) -> None:
        first = instance()
        await remember(first)
        told: list[Any] = []
        await instance(max_cache_bytes=0, data_dir="elsewhere").ensure_user_memories(
            "nick", progress=lambda *words: told.append(words)
        )
        await first.aclose()
        second = instance(max_staleness_seconds=60)
        for _ in range(2):
            await second.ensure_user_memories("nick", progress=lambda *words: told.append(words))
        assert told == [(26, 26), (26, 26)], "and not at all where the memory is here already"

    async def test_rows_that_keep_coming_may_take_longer_than_a_call(self, instance: Make, targets: Targets) -> None:
        async with administration(targets) as connection:
            await connection.execute(NODES, "nick", 8000)
            await connection.execute("select memory.touch_user('nick')")
        manager = instance(command_timeout_seconds=0.5)
        started = time.monotonic()
        memory = await manager.ensure_user_memories("nick", progress=lambda *_: time.sleep(0.02))
        assert time.monotonic() - started > 0.6
        assert len(memory.get_all_nodes()) == 8000

    async def test_rows_that_stop_coming_end_the_load(self, targets: Targets, proxy: FaultProxy) -> None:
        async with administration(targets) as connection:
            await connection.execute(NODES, "nick", 4000)
            await connection.execute("select memory.touch_user('nick')")
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], command_timeout_seconds=1)
        async with HybridMemoryManager(settings) as manager:
            told: list[int] = []

            def stop_halfway(rows: int, _: int | None) -> None:
                told.append(rows)
                if rows >= 2000:
                    proxy.black_hole()

            memory = await manager.ensure_user_memories("nick", progress=stop_halfway)
            assert (memory.stale, memory.get_all_nodes()) == (True, []), "half of it would be mistaken for all"
            assert 2000 <= told[-1] < 4000
            await healed(proxy, manager)
            assert len((await manager.ensure_user_memories("nick")).get_all_nodes()) == 4000

    async def test_other_tasks_have_their_turn(self, manager: HybridMemoryManager, targets: Targets) -> None:
        async with administration(targets) as connection:
            await connection.execute(NODES, "nick", 5000)
            await connection.execute("select memory.touch_user('nick')")
        await manager.start()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        await manager.ensure_user_memories("nick")
        task.cancel()
        assert turns > 40, "two for every portion of 250 rows"
