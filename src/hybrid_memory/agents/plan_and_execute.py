"""Plan and execute: a graph that plans, works step by step with tools, plans anew, and knows its user.

    plan -> execute <-> tools -> replan -> execute | save

What is known of the user goes into planning, into each step and into planning anew, which is told what the step was
told where it follows at once. What tools return becomes memories and entities, finished steps and the conversation are
kept. After each node comes a checkpoint, so a run that ended in the middle goes on from there.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypedDict
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel, Field

from hybrid_memory.agents.ahead import Ahead, Handed, Work
from hybrid_memory.agents.faces import choice, node
from hybrid_memory.agents.nodes import keep_tool_results
from hybrid_memory.agents.structured import Structured
from hybrid_memory.agents.tools import memory_tools
from hybrid_memory.agents.users import Run, run_of
from hybrid_memory.manager import HybridMemoryManager
from hybrid_memory.models import MemoryNode

_MOST_SUPERSTEPS = 500
# A run that was interrupted takes longer to go on, and more may be known by then.
_AT_ONCE_SECONDS = 0.25
_PLAN = "Make a plan for the request: a few steps, each of which can be done on its own with the tools at hand."
_EXECUTE = "Do this one step of a plan with the tools at hand, then say in a sentence or two what came of it."
_REPLAN = (
    "The request, the plan's remaining steps and what came of the finished ones are below. When the request is "
    "answered, give the response; else give the steps that are still to be done."
)


class Plan(BaseModel):
    """The steps to take, in order."""

    steps: list[str] = Field(min_length=1)


class Decision(BaseModel):
    """Either the response to the request, or the steps that are still to be done."""

    response: str | None = None
    steps: list[str] = Field(default_factory=list)


class PlanExecuteState(TypedDict, total=False):
    """What the graph works on; `input` goes in, `response` comes out.

    `messages` are those of the step under way, as far as it uses tools; `outcome` is what came of the one before.
    """

    input: str
    request_id: str
    plan: list[str]
    past_steps: list[list[str]]
    messages: Annotated[list[AnyMessage], add_messages]
    outcome: str
    response: str


State = PlanExecuteState
Graph = CompiledStateGraph[State, Any, State, State]


def plan_and_execute(manager: HybridMemoryManager, model: BaseChatModel, tools: Sequence[BaseTool] = ()) -> Graph:
    """The graph with the manager's checkpointer and store; the run's config names `thread_id` and `user_id`.

    graph = plan_and_execute(manager, model, tools)
    config = {"configurable": {"thread_id": "t1", "user_id": "nick"}}
    (await graph.ainvoke({"input": "..."}, config))["response"]
    """
    graph = plan_and_execute_builder(manager, model, tools).compile(
        checkpointer=manager.checkpointer, store=manager.store
    )
    return graph.with_config(recursion_limit=_MOST_SUPERSTEPS)


def plan_and_execute_builder(
    manager: HybridMemoryManager, model: BaseChatModel, tools: Sequence[BaseTool] = (), *, max_tokens: int = 800
) -> StateGraph[State, Any, State, State]:
    """The graph to compile as you like.

    Args:
        manager: whose memories it uses.
        model: any chat model that calls tools.
        tools: what steps may use, besides the tools for the memory.
        max_tokens: how much of what is known goes into each prompt.
    """
    all_tools = [*tools, *memory_tools(manager)]
    work = _Work(manager, model, all_tools, max_tokens)
    builder = StateGraph(PlanExecuteState)
    for name, function in (
        ("plan", work.plan),
        ("execute", work.execute),
        ("learn", work.learn),
        ("replan", work.replan),
        ("save", work.save),
    ):
        builder.add_node(name, node(manager, name, function))
    builder.add_node("tools", ToolNode(all_tools))
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "execute")
    builder.add_conditional_edges("execute", choice(_after_execute), ["tools", "replan"])
    builder.add_edge("tools", "learn")
    builder.add_edge("learn", "execute")
    builder.add_conditional_edges("replan", choice(_after_replan), ["execute", "save"])
    builder.add_edge("save", END)
    return builder


class _Work:
    """What the nodes do."""

    def __init__(
        self, manager: HybridMemoryManager, model: BaseChatModel, tools: Sequence[BaseTool], max_tokens: int
    ) -> None:
        self._manager = manager
        self._planner = Structured(model, Plan)
        self._executor = model.bind_tools(tools)
        self._replanner = Structured(model, Decision)
        self._max_tokens = max_tokens
        self._ahead = Ahead()
        self._known: Handed[str] = Handed()

    async def plan(self, state: State, config: RunnableConfig) -> dict[str, Any]:
        """Make a plan for the request."""
        known = await self._recalled(run_of(config), state["input"])
        plan = await self._planner.answer([_prompt(_PLAN, known), HumanMessage(state["input"])], config)
        return {"request_id": str(uuid4()), "plan": plan.steps, "past_steps": [], "response": "", **_NO_MESSAGES}

    async def execute(self, state: State, config: RunnableConfig) -> dict[str, Any]:
        """Let the model work on the next step: it asks for tools, or says what came of it."""
        run, step = run_of(config), state["plan"][0]
        known = await self._known_for_step(run, state)
        prompt = _prompt(f"{_EXECUTE}\n\n{_so_far(state)}", known)
        answer = await self._executor.ainvoke([prompt, HumanMessage(step), *state["messages"]], config)
        if answer.tool_calls:
            return {"messages": [answer]}
        outcome = str(answer.text)
        self._ahead.begin(*self._kept(run, state, outcome))
        self._known.leave(_about(run, state), known)
        return {"outcome": outcome}

    async def learn(self, state: State, config: RunnableConfig) -> dict[str, Any]:
        """Keep what the tools returned."""
        run, messages = run_of(config), state["messages"]
        asked = max(place for place, message in enumerate(messages) if isinstance(message, AIMessage))
        await keep_tool_results(self._manager, run.user_id, run.thread_id, messages[asked:])
        return {}

    async def replan(self, state: State, config: RunnableConfig) -> dict[str, Any]:
        """Keep what came of the step, and decide how to go on."""
        run, step, outcome = run_of(config), state["plan"][0], state["outcome"]
        done = [*state["past_steps"], [step, outcome]]
        after = State(input=state["input"], plan=state["plan"][1:], past_steps=done)
        known = self._known.taken(_about(run, state), within=_AT_ONCE_SECONDS)
        if known is None:
            known = await self._known_for_step(run, state)
        prompt = _prompt(f"{_REPLAN}\n\n{_so_far(after)}", known)
        decision = await self._replanner.answer([prompt, HumanMessage(state["input"])], config)
        # It is durable before the checkpoint says that the step is done; the model need not wait for that.
        await self._ahead.done(*self._kept(run, state, outcome))
        response = decision.response or ("" if decision.steps else outcome)
        used = _NO_MESSAGES if state["messages"] else {}
        return {"plan": decision.steps, "past_steps": done, "response": response, **used}

    async def save(self, state: State, config: RunnableConfig) -> dict[str, Any]:
        """Keep the request and the response as turns of the conversation."""
        user_id, thread_id = run_of(config)
        if thread_id is not None:
            for role, said in (("user", state["input"]), ("assistant", state["response"])):
                await self._manager.add_message(
                    user_id, thread_id, role, said, message_id=f"{state['request_id']}/{role}"
                )
        return {}

    def _kept(self, run: Run, state: State, outcome: str) -> tuple[tuple[str, ...], Work]:
        """Which step is to be kept with what came of it, and how."""
        step, name = state["plan"][0], _name_of_step(state)
        keep = partial(
            self._manager.store_persistent_memory,
            run.user_id,
            {"step": step, "outcome": outcome, "request": state["input"]},
            "completed_action",
            summary=f"{step}: {outcome}",
            thread_id=run.thread_id,
            node_id=name,
        )
        return (run.user_id, name, step, outcome), keep

    async def _known_for_step(self, run: Run, state: State) -> str:
        """What is known about the next step and the request, without the finished steps, which prompts have already."""
        steps = _steps_of(state)

        def is_news(node: MemoryNode) -> bool:
            return node.external_id is None or not node.external_id.startswith(steps)

        return await self._recalled(run, f"{state['plan'][0]} {state['input']}", is_news)

    async def _recalled(self, run: Run, query: str, admits: Callable[[MemoryNode], bool] | None = None) -> str:
        return await self._manager.context_for(
            run.user_id, query, max_tokens=self._max_tokens, thread_id=run.thread_id, admits=admits
        )


_NO_MESSAGES: dict[str, Any] = {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES)]}


def _steps_of(state: State) -> str:
    """What the names of the steps of a request begin with, as memories."""
    return f"{state['request_id']}/step/"


def _name_of_step(state: State) -> str:
    """The name of the next step."""
    return f"{_steps_of(state)}{len(state['past_steps'])}"


def _about(run: Run, state: State) -> tuple[str, ...]:
    """Which step of whose request, in which words: what was recalled for it is about no other."""
    return run.user_id, _name_of_step(state), state["plan"][0], state["input"]


def _prompt(task: str, known: str) -> SystemMessage:
    """The task, with what is known of the user about it."""
    return SystemMessage(f"{task}\n\nWhat is known about the user:\n{known}" if known else task)


def _so_far(state: State) -> str:
    done = "\n".join([f"- {step}: {outcome}" for step, outcome in state["past_steps"]]) or "- nothing yet"
    left = "\n".join([f"- {step}" for step in state["plan"]]) or "- none"
    return f"Request: {state['input']}\nDone:\n{done}\nLeft:\n{left}"


def _after_execute(state: State) -> str:
    newest = state["messages"][-1] if state["messages"] else None
    return "tools" if isinstance(newest, AIMessage) and newest.tool_calls else "replan"


def _after_replan(state: State) -> str:
    return "execute" if state["plan"] and not state["response"] else "save"
