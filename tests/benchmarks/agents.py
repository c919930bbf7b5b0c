"""The plan-and-execute graph with our checkpointer, store and memory, against one that keeps everything in the process.

The peer has the same nodes and model, LangGraph's InMemorySaver and InMemoryStore, and remembers in the latter.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from hybrid_memory import HybridMemoryManager
from hybrid_memory.agents import PlanExecuteState, ScriptedChatModel, calling, plan_and_execute
from tests.benchmarks.checkpointer import bare_commit_seconds
from tests.benchmarks.runner import Benchmark, Contender
from tests.support.managers import settings_for
from tests.support.servers import running_server

STEPS = 50
DELAY_SECONDS = 0.02
IN_MEMORY, OURS = "InMemorySaver and InMemoryStore", "hybrid-memory"
Graph = Any


class DelayedModel(ScriptedChatModel):
    """A model that takes its time, as all of them do."""

    delay: float = 0.0

    async def _agenerate(self, *given: Any, **keywords: Any) -> Any:
        if self.delay:
            await asyncio.sleep(self.delay)
        return await super()._agenerate(*given, **keywords)


def script(messages: Sequence[BaseMessage], tools: Sequence[str]) -> AIMessage:
    """Plans so many steps, and works them off one by one."""
    if "Plan" in tools:
        return calling("Plan", {"steps": [f"step {number}" for number in range(STEPS)]})
    if "Decision" in tools:
        left = [line[2:] for line in messages[0].text.partition("\nLeft:\n")[2].split("\n\n")[0].splitlines()]
        return calling("Decision", {"steps": []} if left == ["none"] else {"steps": left})
    return AIMessage(f"did {messages[1].text}")


def in_memory(model: ScriptedChatModel) -> Graph:
    """The peer."""
    planner, replanner = model.bind_tools([{"name": "Plan"}]), model.bind_tools([{"name": "Decision"}])
    namespace = ("memories", "nick")

    async def known(store: BaseStore) -> SystemMessage:
        found = await store.asearch(namespace, limit=10)
        return SystemMessage("\n".join(str(item.value) for item in found))

    async def plan(state: PlanExecuteState, *, store: BaseStore) -> dict[str, Any]:
        answer = await planner.ainvoke([await known(store), HumanMessage(state["input"])])
        return {"plan": answer.tool_calls[0]["args"]["steps"], "past_steps": []}

    async def execute(state: PlanExecuteState, *, store: BaseStore) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([await known(store), HumanMessage(state["plan"][0])])]}

    async def replan(state: PlanExecuteState, *, store: BaseStore) -> dict[str, Any]:
        step, rest, outcome = state["plan"][0], state["plan"][1:], state["messages"][-1].text
        await store.aput(namespace, f"{step} {len(state['past_steps'])}", {"step": step, "outcome": outcome})
        left = "\n".join(f"- {one}" for one in rest) or "- none"
        prompt = SystemMessage(f"{(await known(store)).text}\nLeft:\n{left}\n\n")
        answer = await replanner.ainvoke([prompt, HumanMessage(state["input"])])
        steps = answer.tool_calls[0]["args"]["steps"]
        done = [*state["past_steps"], [step, outcome]]
        return {"plan": steps, "past_steps": done, "response": "" if steps else outcome}

    builder = StateGraph(PlanExecuteState)
    for name, node in (("plan", plan), ("execute", execute), ("replan", replan)):
        builder.add_node(name, node)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "execute")
    builder.add_edge("execute", "replan")
    builder.add_conditional_edges("replan", lambda state: END if state["response"] else "execute")
    return builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore()).with_config(recursion_limit=500)


async def run(benchmark: Benchmark) -> None:
    """On a server with its ordinary, durable settings."""
    with (
        tempfile.TemporaryDirectory(dir=".") as place,
        running_server(18, fsync="on", synchronous_commit="on", full_page_writes="on") as server,
    ):
        async with server.migrated_database() as targets:
            print(f"bare commit, synchronous=FULL: {bare_commit_seconds(Path(place)) * 1000:.3f} ms\n")
            settings = settings_for(targets, data_dir=Path(place) / "data", max_staleness_seconds=60)
            async with HybridMemoryManager(settings) as manager:
                for delay, promised in ((DELAY_SECONDS, 1.15), (0.0, 2.0)):
                    await _compared(benchmark, manager, delay, promised)


async def _compared(benchmark: Benchmark, manager: HybridMemoryManager, delay: float, promised: float) -> None:
    model = DelayedModel(script=script, delay=delay)
    graphs = {IN_MEMORY: in_memory(model), OURS: plan_and_execute(manager, model)}
    numbers = count()

    async def worked_off(graph: Graph) -> None:
        config = {"configurable": {"thread_id": f"{delay} {next(numbers)}", "user_id": f"nick {next(numbers)}"}}
        end = await graph.ainvoke({"input": "do it"}, config)
        assert len(end["past_steps"]) == STEPS

    title = f"plan and execute, {STEPS} steps, models that take {delay * 1000:.0f} ms"
    contenders = [Contender(name, partial(worked_off, graph), STEPS) for name, graph in graphs.items()]
    ratio = (await benchmark.compare(title, contenders)).ratios[OURS]
    print(f"{title}: {ratio:.2f} x the time, promised {promised}: {'ok' if ratio <= promised else 'MISSED'}\n")
