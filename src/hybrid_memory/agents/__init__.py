"""What agents are made of: tools, nodes, and a graph that plans and executes."""

from hybrid_memory.agents.nodes import load_memories, save_memories
from hybrid_memory.agents.plan_and_execute import PlanExecuteState, plan_and_execute, plan_and_execute_builder
from hybrid_memory.agents.scripted import ScriptedChatModel, calling
from hybrid_memory.agents.tools import memory_tools
from hybrid_memory.agents.users import user_of

__all__ = [
    "PlanExecuteState",
    "ScriptedChatModel",
    "calling",
    "load_memories",
    "memory_tools",
    "plan_and_execute",
    "plan_and_execute_builder",
    "save_memories",
    "user_of",
]
