"""Tools, nodes and the plan-and-execute graph on a real manager, with a scripted model in the place of a model."""

import asyncio
import importlib
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import ValidationError

from hybrid_memory import HybridMemoryManager, blocking as blocking_module
from hybrid_memory.agents import (
    ScriptedChatModel,
    calling,
    load_memories,
    memory_tools,
    plan_and_execute,
    plan_and_execute_builder,
    save_memories,
    user_of,
)
from hybrid_memory.errors import InvalidInput, WrongThread
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for

# The package names the function in it alike.
plan_and_execute_module = importlib.import_module("hybrid_memory.agents.plan_and_execute")


class Context(TypedDict):
    user_id: str


def tool_graph(manager: HybridMemoryManager) -> Any:
    """A graph of nothing but the tools: what goes in is what a model asked for."""
    builder = StateGraph(MessagesState, context_schema=Context)
    builder.add_node("tools", ToolNode(memory_tools(manager)))
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    return builder.compile()


def of(user_id: str, thread_id: str = "t1") -> Any:
    return {"configurable": {"user_id": user_id, "thread_id": thread_id}}


async def asked(graph: Any, user_id: str, name: str, /, **arguments: Any) -> ToolMessage:
    """What a tool answers to a model in a run of that user."""
    state = await graph.ainvoke({"messages": [calling(name, arguments)]}, of(user_id))
    answer = state["messages"][-1]
    assert isinstance(answer, ToolMessage)
    return answer


class TestTools:
    async def test_a_model_remembers_recalls_and_forgets(self, manager: HybridMemoryManager) -> None:
        graph = tool_graph(manager)
        memory_id = (await asked(graph, "nick", "remember", content="Nick prefers green tea.", tags=["drinks"])).text
        found = await asked(graph, "nick", "recall", query="what tea does Nick like?")
        assert "green tea" in found.text
        assert memory_id in found.text
        node = await manager.get_node("nick", memory_id)
        assert node is not None
        assert (node.tags, node.thread_id) == (("drinks",), "t1")
        assert (await asked(graph, "nick", "forget", memory_id=memory_id)).text == "Forgotten."
        assert (await asked(graph, "nick", "recall", query="green tea")).text == "Nothing is known about that."

    async def test_whatever_a_model_says_the_memory_is_that_of_the_runs_user(
        self, manager: HybridMemoryManager
    ) -> None:
        secret = await manager.store_persistent_memory("eve", "Eve's pin is 4711.")
        graph = tool_graph(manager)
        for extra in ({"user_id": "eve"}, {"user": "eve"}, {"runtime": {"context": {"user_id": "eve"}}}):
            answer = await asked(graph, "nick", "recall", query="Eve's pin, user eve", **extra)
            assert "4711" not in answer.text
        assert (await asked(graph, "nick", "forget", memory_id=secret)).text == f"There is no memory {secret}."
        assert await manager.get_node("eve", secret) is not None
        await asked(graph, "nick", "remember", content="Eve's colour is red.", user_id="eve")
        assert len((await manager.ensure_user_memories("eve")).get_all_nodes()) == 1

    async def test_the_user_may_come_with_the_context_of_the_run(self, manager: HybridMemoryManager) -> None:
        await tool_graph(manager).ainvoke(
            {"messages": [calling("remember", {"content": "likes tea"})]}, context=Context(user_id="nick")
        )
        (node,) = (await manager.ensure_user_memories("nick")).get_all_nodes()
        assert node.text == "likes tea"

    async def test_a_run_of_nobody_is_an_error_of_the_application(self, manager: HybridMemoryManager) -> None:
        with pytest.raises(InvalidInput, match="whose memory"):
            await tool_graph(manager).ainvoke({"messages": [calling("recall", {"query": "anything"})]})
        with pytest.raises(InvalidInput, match="different users"):
            user_of(of("nick"), {"user_id": "eve"})
        with pytest.raises(InvalidInput, match="different users"):
            user_of({"configurable": {"user_id": "eve", "langgraph_auth_user_id": "nick"}}, None)

    async def test_what_is_wrong_with_a_call_is_told_to_the_model(self, manager: HybridMemoryManager) -> None:
        answer = await asked(tool_graph(manager), "nick", "remember", content="a NUL \x00")
        assert answer.status == "error"
        assert "content" in answer.text

    def test_without_an_event_loop(self, targets_outside: Targets) -> None:
        with HybridMemoryManager(settings_for(targets_outside)) as manager:
            graph = tool_graph(manager)
            graph.invoke({"messages": [calling("remember", {"content": "likes tea"})]}, of("nick"))
            state = graph.invoke({"messages": [calling("recall", {"query": "tea"})]}, of("nick"))
            assert "likes tea" in state["messages"][-1].text

    async def test_a_graph_invoked_on_the_managers_own_loop_says_what_to_do(
        self, manager: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blocking_module, "_BEGIN_SECONDS", 0.2)
        await manager.start()
        graph = tool_graph(manager)
        with pytest.raises(WrongThread, match="ainvoke"):
            graph.invoke({"messages": [calling("recall", {"query": "tea"})]}, of("nick"))


