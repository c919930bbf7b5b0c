"""`demo`: the whole way from nothing to a remembered fact, in a place of its own."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from hybrid_memory.cli.output import console, done, note
from hybrid_memory.errors import ConfigurationError, HybridMemoryError, UnknownMemory
from hybrid_memory.manager import HybridMemoryManager
from hybrid_memory.settings import Settings


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
    manager = HybridMemoryManager(settings)
    with console.status("starting Postgres and making the schema ..."):
        await manager.start()
    try:
        done("a Postgres server runs, reachable through a socket that only you can open, and has its schema")
        thread = await _first_session(manager)
    finally:
        with console.status("closing ..."):
            await manager.aclose()
    done("session one is over, its manager closed and the server stopped")
    manager = HybridMemoryManager(settings)
    with console.status("starting again ..."):
        await manager.start()
    try:
        await _second_session(manager, thread)
        await _another_user(manager)
    finally:
        with console.status("closing ..."):
            await manager.aclose()
    done("stopped the server; nothing is running any more")


async def _first_session(manager: HybridMemoryManager) -> str:
    memory = await manager.ensure_user_memories("nick")
    known = memory.get_all_nodes()
    done(f"session one begins: nick has {len(known)} memories{' from an earlier run' if known else ''}")
    thread = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    await manager.add_message("nick", thread, "user", "I look after the GenePoint account.")
    account = await manager.store_entity(
        "nick",
        entity_id="001GENEPOINT",
        entity_system="salesforce",
        entity_type="account",
        entity_name="GenePoint",
        data={"industry": "biotechnology"},
    )
    fact = await manager.store_persistent_memory(
        "nick", "Nick looks after the GenePoint account.", tags=["sales"], node_id="nick-looks-after-genepoint"
    )
    await manager.relate("nick", fact, account, "relates_to")
    await manager.add_message("nick", thread, "assistant", "Noted.")
    done("stored in Postgres: two turns of the conversation, a fact, a Salesforce account, and how they relate")
    note = manager.store_transient_memory(thread, {"step": 2, "plan": "call GenePoint"})
    done(f"noted for this thread alone, in SQLite: {manager.transient_memories(thread)[0].content} ({note[:8]}...)")
    return thread


async def _second_session(manager: HybridMemoryManager, thread: str) -> None:
    memory = await manager.ensure_user_memories("nick")
    found = memory.retrieve_relevant("who looks after GenePoint?")
    if not found:
        raise HybridMemoryError("what was stored is not found")
    done(f"session two, a new manager: {len(memory.get_all_nodes())} memories at version {memory.version}")
    note("      asked 'who looks after GenePoint?' it finds")
    for node in found[:2]:
        note(f"        {node.summary}")
    fact = memory.get_node("nick-looks-after-genepoint")
    for other in memory.get_related_nodes(fact.node_id, max_distance=1) if fact else []:
        note(f"      and next to it: {other.summary}")
    for turn in await manager.get_context("nick", thread):
        note(f"      {turn['role']}: {turn['content']}")
    (kept,) = manager.transient_memories(thread)
    await manager.promote(thread, kept.node_id, "nick")
    done("the note of the thread became a memory of nick's")


async def _another_user(manager: HybridMemoryManager) -> None:
    memory = await manager.ensure_user_memories("eve")
    nick = (await manager.ensure_user_memories("nick")).get_all_nodes()
    stolen = [node for node in nick if await manager.get_node("eve", node.node_id) is not None]
    if memory.get_all_nodes() or stolen:
        raise HybridMemoryError("another user's memory was visible")
    done("eve, another user, has an empty memory, and nick's ids mean nothing to her")
    try:
        await manager.relate("eve", nick[0].node_id, nick[1].node_id, "owns")
    except UnknownMemory:
        done("eve tried to relate nick's memories to each other and was refused")
    else:
        raise HybridMemoryError("a relationship across users was accepted")
