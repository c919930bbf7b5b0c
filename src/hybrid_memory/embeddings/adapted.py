"""Vectors from what the caller brings: a LangChain `Embeddings`, or a function of texts."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.embeddings import Embeddings

from hybrid_memory.embeddings.embedder import Vector, checked
from hybrid_memory.embeddings.threads import OwnThreads
from hybrid_memory.errors import EmbeddingError

Vectors: TypeAlias = Sequence[Sequence[float]]
EmbeddingFunction: TypeAlias = Callable[[Sequence[str]], Vectors] | Callable[[Sequence[str]], Awaitable[Vectors]]
_BATCH = 128
_MOST_THREADS = 32


class AdaptedEmbedder:
    """Calls somebody else's code in batches, each within a deadline; what it raises becomes an `EmbeddingError`.

    Args:
        source: whose code.
        model: the name its vectors are kept under; made from its class and model, or the function's name, when None.
        dimensions: how long they are, where that is known.
        timeout: deadline in seconds for one batch.
    """

    def __init__(
        self,
        source: Embeddings | EmbeddingFunction,
        timeout: float,
        *,
        model: str | None = None,
        dimensions: int | None = None,
    ) -> None:
        self._source = source
        self._timeout = timeout
        self.model = model or _name_of(source)
        self.dimensions = dimensions
        # What LangChain makes of a class without a method of its own is a thread, and so is any function's way.
        self.may_answer_at_once = _overrides(source, "aembed_documents")
        self._threads = OwnThreads(_MOST_THREADS)

    async def documents(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, in their order."""
        vectors: list[Vector] = []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            vectors += self._checked(await self._answered(self._documents(batch), self._timeout), len(batch))
        return vectors

    async def query(self, text: str, *, timeout: float) -> Vector:
        """The vector of a question."""
        return self._checked([await self._answered(self._query(text), timeout)], 1)[0]

    async def close(self) -> None:
        """Let the threads go; the source belongs to the caller."""
        self._threads.close()

    async def _documents(self, texts: list[str]) -> Any:
        if isinstance(self._source, Embeddings):
            if _overrides(self._source, "aembed_documents"):
                return await self._source.aembed_documents(texts)
            return await self._threads.run(self._source.embed_documents, texts)
        answer = await self._threads.run(self._source, texts)
        return await answer if inspect.isawaitable(answer) else answer

    async def _query(self, text: str) -> Any:
        if isinstance(self._source, Embeddings):
            if _overrides(self._source, "aembed_query"):
                return await self._source.aembed_query(text)
            return await self._threads.run(self._source.embed_query, text)
        (vector,) = await self._documents([text])
        return vector

    async def _answered(self, answer: Awaitable[Any], timeout: float) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise EmbeddingError(f"{self.model} did not answer within {timeout:g} s") from None
        except Exception as error:
            raise EmbeddingError(f"{self.model} failed: {type(error).__name__}") from error

    def _checked(self, answer: Any, expected: int) -> list[Vector]:
        vectors = checked(answer, expected, self.dimensions)
        self.dimensions = vectors[0].size
        return vectors


def _overrides(source: object, name: str) -> bool:
    """Whether it is a LangChain `Embeddings` with a method of its own; LangChain's asks a thread that all share."""
    return isinstance(source, Embeddings) and getattr(type(source), name) is not getattr(Embeddings, name)


def _name_of(source: Embeddings | EmbeddingFunction) -> str:
    """What tells its vectors from those of another model, in every process that uses it."""
    if isinstance(source, Embeddings):
        kind = type(source).__name__
        named = next((str(name) for key in ("model", "model_name") if (name := getattr(source, key, None))), None)
        return f"{kind}:{named}" if named else kind
    name = getattr(source, "__qualname__", None) or type(source).__qualname__
    return f"{getattr(source, '__module__', None) or 'function'}:{name}"
