"""Memories with something of everything, and what of them has to be the same wherever they are kept."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hybrid_memory import EntityRef, HybridMemoryManager, MemoryNode, Relationship, Settings
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.postgres.target import Targets
from tests.support.servers import administration

Kept = tuple[dict[str, MemoryNode], dict[tuple[str, str, str], Relationship]]


def local(**keywords: Any) -> Settings:
    """Local only, in the test's own directory."""
    defaults: dict[str, Any] = {"memory_type": "sqlite", "max_staleness_seconds": 0}
    return Settings(**(defaults | keywords))


def kept(memory: UserMemory) -> Kept:
    """All of a memory, without the versions, which each place counts for itself."""
    nodes = {node.node_id: replace(node, version=None) for node in memory.get_all_nodes()}
    edges = {
        (one.from_node_id, one.to_node_id, one.relationship_type): replace(one, version=None)
        for one in memory.get_all_edges()
    }
    return nodes, edges


async def fill(manager: HybridMemoryManager, user: str = "nick") -> dict[str, str]:
    """Store something of everything; ids by what they are."""
    tea = await manager.store_persistent_memory(
        user, "likes tea", tags=["drinks"], metadata={"a": [1, None]}, importance=0.9, embedding=[0.5, 0.25, -1]
    )
    plan = await manager.store_persistent_memory(user, {"steps": [1, 2]}, "completed_action", relates_to=[tea])
    soon = await manager.store_persistent_memory(user, "in Rome", expires_in=timedelta(days=1), node_id="rome")
    gone = await manager.store_persistent_memory(user, "to be forgotten", depends_on=[tea])
    await manager.forget(user, gone)
    for number in range(3):
        await manager.add_message(user, "t1", "user", f"turn {number}", message_id=f"m{number}")
    await manager.add_message(user, "t1", "user", "turn 1, corrected", message_id="m1")
    account = await manager.store_entity(
        user, entity_id="1", entity_system="crm", entity_type="account", entity_name="Gene", data={"a": 1, "b": 2}
    )
    await manager.store_entity(
        user, entity_id="1", entity_system="crm", entity_type="account", entity_name="GenePoint", data={"b": 3},
        relations=[("owned_by", EntityRef("crm", "7"))], aliases=["GP"],
    )  # fmt: skip
    await manager.relate(user, plan, account, "mentions", strength=0.25, metadata={"why": "because"})
    await manager.remember_tool_output(user, "jira", {}, {"id": "9", "name": "Nine", "type": "thing"})
    (await manager.ensure_user_memories(user)).retrieve_relevant("tea")
    for _ in range(2):
        await manager.get_node(user, plan)
    await manager.user_stats(user)
    return {"tea": tea, "plan": plan, "soon": soon, "gone": gone, "account": account}


async def in_postgres(targets: Targets, table: str = "nodes") -> list[Mapping[str, Any]]:
    """All rows of a table."""
    async with administration(targets) as connection:
        return [dict(row) for row in await connection.fetch(f"select * from memory.{table}")]
