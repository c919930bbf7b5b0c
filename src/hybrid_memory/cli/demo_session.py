"""One session of the demo, in a process of its own: `python -m hybrid_memory.cli.demo_session NAME SETTINGS`.

It tells what happens in lines of JSON, which the demo shows.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any, Literal

from hybrid_memory.agents import PlanExecuteState, plan_and_execute
from hybrid_memory.cli import demo_script
from hybrid_memory.cli.demo_story import ASK, FIND_OUT, NOTE_OWNER, TELL, USER
from hybrid_memory.manager import HybridMemoryManager
from hybrid_memory.settings import Settings

_FLUSH_SECONDS = 30.0
_LONGEST_WAIT_SECONDS = 60.0
Kind = Literal["ok", "note", "killable"]


async def _find_out(manager: HybridMemoryManager, thread: str) -> None:
    await _run(manager, thread, FIND_OUT, killable_at=NOTE_OWNER)


async def _go_on(manager: HybridMemoryManager, thread: str) -> None:
    await _run(manager, thread, None)


async def _ask(manager: HybridMemoryManager, thread: str) -> None:
    await _run(manager, thread, ASK)


async def _tell(manager: HybridMemoryManager, thread: str) -> None:
    await _run(manager, thread, TELL)
    _say(
        "ok",
        f"acknowledged without Postgres: {manager.health().outbox_depth} operations wait in the outbox of state.db",
    )
    await asyncio.to_thread(sys.stdin.readline)
    if not await manager.flush(timeout=_FLUSH_SECONDS):
        raise SystemExit("what waited did not reach Postgres")
    _say("ok", "Postgres is back, and everything that waited is in it; nothing was restarted")


_SESSIONS = {"find-out": _find_out, "go-on": _go_on, "ask": _ask, "tell": _tell}


async def _run(
    manager: HybridMemoryManager, thread: str, request: str | None, *, killable_at: str | None = None
) -> None:
    memory = await manager.ensure_user_memories(USER)
    known = len(memory.get_all_nodes())
    kept = ", from the copy on this machine" if memory.stale and known else ""
    _say("ok", f"{USER} has {known} memories{kept}")
    graph = plan_and_execute(manager, demo_script.model(), demo_script.TOOLS)
    config: Any = {"configurable": {"thread_id": thread, "user_id": USER}}
    if request is None:
        plan = (await graph.aget_state(config)).values["plan"]
        _say("note", f"the checkpoint says what is left of the plan: {'; '.join(plan)}")
    else:
        _say("note", f"{USER}: {request}")
    given = None if request is None else PlanExecuteState(input=request)
    async for update in graph.astream(given, config, stream_mode="updates", durability="sync"):
        for node, change in update.items():
            _tell_of(node, change or {})
        if killable_at and (update.get("replan") or {}).get("plan", [None])[0] == killable_at:
            _say("killable", "")
            await asyncio.sleep(_LONGEST_WAIT_SECONDS)
    _say("note", f"agent: {(await graph.aget_state(config)).values['response']}")


def _tell_of(node: str, change: Mapping[str, Any]) -> None:
    match node:
        case "plan":
            _say("note", f"  plan: {'; '.join(change['plan'])}")
        case "tools":
            names = ", ".join(str(message.name) for message in change["messages"])
            _say("note", f"  called {names}")
        case "replan":
            step, outcome = change["past_steps"][-1]
            _say("note", f"  done: {step}: {outcome}")


def _say(kind: Kind, text: str) -> None:
    print(json.dumps({"kind": kind, "text": text}), flush=True)  # noqa: T201 - it is what the process is for


async def _main(name: str, thread: str, settings: Mapping[str, Any]) -> None:
    async with HybridMemoryManager(Settings.without_environment(**settings)) as manager:
        await _SESSIONS[name](manager, thread)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
