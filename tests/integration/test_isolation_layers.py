"""Users are kept apart twice: by what the library binds, and by the policies. Each layer is tried without the other."""

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager
from hybrid_memory.errors import ConfigurationError, InvalidInput, UnknownMemory
from hybrid_memory.memory.identity import entity_node_id
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.target import Targets
from hybrid_memory.postgres.users import Users
from hybrid_memory.queries import parse
from tests.support.servers import administration

VICTIM = "nick"
SECRET = "the secret"
LOOK_ALIKES = (
    "Nick", "NICK", "nick ", " nick", "nick\n", "nick\u200b", "n\u0456ck", "ni\u0441k", "n\u0131ck", "ni\u0301ck",
    "\uff4e\uff49\uff43\uff4b",
)  # fmt: skip
ATTACKERS = (
    *LOOK_ALIKES, "%", "_", "*", "n%", "nic_", "../nick", "nick'", "nick''", "' or '1'='1",
    "'; drop table memory.nodes; --",
    '"nick"', "{nick}", "{nick,eve}", "nick,eve", "$1", ":user_id", "\\", "null", "NULL", "eve",
)  # fmt: skip
TABLES = ("nodes", "relationships", "embeddings", "user_metadata", "tombstones", "applied_watermarks")


class Victim:
    """Someone's memory, every id and name in it, and what it was before the attack."""

    def __init__(self, manager: HybridMemoryManager) -> None:
        self.manager = manager

    async def fill(self) -> None:
        store = self.manager.store_persistent_memory
        self.fact = await store(VICTIM, SECRET, node_id="plan", thread_id="t", embedding=[1.0, 2.0])
        self.other = await store(VICTIM, {"more": SECRET}, "tool_output", relates_to=["plan"])
        self.entity = await self.manager.store_entity(
            VICTIM,
            entity_id="1",
            entity_system="crm",
            entity_type="t",
            entity_name=SECRET,
            relations=[("owns", self.fact)],
        )
        self.message = await self.manager.add_message(VICTIM, "t", "user", SECRET, message_id="m1")
        record = {"id": "R1", "name": SECRET, "type": "t", "parent_id": "R0"}
        self.output = (await self.manager.remember_tool_output(VICTIM, "tool", {}, record)).node_id
        self.stub = entity_node_id(VICTIM, "generic", "R0")
        await self.manager.store.aput(self.manager.store_namespace(VICTIM, "notes"), "item", {"text": SECRET})
        self.before = await self.rows()

    @property
    def ids(self) -> tuple[str, ...]:
        return (
            self.fact, self.other, self.entity, self.message, self.output, self.stub, self.fact.upper(), "plan", "m1",
            "crm:1", "1", "R1",
        )  # fmt: skip

    async def rows(self) -> tuple[Any, ...]:
        memory = await self.manager.ensure_user_memories(VICTIM)
        return memory.version, memory.get_all_nodes(), memory.get_all_edges()


async def refused(call: Awaitable[object]) -> None:
    """The id belongs to nobody, as far as the caller is told."""
    with pytest.raises(UnknownMemory) as error:
        await call
    assert SECRET not in str(error.value)


