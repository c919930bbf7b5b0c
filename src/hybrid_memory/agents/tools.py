"""Tools with which a model remembers, recalls and forgets, for the user of the run and nobody else."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.prebuilt import ToolRuntime

from hybrid_memory.agents.faces import blocking_face
from hybrid_memory.agents.users import thread_of, user_of
from hybrid_memory.errors import HybridMemoryError
from hybrid_memory.manager import HybridMemoryManager
from hybrid_memory.memory.prompting import line_of

Runtime = ToolRuntime[Any, Any]
_MOST_HITS = 20


def memory_tools(manager: HybridMemoryManager) -> list[BaseTool]:
    """`remember`, `recall` and `forget` for a `ToolNode` or an agent.

    The user comes from the run: `context.user_id` or `configurable.user_id`. A model cannot name another one.
    """
    tools = _Tools(manager)
    return [
        StructuredTool.from_function(
            func=blocking_face(manager, work), coroutine=work, name=work.__name__, handle_tool_error=True
        )
        for work in (tools.remember, tools.recall, tools.forget)
    ]


class _Tools:
    """What the tools do; their docstrings are what a model reads."""

    def __init__(self, manager: HybridMemoryManager) -> None:
        self._manager = manager

    async def remember(self, content: str, runtime: Runtime, tags: list[str] | None = None) -> str:
        """Store a fact about the user, or something they will want to come back to, as one self-contained sentence.

        Returns the id of the memory.
        """
        user_id = user_of(runtime.config, runtime.context)
        with _told_to_the_model():
            return await self._manager.store_persistent_memory(
                user_id, content, tags=tags, thread_id=thread_of(runtime.config), metadata={"source": "remember"}
            )

    async def recall(self, query: str, runtime: Runtime, limit: int = 5) -> str:
        """Find what is known about the user from this and earlier conversations.

        Ask with a question or with key words. Returns one memory per line, each with its id.
        """
        user_id = user_of(runtime.config, runtime.context)
        with _told_to_the_model():
            hits = await self._manager.recall(user_id, query, limit=max(1, min(limit, _MOST_HITS)))
        return "\n".join(line_of(hit.node) for hit in hits) or "Nothing is known about that."

    async def forget(self, memory_id: str, runtime: Runtime) -> str:
        """Delete a memory of the user for good, by the id that `recall` or `remember` gave."""
        user_id = user_of(runtime.config, runtime.context)
        with _told_to_the_model():
            gone = await self._manager.forget(user_id, memory_id)
        return "Forgotten." if gone else f"There is no memory {memory_id}."


@contextmanager
def _told_to_the_model() -> Iterator[None]:
    """What is wrong with a call goes back to the model, which can do better or do without."""
    try:
        yield
    except HybridMemoryError as error:
        raise ToolException(str(error)) from error