class Chat(MessagesState, total=False):
    memories: str


def chat_graph(manager: HybridMemoryManager, model: ScriptedChatModel, **saving: Any) -> Any:
    def answer(state: Chat) -> dict[str, Any]:
        prompt = SystemMessage(f"Known: {state.get('memories')}")
        return {"messages": [model.invoke([prompt, *state["messages"]])]}

    builder = StateGraph(Chat)
    builder.add_node("load", load_memories(manager))
    builder.add_node("answer", answer)
    builder.add_node("save", save_memories(manager, **saving))
    builder.add_edge(START, "load")
    builder.add_edge("load", "answer")
    builder.add_edge("answer", "save")
    return builder.compile(checkpointer=InMemorySaver())


def echoing(messages: Sequence[BaseMessage], _: Sequence[str]) -> AIMessage:
    return AIMessage(f"{messages[0].text} / you said: {messages[-1].text}")


class TestNodes:
    async def test_what_one_thread_said_another_one_knows(self, manager: HybridMemoryManager) -> None:
        graph = chat_graph(manager, ScriptedChatModel(script=echoing))
        await graph.ainvoke({"messages": [HumanMessage("My dog is called Rufus.")]}, of("nick", "t1"))
        second = await graph.ainvoke({"messages": [HumanMessage("What is my dog called?")]}, of("nick", "t2"))
        assert "Rufus" in second["memories"]
        third = await graph.ainvoke({"messages": [HumanMessage("What is my dog called?")]}, of("eve", "t3"))
        assert third["memories"] == ""

    async def test_every_turn_is_kept_once_however_often_it_is_saved(self, manager: HybridMemoryManager) -> None:
        graph = chat_graph(manager, ScriptedChatModel(script=echoing))
        for said in ("one", "two", "three"):
            await graph.ainvoke({"messages": [HumanMessage(said)]}, of("nick"))
        turns = await manager.get_context("nick", "t1")
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3
        assert [turn["content"] for turn in turns][::2] == ["one", "two", "three"]
        version = (await manager.ensure_user_memories("nick")).version
        state = (await graph.aget_state(of("nick"))).values
        await save_memories(manager).ainvoke(state, of("nick"))
        assert (await manager.ensure_user_memories("nick")).version == version, "what is there was stored again"

    async def test_the_turns_of_a_thread_are_not_repeated_to_it(self, manager: HybridMemoryManager) -> None:
        graph = chat_graph(manager, ScriptedChatModel(script=echoing))
        await graph.ainvoke({"messages": [HumanMessage("My dog is called Rufus.")]}, of("nick", "t1"))
        again = await graph.ainvoke({"messages": [HumanMessage("My dog?")]}, of("nick", "t1"))
        assert "Rufus" not in again["memories"]

    async def test_tool_results_become_entities(self, manager: HybridMemoryManager) -> None:
        account = {"attributes": {"type": "Account"}, "Id": "001A000001LNZH4IAP", "Name": "GenePoint"}
        messages: list[AnyMessage] = [
            HumanMessage("look GenePoint up"),
            calling("salesforce_search", {"name": "GenePoint"}),
            ToolMessage(json.dumps([account]), name="salesforce_search", tool_call_id="call-1"),
            calling("recall", {"query": "GenePoint"}, call_id="call-2"),
            ToolMessage("- nothing of interest", name="recall", tool_call_id="call-2"),
        ]
        await save_memories(manager).ainvoke({"messages": messages}, of("nick"))
        memory = await manager.ensure_user_memories("nick")
        assert memory.find_entity("GenePoint") is not None
        (output,) = (node for node in memory.get_all_nodes() if node.context_type == "tool_output")
        assert output.content["arguments"] == {"name": "GenePoint"}

    async def test_a_summariser_adds_facts_and_its_failure_loses_nothing(self, manager: HybridMemoryManager) -> None:
        def facts(messages: Sequence[BaseMessage], _: Sequence[str]) -> AIMessage:
            return AIMessage("- Nick has a dog.\n\n- Its name is Rufus." if "Rufus" in messages[-1].text else "NOTHING")

        def fails(*_: object) -> AIMessage:
            raise ConnectionError("no route")

        saving = save_memories(manager, summariser=ScriptedChatModel(script=facts))
        for said in ("My dog is called Rufus.", "Good morning."):
            await saving.ainvoke({"messages": [HumanMessage(said)]}, of("nick", said))
        kept = [node.text for node in (await manager.ensure_user_memories("nick")).get_all_nodes() if node.text]
        assert kept == ["Nick has a dog.", "Its name is Rufus."]
        broken = save_memories(manager, summariser=ScriptedChatModel(script=fails))
        await broken.ainvoke({"messages": [HumanMessage("I moved to Lisbon.")]}, of("nick", "t9"))
        assert [turn["content"] for turn in await manager.get_context("nick", "t9")] == ["I moved to Lisbon."]