async def attack(manager: HybridMemoryManager, user: str, victim: Victim) -> None:
    """Every public method, with ids and names of the victim."""
    own = await manager.store_persistent_memory(user, "own", node_id="own")
    for target in victim.ids:
        assert await manager.get_node(user, target) is None
        assert await manager.forget(user, target) is False
        await refused(manager.update_memory(user, target, content="taken"))
        await refused(manager.relate(user, own, target, "owns"))
        await refused(manager.relate(user, target, own, "owns"))
        await refused(manager.store_persistent_memory(user, "x", relates_to=[target]))
        await refused(manager.store_many(user, [{"content": "x", "depends_on": [target]}]))
        await refused(
            manager.store_entity(
                user, entity_system="crm", entity_type="t", entity_name="n", relations=[("owns", target)]
            )
        )
        await refused(manager.list_memories(user, after=target))
    note = manager.store_transient_memory(f"thread of {user!r}", "own note", relates_to=victim.ids)
    promoted = await manager.promote(f"thread of {user!r}", note, user)
    assert [node.node_id for node in await manager.list_memories(user, limit=1)] == [promoted]
    assert await manager.get_context(user, "t") == []
    stats = await manager.user_stats(user)
    assert (stats.user_id, stats.node_count, stats.entity_count) == (user, 2, 0)
    assert (await manager.quarantined(user), await manager.requeue(user_id=user)) == ([], 0)
    await manager.cleanup(timedelta(microseconds=1), user_id=user)
    assert (await manager.user_stats(user)).node_count == 0
    await manager.store_persistent_memory(user, "own", node_id="own")
    # The victim's names and ids as the attacker's own: other rows, whatever they are called.
    for target in (*victim.ids[:2], "plan", "m1"):
        await manager.store_persistent_memory(user, "own", node_id=target, thread_id="t")
    await manager.store_many(user, [{"content": "own", "node_id": victim.other}])
    mine = await manager.store_entity(user, entity_id="1", entity_system="crm", entity_type="t", entity_name="own")
    assert mine == entity_node_id(user, "crm", "1") != victim.entity
    record = {"id": "R1", "name": "own", "type": "t", "parent_id": "R0", "owner": {"id": victim.entity, "name": "own"}}
    stored = await manager.remember_tool_output(user, "tool", {}, [record, {"id": "1", "name": "own", "system": "crm"}])
    assert {victim.output, victim.entity, victim.stub}.isdisjoint((stored.node_id, *stored.entity_ids))
    await manager.add_message(user, "t", "user", "own", message_id="m2")
    assert [turn["content"] for turn in await manager.get_context(user, "t")] == ["own"]
    hits = await manager.recall(user, f"{SECRET} plan m1 R1 {victim.fact}", vector=[1.0, 2.0], limit=100)
    assert all(hit.node.user_id == user and SECRET not in repr(hit.node) for hit in hits)
    assert SECRET not in await manager.context_for(user, SECRET, max_tokens=10_000, thread_id="t")
    await attack_store(manager, user)
    sees_nothing(await manager.ensure_user_memories(user), user)
    assert await manager.forget(user, victim.other)


async def attack_store(manager: HybridMemoryManager, user: str) -> None:
    """The store, through the attacker's own namespace."""
    namespace = manager.store_namespace(user, "notes")
    assert namespace != manager.store_namespace(VICTIM, "notes")
    assert await manager.store.aget(namespace, "item") is None
    await manager.store.adelete(namespace, "item")
    for query in (None, SECRET):
        assert await manager.store.asearch(manager.store_namespace(user), query=query, filter={"text": SECRET}) == []
    await manager.store.aput(namespace, "item", {"text": "own"})
    item = await manager.store.aget(namespace, "item")
    assert item is not None
    assert item.value == {"text": "own"}
    assert [one.value for one in await manager.store.asearch(manager.store_namespace(user))] == [{"text": "own"}]
    await manager.store.adelete(namespace, "item")


def sees_nothing(memory: UserMemory, user: str) -> None:
    """Not one row of anybody else, by any way of reading."""
    nodes = memory.get_all_nodes()
    nodes += memory.retrieve_relevant(SECRET) + [node for node, _ in memory.find_important_memories(100)]
    nodes += [node for node, _ in memory.find_bridge_memories(100)]
    nodes += [node for text in (SECRET, "1", "R0", "R1") for node, _ in memory.entities_called(text)]
    assert memory.find_entity(SECRET) is None
    nodes += [node for cluster in memory.find_memory_clusters() for node in cluster]
    nodes += [other for node in memory.get_all_nodes() for other in memory.get_related_nodes(node.node_id)]
    assert nodes
    assert all(node.user_id == user and SECRET not in repr(node) for node in nodes)
    assert all(edge.user_id == user for edge in memory.get_all_edges())
    assert memory.get_statistics()["total_nodes"] == len(memory.get_all_nodes())


COVERED = {
    "store_persistent_memory", "store_many", "store_entity", "relate", "get_node", "update_memory", "forget",
    "add_message", "get_context", "ensure_user_memories", "list_memories", "promote", "store_transient_memory",
    "user_stats", "cleanup", "quarantined", "requeue",
    "remember_tool_output", "recall", "context_for", "store_namespace",
}  # fmt: skip
WITHOUT_A_USER = {
    "start",
    "aclose",
    "flush",
    "blocking",
    "health",
    "transient_memories",
    "refresh_stats",
    "checkpointer",
    "run_blocking",
    "store",
    "upload",
    "download",
}


def test_every_public_method_is_attacked() -> None:
    public = {name for name, _ in inspect.getmembers(HybridMemoryManager) if not name.startswith("_")}
    assert public == COVERED | WITHOUT_A_USER
    attacked = inspect.getsource(attack) + inspect.getsource(attack_store)
    assert [name for name in COVERED if f"manager.{name}(" not in attacked] == []


