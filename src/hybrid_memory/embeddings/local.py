"""Vectors from a sentence-transformers model in this process: nothing leaves the machine."""

import asyncio
import importlib.util
from collections.abc import Sequence
from typing import Any

from hybrid_memory.embeddings.embedder import Vector, checked
from hybrid_memory.embeddings.threads import OwnThreads
from hybrid_memory.errors import ConfigurationError, EmbeddingError

_PACKAGE = "sentence_transformers"
_BATCH = 32


class LocalEmbedder:
    """A model by its name or folder, loaded in a thread when it is first needed.

    Raises:
        ConfigurationError: sentence-transformers is not installed.
    """

    def __init__(self, name: str, timeout: float) -> None:
        if importlib.util.find_spec(_PACKAGE) is None:
            raise ConfigurationError(
                f"the embedder local:{name} needs sentence-transformers: pip install 'langgraph-hybrid-memory[local]'"
            )
        self._name = name
        self._timeout = timeout
        self._encoder: Any = None
        # One: a model answers one after the other, and is loaded once however long that takes.
        self._thread = OwnThreads(1)
        self.model = f"local:{name}"
        self.dimensions: int | None = None
        self.may_answer_at_once = False

    async def documents(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, in their order."""
        vectors: list[Vector] = []
        for start in range(0, len(texts), _BATCH):
            vectors += await self._embedded(list(texts[start : start + _BATCH]), self._timeout)
        return vectors

    async def query(self, text: str, *, timeout: float) -> Vector:
        """The vector of a question."""
        return (await self._embedded([text], timeout))[0]

    async def close(self) -> None:
        """Let the thread go; the model stays."""
        self._thread.close()

    async def _embedded(self, texts: list[str], timeout: float) -> list[Vector]:
        try:
            async with asyncio.timeout(timeout):
                answer = await self._thread.run(self._encode, texts)
        except TimeoutError:
            raise EmbeddingError(f"{self.model} took longer than {timeout:g} s") from None
        except Exception as error:
            raise EmbeddingError(f"{self.model} failed: {type(error).__name__}") from error
        vectors = checked(answer, len(texts), self.dimensions)
        self.dimensions = vectors[0].size
        return vectors

    def _encode(self, texts: list[str]) -> Any:
        if self._encoder is None:
            transformers: Any = importlib.import_module(_PACKAGE)
            self._encoder = transformers.SentenceTransformer(self._name)
        return self._encoder.encode(texts, batch_size=_BATCH, convert_to_numpy=True, show_progress_bar=False)
