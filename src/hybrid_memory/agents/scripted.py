"""A chat model without a model: its answers come from a function. For demonstrations and tests, offline."""

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

Script = Callable[[Sequence[BaseMessage], Sequence[str]], AIMessage]


class ScriptedChatModel(BaseChatModel):
    """Answers with what `script` makes of the messages and of the names of the tools it may call."""

    script: Script
    tool_names: tuple[str, ...] = ()

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **_: Any
    ) -> Runnable[Any, AIMessage]:
        """The same model, told which tools there are."""
        names = tuple(str(convert_to_openai_tool(tool)["function"]["name"]) for tool in tools)
        return self.model_copy(update={"tool_names": names})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - the interface is LangChain's
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - the same
        **_: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script(messages, self.tool_names))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - the interface is LangChain's
        **keywords: Any,
    ) -> ChatResult:
        # There is nothing to wait for, so no thread is asked.
        return self._generate(messages, stop, None, **keywords)


def calling(name: str, arguments: dict[str, Any], *, call_id: str = "call-1") -> AIMessage:
    """An answer that calls one tool; a structured answer is one that calls its schema."""
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": call_id, "type": "tool_call"}])
