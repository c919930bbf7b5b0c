"""A process that forks: the child is told at once what it cannot use, and the parent goes on as if nothing were."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.observability import Events
from hybrid_memory.postgres.target import Targets
from tests.support.children import Child
from tests.support.managers import as_json, settings_for
from tests.support.servers import administration


async def fork_in_a_coroutine(_: Events, settings: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    async with HybridMemoryManager(Settings(**settings)) as manager:
        node_id = await manager.store_persistent_memory("nick", "before")
        memory = await manager.ensure_user_memories("nick")

        async def child() -> list[Any]:
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: manager.store_persistent_memory("nick", "from the child"),
                lambda: manager.get_node("nick", node_id),
                manager.start,
            ]
            said: list[Any] = [await refused(call) for call in calls]
            await manager.aclose()
            # What is loaded can be read; what is open cannot be shared; and there is room for a manager of its own.
            said.append([node.text for node in memory.get_all_nodes()])
            return [*said, await asyncio.to_thread(of_its_own, fresh)]

        said = await forked(child)
        await manager.store_persistent_memory("nick", "after")
        return {"child": said, "parent": [node.text for node in memory.get_all_nodes()]}


def fork_with_a_thread(_: Events, settings: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    with HybridMemoryManager(Settings(**settings)) as manager:
        node_id = manager.blocking.store_persistent_memory("nick", "before")
        memory = manager.blocking.ensure_user_memories("nick")

        async def child() -> list[Any]:
            said: list[Any] = [
                await refused(lambda: asyncio.to_thread(manager.blocking.store_persistent_memory, "nick", "x")),
                await refused(lambda: asyncio.to_thread(manager.blocking.get_node, "nick", node_id)),
                await refused(lambda: asyncio.to_thread(manager.store_transient_memory, "t", "x")),
            ]
            manager.__exit__()
            said.append([node.text for node in memory.get_all_nodes()])
            return [*said, await asyncio.to_thread(of_its_own, fresh)]

        said = asyncio.run(forked(child))
        manager.blocking.store_persistent_memory("nick", "after")
        return {"child": said, "parent": [node.text for node in memory.get_all_nodes()]}


async def refused(call: Callable[[], Awaitable[object]]) -> str:
    try:
        answer = await call()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return f"{type(error).__name__}: {error}"
    return f"no error, but {answer!r}"


def of_its_own(settings: Mapping[str, Any]) -> str:
    """A manager in another directory, made after the fork."""
    with HybridMemoryManager(Settings(**settings)) as manager:
        manager.blocking.store_persistent_memory("nick", "from a manager of its own")
        return "works"


async def forked(child: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
    """What `child` says in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Whatever hangs ends with it.
        signal.alarm(30)
        os.close(reading)
        os.write(writing, repr(_on_a_loop_of_its_own(child)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = await asyncio.to_thread(pipe.read)
    await asyncio.to_thread(os.waitpid, pid, 0)
    assert said, "the child hung, or ended without a word"
    answer: list[Any] = eval(said)  # noqa: S307 - written by ourselves a moment ago
    return answer


def _on_a_loop_of_its_own(child: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
    """The loop of the parent runs in the child too, as far as asyncio knows."""
    asyncio._set_running_loop(None)
    asyncio.set_event_loop_policy(None)

    async def work() -> list[Any]:
        return await child()

    return asyncio.new_event_loop().run_until_complete(work())


@pytest.mark.parametrize("how", [fork_in_a_coroutine, fork_with_a_thread])
def test_a_forked_child_is_told_and_its_parent_goes_on(
    targets_outside: Targets, tmp_path: Path, how: Callable[..., Any]
) -> None:
    settings = as_json(settings_for(targets_outside, data_dir=tmp_path / "data"))
    with Child(how, {"settings": settings, "fresh": settings | {"data_dir": str(tmp_path / "other")}}) as process:
        said = process.result(40)
    *refusals, seen, own = said["child"]
    assert all("ConfigurationError" in text and "fork" in text for text in refusals), refusals
    assert (seen, own) == (["before"], "works")
    assert said["parent"][0] == "before"
    assert said["parent"][-1] == "after"
    assert asyncio.run(stored(targets_outside)) == {"before", "from a manager of its own", "after"}


async def stored(targets: Targets) -> set[str]:
    async with administration(targets) as connection:
        return {row[0] for row in await connection.fetch("select content ->> 'text' from memory.nodes")}
