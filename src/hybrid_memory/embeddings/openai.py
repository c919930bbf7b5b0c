"""Vectors from OpenAI, or from a server that speaks its API (`OPENAI_BASE_URL`)."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hybrid_memory.embeddings.embedder import Vector, checked
from hybrid_memory.errors import EmbeddingError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_MODEL = "text-embedding-3-small"
_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
# Well below what one request may hold.
_MOST_TEXTS = 256
_MOST_CHARACTERS = 400_000
_RETRIES = 3
# A request that cannot succeed as it is: it, and not the service, is at fault.
_BAD_REQUEST = frozenset({400, 413, 422})


class OpenAIEmbedder:
    """Asks in batches; the client of the `openai` package tries again with growing pauses, as the server asks.

    Args:
        name: the model.
        key: the API key.
        timeout: deadline in seconds for one batch, all its tries included.
        base_url: another server; the package's own choice when None.
    """

    def __init__(self, name: str, key: str, timeout: float, *, base_url: str | None = None) -> None:
        self._name = name
        self._key = key
        self._timeout = timeout
        self._base_url = base_url
        self._client: AsyncOpenAI | None = None
        self.model = f"openai:{name}"
        self.dimensions = _DIMENSIONS.get(name)
        self.may_answer_at_once = False

    async def documents(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, in their order."""
        vectors: list[Vector] = []
        for batch in _batches(texts):
            vectors += await self._embedded(batch, self._timeout)
        return vectors

    async def query(self, text: str, *, timeout: float) -> Vector:
        """The vector of a question."""
        return (await self._embedded([text], timeout))[0]

    async def close(self) -> None:
        """Close the connections; the next call makes new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _embedded(self, texts: Sequence[str], timeout: float) -> list[Vector]:
        from openai import APIStatusError, OpenAIError  # noqa: PLC0415 - half a second, which few programs need

        if self._client is None:
            self._client = await asyncio.to_thread(self._connected)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._client.embeddings.create(model=self._name, input=list(texts))
            in_order = [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
        except TimeoutError:
            raise EmbeddingError(f"{self.model} did not answer within {timeout:g} s") from None
        except APIStatusError as error:
            # The text of the answer may quote what was sent, which is nobody's business in a log.
            said = f"{self.model} answered {error.status_code} ({error.code or type(error).__name__})"
            raise EmbeddingError(said, texts_at_fault=error.status_code in _BAD_REQUEST) from error
        except OpenAIError as error:
            raise EmbeddingError(f"{self.model} cannot be reached: {type(error).__name__}") from error
        except Exception as error:
            # Whoever stands in between, such as a proxy with a page of its own, answers with 200 too.
            raise EmbeddingError(f"{self.model} answered with something else ({type(error).__name__})") from error
        vectors = checked(in_order, len(texts), self.dimensions)
        self.dimensions = vectors[0].size
        return vectors

    def _connected(self) -> "AsyncOpenAI":
        from openai import AsyncOpenAI  # noqa: PLC0415 - see above

        return AsyncOpenAI(api_key=self._key, base_url=self._base_url, max_retries=_RETRIES, timeout=self._timeout)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == _MOST_TEXTS or characters + len(text) > _MOST_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