@tool
def look_up(name: str) -> str:
    """Look an account up."""
    return json.dumps([{"attributes": {"type": "Account"}, "Id": "001A000001LNZH4IAP", "Name": name}])


@tool("look_up")
async def alook_up(name: str) -> str:
    """Look an account up."""
    return str(look_up.invoke({"name": name}))


class JsonModel(ScriptedChatModel):
    """A model that needs no tool call for an answer of a schema."""

    def with_structured_output(self, schema: Any, **_: Any) -> Runnable[Any, Any]:
        return self.bind_tools([schema]) | RunnableLambda(lambda answer: answer.tool_calls[0]["args"])


class Planner:
    """A scripted model that plans to look an account up, does so, and reports; it notes the prompts it was given."""

    def __init__(self, account: str, *, fails_once_at: str = "") -> None:
        self.account = account
        self.prompts: dict[str, list[str]] = {"plan": [], "execute": [], "replan": []}
        self._fails_at = fails_once_at

    def model(self) -> ScriptedChatModel:
        return ScriptedChatModel(script=self.answer)

    def answer(self, messages: Sequence[BaseMessage], tools: Sequence[str]) -> AIMessage:
        kind = "plan" if "Plan" in tools else "replan" if "Decision" in tools else "execute"
        self.prompts[kind].append(messages[0].text)
        if kind == self._fails_at:
            self._fails_at = ""
            raise ConnectionError("the model is away")
        if kind == "plan":
            return calling("Plan", {"steps": [f"look {self.account} up", "tell the user"]})
        if kind == "replan":
            left = "- tell the user" in messages[0].text.partition("Left:")[2]
            return calling(
                "Decision", {"steps": ["tell the user"]} if left else {"response": f"{self.account} is there"}
            )
        if isinstance(messages[-1], ToolMessage):
            return AIMessage(f"found {self.account}")
        if messages[1].text.startswith("look"):
            return calling("look_up", {"name": self.account})
        return AIMessage(f"told about {self.account}")


