"""What is new of users: told of several by one statement, and the same as what is read table by table."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import StorageUnavailable
from hybrid_memory.graph.delta import Delta, edge_key
from hybrid_memory.memory.loading import Loader
from hybrid_memory.observability import Events
from hybrid_memory.postgres import news
from hybrid_memory.postgres.continuity import Continuity
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.news import Newsroom
from hybrid_memory.postgres.target import Targets
from hybrid_memory.postgres.users import versions_of
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.settings import Settings
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.servers import administration
from tests.support.waiting import Deadline

MORE_THAN_AN_ANSWER_HOLDS = 250
TELLS_TOO_MUCH = """
do $$
begin
  execute replace(pg_get_functiondef('memory.news_of'::regproc), 'perform memory.bind_users(array[p_user]);',
    'raise exception using errcode = ''54000'';');
end
$$
"""


def loader_of(database: Database) -> Loader:
    async def keeps_its_epoch(epoch: UUID) -> UUID:
        return epoch

    return Loader(database, HybridClock(), Continuity(keeps_its_epoch, Events()))


async def standing(database: Database, user_id: str = "nick") -> tuple[str | None, int]:
    return (await versions_of(database, [user_id]))[user_id]


def told(delta: Delta | None) -> Any:
    """Everything in a delta, whatever order it came in."""
    assert delta is not None
    nodes = sorted(delta.nodes, key=lambda node: node.node_id)
    edges = sorted(delta.relationships, key=edge_key)
    return delta.incarnation, delta.version, delta.since, nodes, edges, sorted(delta.deleted)


def statements(events: Recorded) -> list[str]:
    names = [one["query"] for one in events.named("postgres_statement")]
    events.seen.clear()
    return names


async def lead_a_life(manager: HybridMemoryManager) -> None:
    """Memories with whatever a memory may have, relationships, an entity and a stub, deletions, one of them undone."""
    ids = await manager.store_many("nick", [{"content": f"fact {number} \N{SNOWMAN}"} for number in range(5)])
    await manager.store_persistent_memory(
        "nick",
        {"deep": [1, 2.5, None, {"\u00e9": 'a "quoted" \\ word'}], "large": 2**60, "small": 1e-300},
        "tool_output",
        tags=["a", "b,c"],
        metadata={"source": {"of": "it"}},
        importance=0.1 + 0.2,
        relates_to=ids[:3],
        thread_id="t",
        expires_in=3600,
        node_id="by name",
    )
    await manager.store_entity(
        "nick", entity_id="1", entity_system="crm", entity_type="t", entity_name="n", relations=[("owns", ids[0])]
    )
    await manager.add_message("nick", "t", "user", "hello")
    await manager.store.aput(manager.store_namespace("nick", "notes"), "item", {"text": "own"})
    await manager.remember_tool_output("nick", "tool", {}, {"id": "R1", "name": "n", "type": "t", "parent_id": "R0"})
    for gone in ("by name", ids[1]):
        assert await manager.forget("nick", gone)
    await manager.store_persistent_memory("nick", "again", node_id="by name")


async def test_it_is_what_the_tables_say_from_every_version_on(
    manager: HybridMemoryManager, database: Database
) -> None:
    await manager.store_persistent_memory("eve", "of somebody else")
    await lead_a_life(manager)
    loader = loader_of(database)
    incarnation, version = await standing(database)
    for since in range(version + 1):
        news = await loader.changes("nick", incarnation, since, counting=False)
        read = await loader.changes("nick", incarnation, since, counting=True)
        assert told(news) == told(read)
    assert len(told(await loader.changes("nick", incarnation, 0, counting=False))[3]) > 10
    for of_another_life in ("00000000-0000-0000-0000-000000000000", None):
        assert await loader.changes("nick", of_another_life, 0, counting=False) is None
    assert told(await loader.changes("nobody", None, 0, counting=False)) == (None, 0, 0, [], [], [])
    assert await loader.changes("nobody", None, 1, counting=False) is None


async def test_users_who_are_asked_about_together_share_a_statement_and_see_their_own(
    manager: HybridMemoryManager, database: Database, events: Recorded
) -> None:
    users = [f"user-{number}" for number in range(12)]
    for user in users[:-1]:
        await manager.store_persistent_memory(user, f"of {user}")
    loader = loader_of(database)
    standings = [await standing(database, user) for user in users]
    statements(events)
    deltas = await asyncio.gather(
        *(
            loader.changes(user, incarnation, 0, counting=False)
            for user, (incarnation, _) in zip(users, standings, strict=True)
        )
    )
    assert statements(events).count("users.news") < 3
    *full, empty = [[node.text for node in delta.nodes] for delta in deltas if delta]
    assert full == [[f"of {user}"] for user in users[:-1]]
    assert empty == []


async def test_what_is_too_much_for_one_answer_is_read_all_the_same(
    manager: HybridMemoryManager, database: Database, events: Recorded
) -> None:
    loader = loader_of(database)
    facts = [{"content": f"fact {number}"} for number in range(MORE_THAN_AN_ANSWER_HOLDS)]
    ids = await manager.store_many("nick", facts)
    incarnation, stored = await standing(database)
    await asyncio.gather(*(manager.forget("nick", gone) for gone in ids[:-1]))
    _, version = await standing(database)
    for since, left in ((0, 1), (stored, 0)):
        statements(events)
        delta = await loader.changes("nick", incarnation, since, counting=False)
        assert {"users.news", "users.deleted_since"} <= set(statements(events))
        assert delta is not None
        assert (delta.version, len(delta.nodes), len(delta.deleted)) == (version, left, len(ids) - 1)


async def test_many_new_memories_are_all_read(manager: HybridMemoryManager, database: Database) -> None:
    loader = loader_of(database)
    facts = [{"content": f"fact {number}"} for number in range(MORE_THAN_AN_ANSWER_HOLDS)]
    await manager.store_many("nick", facts)
    incarnation, _ = await standing(database)
    delta = await loader.changes("nick", incarnation, 0, counting=False)
    assert delta is not None
    assert len(delta.nodes) == len(facts)


async def test_what_cannot_be_told_together_is_read_one_by_one(
    manager: HybridMemoryManager, database: Database, targets: Targets
) -> None:
    users = ("nick", "eve")
    for user in users:
        await manager.store_persistent_memory(user, f"of {user}")
    async with administration(targets) as outside:
        await outside.execute(TELLS_TOO_MUCH)
    loader = loader_of(database)
    standings = [await standing(database, user) for user in users]
    deltas = await asyncio.gather(
        *(loader.changes(user, one[0], 0, counting=False) for user, one in zip(users, standings, strict=True))
    )
    assert [[node.text for node in delta.nodes] for delta in deltas if delta] == [["of nick"], ["of eve"]]


async def test_only_the_users_own_rows_are_told_also_without_the_policies(
    manager: HybridMemoryManager, database: Database, targets: Targets
) -> None:
    await lead_a_life(manager)
    await manager.store_persistent_memory("eve", "mine")
    loader = loader_of(database)
    incarnation, _ = await standing(database, "eve")
    for _ in ("with them", "without"):
        delta = await loader.changes("eve", incarnation, 0, counting=False)
        assert delta is not None
        assert [node.text for node in delta.nodes] == ["mine"]
        assert (list(delta.relationships), list(delta.deleted)) == ([], [])
        async with administration(targets) as outside:
            for table in ("nodes", "relationships", "tombstones", "user_metadata"):
                await outside.execute(f"alter table memory.{table} disable row level security")


async def test_everybody_who_asked_hears_that_postgres_is_away(
    targets: Targets, proxy: FaultProxy, settings: Settings, events: Recorded
) -> None:
    settings = settings.model_copy(update={"command_timeout_seconds": 1})
    database = await Database.open(proxy.targets(targets), settings, events)
    loader = loader_of(database)
    assert await loader.changes("nick", None, 0, counting=False) is not None
    proxy.black_hole()
    asked = [loader.changes(f"user-{number}", None, 0, counting=False) for number in range(40)]
    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
    assert {type(answer) for answer in answers} == {StorageUnavailable}
    await database.close(0)


async def test_who_asks_at_the_moment_of_an_answer_is_answered_too(
    database: Database, manager: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.store_persistent_memory("nick", "prefers tea")
    monkeypatch.setattr(news, "_MOST_CALLS", 1)
    newsroom = Newsroom(database)
    with Deadline(10):
        for _ in range(3):
            told = await newsroom.since("nick", 0)
            assert told is not None
            assert told.state is not None
    await newsroom.close()
