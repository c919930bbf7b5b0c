"""Answers of a chat model as objects of a schema, in the way that the model itself prefers."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from pydantic import BaseModel

Schema = TypeVar("Schema", bound=BaseModel)


class Structured(Generic[Schema]):
    """A model whose answers are of one schema.

    As a chain, LangChain asks a thread for the parser, and waits for that longer than parsing takes.
    """

    def __init__(self, model: BaseChatModel, schema: type[Schema]) -> None:
        self._schema = schema
        self._model: Runnable[Any, Any] = model.with_structured_output(schema)
        self._parser: BaseOutputParser[Any] | None = None
        chain = self._model
        if isinstance(chain, RunnableSequence) and not chain.middle and isinstance(chain.last, BaseOutputParser):
            self._model, self._parser = chain.first, chain.last

    async def answer(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Schema:
        """What the model says to these messages."""
        answer = await self._model.ainvoke(messages, config)
        if self._parser is not None:
            answer = self._parser.parse_result([ChatGeneration(message=answer)])
        return self._schema.model_validate(answer)