async def outcomes(manager: HybridMemoryManager, user_id: str) -> list[str]:
    """What came of the steps of a user, as it is remembered."""
    nodes = (await manager.ensure_user_memories(user_id)).get_all_nodes()
    return [node.content["outcome"] for node in nodes if node.context_type == "completed_action"]


class TestPlanAndExecute:
    async def test_a_request_is_planned_worked_off_and_remembered(self, manager: HybridMemoryManager) -> None:
        planner = Planner("GenePoint")
        graph = plan_and_execute(manager, planner.model(), [look_up])
        end = await graph.ainvoke({"input": "what about GenePoint?"}, of("nick"))
        assert end["response"] == "GenePoint is there"
        assert end["past_steps"] == [
            ["look GenePoint up", "found GenePoint"],
            ["tell the user", "told about GenePoint"],
        ]
        # What checkpoints know again in a list that grows.
        assert {type(part) for step in end["past_steps"] for part in step} == {str}
        memory = await manager.ensure_user_memories("nick")
        assert memory.find_entity("GenePoint") is not None
        kinds = [node.context_type for node in memory.get_all_nodes()]
        assert kinds.count("completed_action") == 2
        assert kinds.count("tool_output") == 1
        turns = await manager.get_context("nick", "t1")
        assert [(turn["role"], turn["content"]) for turn in turns] == [
            ("user", "what about GenePoint?"),
            ("assistant", "GenePoint is there"),
        ]

    async def test_what_is_known_goes_into_planning_executing_and_planning_anew(
        self, manager: HybridMemoryManager
    ) -> None:
        await manager.store_persistent_memory("nick", "GenePoint is looked after by Nick himself.")
        planner = Planner("GenePoint")
        await plan_and_execute(manager, planner.model(), [look_up]).ainvoke({"input": "GenePoint?"}, of("nick", "t7"))
        for kind, prompts in planner.prompts.items():
            assert "looked after by Nick" in prompts[0], kind

    async def test_planning_anew_at_once_asks_the_memory_nothing_that_the_step_has_asked(
        self, manager: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        context_for = manager.context_for

        async def noted(user_id: str, query: str, **how: Any) -> str:
            asked.append(query)
            return await context_for(user_id, query, **how)

        monkeypatch.setattr(manager, "context_for", noted)
        monkeypatch.setattr(plan_and_execute_module, "_AT_ONCE_SECONDS", 60.0)
        graph = plan_and_execute(manager, Planner("GenePoint").model(), [look_up])
        await graph.ainvoke({"input": "GenePoint?"}, of("nick"))
        of_first_step = "look GenePoint up GenePoint?"  # asked once more with what its tool returned
        assert asked == ["GenePoint?", of_first_step, of_first_step, "tell the user GenePoint?"]

    async def test_what_was_learnt_while_a_run_was_interrupted_is_known_to_planning_anew(
        self, manager: HybridMemoryManager, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plan_and_execute_module, "_AT_ONCE_SECONDS", 0.0)
        planner = Planner("GenePoint")
        builder = plan_and_execute_builder(manager, planner.model(), [look_up])
        graph = builder.compile(checkpointer=manager.checkpointer, interrupt_before=["replan"])
        await graph.ainvoke({"input": "GenePoint?"}, of("nick"))
        await manager.store_persistent_memory("nick", "GenePoint is looked after by Nick himself.")
        await graph.ainvoke(None, of("nick"))
        assert "looked after by Nick" in planner.prompts["replan"][0]

    async def test_finished_steps_stand_in_a_prompt_once_and_are_known_to_the_next_request(
        self, manager: HybridMemoryManager
    ) -> None:
        planner = Planner("GenePoint")
        graph = plan_and_execute(manager, planner.model(), [look_up])
        await graph.ainvoke({"input": "GenePoint?"}, of("nick", "t1"))
        for prompt in (planner.prompts["execute"][-1], planner.prompts["replan"][-1]):
            assert prompt.count("look GenePoint up: found GenePoint") == 1
        await graph.ainvoke({"input": "GenePoint again?"}, of("nick", "t2"))
        assert "look GenePoint up: found GenePoint [" in planner.prompts["plan"][-1]

    @pytest.mark.parametrize("fails_at", ["plan", "execute", "replan"])
    async def test_a_run_that_broke_off_goes_on_where_it_was(self, manager: HybridMemoryManager, fails_at: str) -> None:
        planner = Planner("GenePoint", fails_once_at=fails_at)
        graph = plan_and_execute(manager, planner.model(), [look_up])
        with pytest.raises(ConnectionError):
            await graph.ainvoke({"input": "GenePoint?"}, of("nick"))
        end = await graph.ainvoke(None, of("nick"))
        assert end["response"] == "GenePoint is there"
        kinds = [node.context_type for node in (await manager.ensure_user_memories("nick")).get_all_nodes()]
        assert kinds.count("completed_action") == 2
        assert kinds.count("conversation_message") == 2

    async def test_an_outcome_that_a_person_corrects_is_what_is_kept(self, manager: HybridMemoryManager) -> None:
        builder = plan_and_execute_builder(manager, Planner("GenePoint").model(), [look_up])
        graph = builder.compile(checkpointer=manager.checkpointer, interrupt_before=["replan"])
        await graph.ainvoke({"input": "GenePoint?"}, of("nick"))
        await graph.aupdate_state(of("nick"), {"outcome": "found GenePoint, which is in Lisbon"}, as_node="execute")
        state = await graph.ainvoke(None, of("nick"))
        assert state["past_steps"] == [["look GenePoint up", "found GenePoint, which is in Lisbon"]]
        # The next step is kept for sure where it is done, which it is not at its interrupt.
        await graph.ainvoke(None, of("nick"))
        assert await outcomes(manager, "nick") == ["found GenePoint, which is in Lisbon", "told about GenePoint"]

    async def test_a_step_that_cannot_be_kept_is_not_done(self, manager: HybridMemoryManager) -> None:
        planner = Planner("GenePoint")

        def answer(messages: Sequence[BaseMessage], tools: Sequence[str]) -> AIMessage:
            given = planner.answer(messages, tools)
            return given if given.tool_calls else AIMessage("a NUL \x00")

        graph = plan_and_execute(manager, ScriptedChatModel(script=answer), [look_up])
        with pytest.raises(InvalidInput, match="outcome"):
            await graph.ainvoke({"input": "GenePoint?"}, of("nick"))
        state = await graph.aget_state(of("nick"))
        assert (state.next, state.values["past_steps"]) == (("replan",), [])

    async def test_two_users_at_once_never_mix(self, manager: HybridMemoryManager) -> None:
        planners = {user: Planner(account) for user, account in (("nick", "GenePoint"), ("eve", "Burlington"))}
        graphs = {user: plan_and_execute(manager, one.model(), [look_up]) for user, one in planners.items()}
        for turn in range(3):
            await asyncio.gather(
                *(
                    graph.ainvoke({"input": f"and {turn}?"}, of(user, f"{user}-{turn}"))
                    for user, graph in graphs.items()
                )
            )
        for user, planner in planners.items():
            other = "Burlington" if user == "nick" else "GenePoint"
            assert not any(other in prompt for prompts in planner.prompts.values() for prompt in prompts)
            memory = await manager.ensure_user_memories(user)
            assert memory.find_entity(planner.account) is not None
            assert memory.find_entity(other) is None

    async def test_a_second_request_in_a_thread_begins_anew(self, manager: HybridMemoryManager) -> None:
        graph = plan_and_execute(manager, Planner("GenePoint").model(), [look_up])
        for request in ("first", "second"):
            end = await graph.ainvoke({"input": request}, of("nick"))
            assert len(end["past_steps"]) == 2
        assert len(await manager.get_context("nick", "t1")) == 4

    async def test_between_model_calls_no_thread_is_asked(self, manager: HybridMemoryManager) -> None:
        graph = plan_and_execute(manager, Planner("GenePoint").model(), [alook_up])
        await graph.ainvoke({"input": "GenePoint?"}, of("nick"))  # the first run opens the file of the checkpoints
        with ThreadPoolExecutor(1) as threads:
            pass
        asyncio.get_running_loop().set_default_executor(threads)
        with pytest.raises(RuntimeError, match="shutdown"):
            await asyncio.to_thread(str)
        end = await graph.ainvoke({"input": "GenePoint?"}, of("nick"))
        assert end["response"] == "GenePoint is there"

    async def test_a_model_may_have_its_own_way_to_structured_answers(self, manager: HybridMemoryManager) -> None:
        graph = plan_and_execute(manager, JsonModel(script=Planner("GenePoint").answer), [look_up])
        end = await graph.ainvoke({"input": "GenePoint?"}, of("nick"))
        assert end["response"] == "GenePoint is there"

    async def test_an_answer_that_does_not_fit_its_schema_is_an_error(self, manager: HybridMemoryManager) -> None:
        model = ScriptedChatModel(script=lambda *_: AIMessage("there is nothing to plan"))
        with pytest.raises(ValidationError, match="Plan"):
            await plan_and_execute(manager, model).ainvoke({"input": "GenePoint?"}, of("nick"))

    async def test_a_model_that_has_nothing_to_say_ends_the_run(self, manager: HybridMemoryManager) -> None:
        def silent(_: Sequence[BaseMessage], tools: Sequence[str]) -> AIMessage:
            return next((calling(name, said) for name, said in answers.items() if name in tools), AIMessage(""))

        answers: dict[str, dict[str, Any]] = {"Plan": {"steps": ["wait"]}, "Decision": {}}
        end = await plan_and_execute(manager, ScriptedChatModel(script=silent)).ainvoke({"input": "hm"}, of("nick"))
        assert (end["past_steps"], end["response"]) == ([["wait", ""]], "")

    def test_without_an_event_loop_and_streaming(self, targets_outside: Targets) -> None:
        with HybridMemoryManager(settings_for(targets_outside)) as manager:
            graph = plan_and_execute(manager, Planner("GenePoint").model(), [look_up])
            seen = [name for part in graph.stream({"input": "GenePoint?"}, of("nick")) for name in part]
            assert seen == ["plan", "execute", "tools", "learn", "execute", "replan", "execute", "replan", "save"]
            with ThreadPoolExecutor(4) as threads:
                answers = threads.map(lambda n: graph.invoke({"input": "again"}, of("nick", f"t{n}")), range(8))
            assert all(answer["response"] == "GenePoint is there" for answer in answers)
            assert threading.active_count() < 60


class TestContextFor:
    async def test_only_what_fits_and_the_best_first(self, manager: HybridMemoryManager) -> None:
        for number in range(30):
            await manager.store_persistent_memory("nick", f"tea number {number} is {'green ' * number}")
        text = await manager.context_for("nick", "green tea", max_tokens=100)
        assert 0 < len(text) <= 400
        assert text.splitlines()[0].startswith("- (conversation_fact")
        few = await manager.context_for(
            "nick", "green tea", max_tokens=3, count_tokens=lambda said: said.count("\n") + 1
        )
        assert len(few.splitlines()) == 3
        assert await manager.context_for("nick", "green tea", max_tokens=0) == ""

    async def test_without_a_question_the_newest_are_given(self, manager: HybridMemoryManager) -> None:
        for number in range(3):
            await manager.store_persistent_memory("nick", f"fact {number}")
        lines = (await manager.context_for("nick", "", max_tokens=100)).splitlines()
        assert [line.split(") ")[1].split(" [")[0] for line in lines] == ["fact 2", "fact 1", "fact 0"]

    @pytest.mark.parametrize("query", ["fact", ""])
    async def test_what_may_not_be_given_takes_no_place(self, manager: HybridMemoryManager, query: str) -> None:
        wanted = await manager.store_persistent_memory("nick", "an old fact, told with many other words")
        await manager.store_many("nick", [{"content": f"fact {number}"} for number in range(60)])
        text = await manager.context_for("nick", query, max_tokens=100, admits=lambda node: node.node_id == wanted)
        assert text.endswith(f"an old fact, told with many other words [{wanted}]")
        assert "\n" not in text
