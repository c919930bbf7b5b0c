"""What the agent of the demo says and what its customer system knows: no model and no network."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, tool

from hybrid_memory.agents import ScriptedChatModel, calling
from hybrid_memory.cli.demo_story import LOOK_UP, NOTE_OWNER, NOTE_RENEWAL, OWNER, PLANS, RENEWAL

_CALLS: Mapping[str, tuple[str, dict[str, Any]]] = {
    LOOK_UP: ("search_accounts", {"name": "GenePoint"}),
    NOTE_OWNER: ("remember", {"content": OWNER, "tags": ["sales"]}),
    NOTE_RENEWAL: ("remember", {"content": RENEWAL, "tags": ["sales"]}),
}
_RECORDS = [
    {
        "attributes": {"type": "Account"},
        "Id": "001A000001LNZH4IAP",
        "Name": "GenePoint",
        "Industry": "Biotechnology",
        "Owner": {"attributes": {"type": "User"}, "Id": "005A0000001SARAHIA", "Name": "Sarah Lee"},
    }
]


@tool
def search_accounts(name: str) -> str:
    """Search the customer system for accounts by name."""
    return json.dumps([record for record in _RECORDS if name.lower() in str(record["Name"]).lower()])


TOOLS: Sequence[BaseTool] = (search_accounts,)


def model() -> ScriptedChatModel:
    """The agent's model."""
    return ScriptedChatModel(script=_answer)


def _answer(messages: Sequence[BaseMessage], tools: Sequence[str]) -> AIMessage:
    prompt, task = messages[0].text, messages[1].text
    if "Plan" in tools:
        return calling("Plan", {"steps": PLANS[task]})
    if "Decision" in tools:
        left = [line.removeprefix("- ") for line in prompt.partition("\nLeft:\n")[2].split("\n\n")[0].splitlines()]
        return calling("Decision", {"steps": [] if left == ["none"] else left})
    if isinstance(messages[-1], ToolMessage):
        return AIMessage(OWNER if task == LOOK_UP else "It is written down.")
    if task in _CALLS:
        return calling(*_CALLS[task])
    known = "Sarah Lee" in prompt
    return AIMessage("Sarah Lee looks after GenePoint." if known else "I do not know who looks after GenePoint.")
