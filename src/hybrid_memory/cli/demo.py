"""`demo`: the whole way from nothing to a remembered fact, in a place of its own."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from langchain_core.utils.uuid import uuid7

from hybrid_memory.cli.output import console, done, note
from hybrid_memory.errors import ConfigurationError, HybridMemoryError, StorageRejected
from hybrid_memory.observability import Events
from hybrid_memory.postgres import schema
from hybrid_memory.postgres.batches import Batches, Operation
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.reach import reached
from hybrid_memory.postgres.relationships import Relationships
from hybrid_memory.postgres.users import Users
from hybrid_memory.settings import Settings

_INSTANCE = str(uuid7())
_FACT = {"context_type": "conversation_fact", "content_kind": "text"}
_GENEPOINT = {
    "entity_id": "001GENEPOINT",
    "entity_system": "salesforce",
    "entity_type": "account",
    "entity_name": "GenePoint",
}


def demo(
    keep: Annotated[Path | None, typer.Option(help="Keep everything in this directory, and use it again.")] = None,
) -> None:
    """Start everything from nothing, remember something and find it again. Touches no server or data of yours."""
    with _place(keep) as directory:
        note(
            "A demo with an embedded Postgres server of its own; a configured server or data directory is not touched."
        )
        note(f"Its data live in {directory}{'' if keep else ' and are removed at the end'}.\n")
        settings = Settings.without_environment(data_dir=directory)
        asyncio.run(_demonstrate(settings))
        if keep:
            note(f"\nLook around:  HYBRID_MEMORY_DATA_DIR={keep} hybrid-memory psql -c 'table memory.nodes'")


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="hybrid-memory-demo-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    directory = keep.expanduser().absolute()
    if directory.exists() and any(directory.iterdir()) and not (directory / "postgres").exists():
        raise ConfigurationError(f"{directory} holds other files; give an empty directory or that of an earlier demo")
    yield directory


async def _demonstrate(settings: Settings) -> None:
    events = Events()
    async with AsyncExitStack() as stack:
        with console.status("starting Postgres ..."):
            targets = await stack.enter_async_context(reached(settings, events))
        done("a Postgres server runs, reachable through a socket that only you can open")
        state = await schema.ensure(targets, settings, events)
        done(f"{state.where} on Postgres {state.version} with pgvector {state.vector_version}")
        database = await Database.open(targets, settings, events, vector_schema=state.vector_schema or "public")
        stack.push_async_callback(database.close)
        await _remember(database)
        await _find_again(database)
        with console.status("stopping Postgres ..."):
            await stack.aclose()
    done("stopped the server; nothing is running any more")


async def _remember(database: Database) -> None:
    async with database.transaction(["nick"]) as transaction:
        earlier = await Nodes(transaction, "nick").entity("salesforce", "001GENEPOINT")
    if earlier is not None:
        done(
            f"nick's memory is here from an earlier run ({earlier.created_at:%Y-%m-%d %H:%M}), nothing new was written"
        )
        return
    fact, account = str(uuid7()), str(uuid7())
    batches = Batches(database, str(uuid7()))
    operations = [
        Operation(1, "nodes", _memory(fact, {"text": "Nick looks after the GenePoint account."}) | _FACT),
        Operation(2, "entities", _memory(account, _GENEPOINT)),
        Operation(3, "edges", _relates(fact, account)),
    ]
    await batches.apply({"nick": operations})
    done("nick's agent stored a fact, a Salesforce account and how they relate, in one transaction")
    again = (await batches.apply({"nick": operations}))["nick"]
    if again.numbers:
        raise HybridMemoryError("a repeated batch was applied again")
    done("the same batch, sent again as after a lost answer, changed nothing")


async def _find_again(database: Database) -> None:
    async with database.transaction(["nick"], isolation="repeatable_read") as transaction:
        state = await Users(transaction, "nick").state()
        nodes = await Nodes(transaction, "nick").changed_since()
        edges = await Relationships(transaction, "nick").changed_since()
    if state is None or not nodes or not edges:
        raise HybridMemoryError("what was stored is not there")
    done(f"read back at version {state.version}: {len(nodes)} memories, {len(edges)} relationship")
    names = {node.node_id: node.text or node.content["entity_name"] for node in nodes}
    for edge in edges:
        note(f"      {names[edge.from_node_id]!r} {edge.relationship_type} {names[edge.to_node_id]!r}")
    async with database.transaction(["eve"]) as transaction:
        # Even asking for nick's rows outright.
        stolen = await Nodes(transaction, "nick").changed_since()
    if stolen:
        raise HybridMemoryError("another user's memory was visible")
    done("eve, bound to her own memory, asked for nick's rows and got none")
    theft = Operation(1, "edges", _relates(edges[0].from_node_id, edges[0].to_node_id))
    try:
        await Batches(database, str(uuid7())).apply({"eve": [theft]})
    except StorageRejected:
        done("eve tried to relate nick's memories to each other and the database refused")
    else:
        raise HybridMemoryError("a relationship across users was accepted")
    if (await database.call("schema.refresh_stats"))[0][0]:
        done("the statistics views are refreshed")


def _memory(node_id: str, content: dict[str, str]) -> dict[str, object]:
    return {
        "node_id": node_id,
        "content": content,
        "summary": content.get("text") or content["entity_name"],
        "tags": ["sales"],
        "metadata": {},
        "importance": 0.5,
        "confidence": 0.9,
    } | _stamp()


def _relates(from_id: str, to_id: str) -> dict[str, object]:
    ends = {"from_node_id": from_id, "to_node_id": to_id}
    return ends | {"relationship_type": "relates_to", "strength": 1, "metadata": {}} | _stamp()


def _stamp() -> dict[str, str]:
    return {"written_at": datetime.now(UTC).isoformat(), "written_by": _INSTANCE}