@pytest.mark.parametrize("policies", ["on", "off"])
async def test_nobody_reaches_another_users_memory(
    manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets, policies: str, rng: random.Random
) -> None:
    victim = Victim(manager)
    if policies == "off":
        await without_policies(targets)
    await victim.fill()
    users = rng.sample(ATTACKERS, len(ATTACKERS) if policies == "off" else 8)
    for first in range(0, len(users), 8):
        together = users[first : first + 8]
        await asyncio.gather(*(attack(rng.choice([manager, other]), user, victim) for user in together))
        assert await victim.rows() == victim.before
    async with administration(targets) as outside:
        (state,) = await outside.fetch("select * from memory.user_metadata where user_id = $1", VICTIM)
        assert (state["node_count"], state["relationship_count"], state["entity_count"]) == (8, 5, 3)
        assert await outside.fetchval("select count(*) from memory.embeddings") == 1


@pytest.mark.parametrize("user", ["", "store:x", "ni\x00ck", "ni\ud800ck", "n" * 300, None, 7, ["nick"]])
async def test_what_cannot_be_a_user_is_refused(manager: HybridMemoryManager, user: Any) -> None:
    calls: Mapping[str, Callable[[], Awaitable[object]]] = {
        "store": lambda: manager.store_persistent_memory(user, "x"),
        "many": lambda: manager.store_many(user, [{"content": "x"}]),
        "none": lambda: manager.store_many(user, []),
        "entity": lambda: manager.store_entity(user, entity_system="s", entity_type="t", entity_name="n"),
        "output": lambda: manager.remember_tool_output(user, "tool", {}, {}),
        "relate": lambda: manager.relate(user, "a", "b", "owns"),
        "get": lambda: manager.get_node(user, "plan"),
        "update": lambda: manager.update_memory(user, "plan", content="x"),
        "forget": lambda: manager.forget(user, "plan"),
        "message": lambda: manager.add_message(user, "t", "user", "x"),
        "context": lambda: manager.get_context(user, "t"),
        "ensure": lambda: manager.ensure_user_memories(user),
        "stats": lambda: manager.user_stats(user),
        **({} if user is None else {"cleanup": lambda: manager.cleanup(1, user_id=user)}),
    }
    for call in calls.values():
        with pytest.raises(InvalidInput, match="user_id"):
            await call()


FORGETFUL = (
    "\n".join(
        f"""
-- name: {table}
-- Forgets whose rows it wants.
select * from memory.{table};

-- name: empty_{table}
-- Forgets whose rows it deletes.
delete from memory.{table};
"""
        for table in TABLES
    )
    + """
-- name: take
-- Writes a row of somebody else.
insert into memory.nodes (user_id, content) values ('nick', '{}');
"""
)


async def test_a_query_that_forgets_its_user_meets_the_policies(manager: HybridMemoryManager, targets: Targets) -> None:
    await manager.start()
    victim = Victim(manager)
    await victim.fill()
    assert manager._parts is not None
    assert isinstance(manager._parts.link, Link)
    database = manager._parts.link._database
    assert database is not None
    database._queries = {**database._queries, **parse("forgetful", FORGETFUL, "postgres")}
    async with database.transaction([VICTIM]) as transaction:
        for table in set(TABLES) - {"tombstones"}:
            assert await transaction.fetch(f"forgetful.{table}"), table
    for bound in ([], ["eve"], *([user] for user in LOOK_ALIKES)):
        async with database.transaction(bound) as transaction:
            for table in TABLES:
                assert await transaction.fetch(f"forgetful.{table}") == []
                assert await transaction.execute(f"forgetful.empty_{table}") == 0
            # The repositories, asked for the victim in a transaction of somebody else.
            assert await Nodes(transaction, VICTIM).changed_since() == []
            assert await Users(transaction, VICTIM).state() is None
    with pytest.raises(ConfigurationError):
        async with database.transaction(["eve"]) as transaction:
            await transaction.execute("forgetful.take")
    assert await victim.rows() == victim.before
    # Without the policies the same query sees everything: it was they that held.
    await without_policies(targets)
    async with database.transaction(["eve"]) as transaction:
        stubs = 1
        assert len(await transaction.fetch("forgetful.nodes")) == len(victim.before[1]) + stubs


async def without_policies(targets: Targets) -> None:
    async with administration(targets) as outside:
        for table in TABLES:
            await outside.execute(f"alter table memory.{table} disable row level security")
