"""Nodes for the beginning and the end of a graph: load what is known of a user, keep what was said and found out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig

from hybrid_memory.agents.faces import node
from hybrid_memory.agents.users import thread_of, user_of_run
from hybrid_memory.errors import InvalidInput
from hybrid_memory.manager import HybridMemoryManager

# What these tools return is in the memory already.
OWN_TOOLS = frozenset({"remember", "recall", "forget"})
_SUMMARISE = (
    "Below is a part of a conversation. Write down what is worth remembering about the user in later conversations: "
    "one self-contained sentence per line, nothing else. If there is nothing, answer with the word NOTHING."
)
_NOTHING = "NOTHING"
State = Mapping[str, Any]
Query = Callable[[State], str]


def last_request(state: State) -> str:
    """What a state is about: its `input`, or the newest human message of its `messages`."""
    if isinstance(state.get("input"), str):
        return str(state["input"])
    asked = [message for message in state.get("messages", ()) if isinstance(message, HumanMessage)]
    return asked[-1].text if asked else ""


def load_memories(
    manager: HybridMemoryManager, *, into: str = "memories", max_tokens: int = 1000, query: Query = last_request
) -> Runnable[Any, dict[str, Any]]:
    """A node that begins the session and puts what is known of the user into the state, as text for a prompt.

    Args:
        manager: whose memories.
        into: the key of the state that the text goes to.
        max_tokens: how long it may be.
        query: what the memories should be about, from the state.
    """

    async def load(state: State, config: RunnableConfig) -> dict[str, Any]:
        user_id = user_of_run(config)
        await manager.ensure_user_memories(user_id)
        text = await manager.context_for(user_id, query(state), max_tokens=max_tokens, thread_id=thread_of(config))
        return {into: text}

    return node(manager, "load_memories", load)


def save_memories(
    manager: HybridMemoryManager, *, summariser: BaseChatModel | None = None
) -> Runnable[Any, dict[str, Any]]:
    """A node that stores the `messages` of the state: turns in their thread, tool results with their entities.

    It can run after every turn: what is stored already is not stored again.

    Args:
        manager: where they go.
        summariser: a chat model that also writes down facts about the user; a failure of it loses nothing else.
    """

    async def save(state: State, config: RunnableConfig) -> dict[str, Any]:
        user_id, thread_id = user_of_run(config), thread_of(config)
        if thread_id is None:
            raise InvalidInput("configurable.thread_id: missing; it says which conversation is to be kept")
        messages: Sequence[AnyMessage] = state.get("messages", ())
        await _keep_turns(manager, user_id, thread_id, messages)
        recent = _since_last_request(messages)
        await keep_tool_results(manager, user_id, thread_id, recent)
        if summariser is not None:
            await _keep_facts(manager, user_id, thread_id, recent, summariser)
        return {}

    return node(manager, "save_memories", save)


async def keep_tool_results(
    manager: HybridMemoryManager, user_id: str, thread_id: str | None, messages: Sequence[AnyMessage]
) -> None:
    """Store what the tools of these messages returned, with the entities in it."""
    arguments = {call["id"]: call["args"] for one in messages if isinstance(one, AIMessage) for call in one.tool_calls}
    for result in messages:
        if isinstance(result, ToolMessage) and result.name not in OWN_TOOLS and result.status != "error":
            called_with = arguments.get(result.tool_call_id, {})
            await manager.remember_tool_output(user_id, result.name or "tool", called_with, result, thread_id=thread_id)


async def _keep_turns(
    manager: HybridMemoryManager, user_id: str, thread_id: str, messages: Sequence[AnyMessage]
) -> None:
    memory = await manager.ensure_user_memories(user_id)
    for place, message in enumerate(messages):
        if not isinstance(message, (HumanMessage, AIMessage)) or not message.text.strip():
            continue
        message_id = message.id or f"{thread_id}/{place}"
        known = memory.peek(message_id)
        if known is None or known.content.get("content") != message.text:
            role = "user" if isinstance(message, HumanMessage) else "assistant"
            await manager.add_message(user_id, thread_id, role, message.text, name=message.name, message_id=message_id)


async def _keep_facts(
    manager: HybridMemoryManager,
    user_id: str,
    thread_id: str,
    messages: Sequence[AnyMessage],
    summariser: BaseChatModel,
) -> None:
    said = "\n".join(f"{one.type}: {one.text}" for one in messages if one.text.strip())
    try:
        answer = await summariser.ainvoke([SystemMessage(_SUMMARISE), HumanMessage(said)])
    except Exception as error:  # noqa: BLE001 - whatever a model's client raises; the turns are stored
        manager.events.warning("summariser_failed", user_id=user_id, error=type(error).__name__)
        return
    facts = [line.strip("-* \t") for line in answer.text.splitlines()]
    items = [
        {"content": fact, "thread_id": thread_id, "metadata": {"source": "summariser"}}
        for fact in facts
        if fact and fact != _NOTHING
    ]
    await manager.store_many(user_id, items)


def _since_last_request(messages: Sequence[AnyMessage]) -> Sequence[AnyMessage]:
    asked = [place for place, message in enumerate(messages) if isinstance(message, HumanMessage)]
    return messages[asked[-1] :] if asked else messages
