"""What the library asks of whatever makes vectors, and what it checks in every answer."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from hybrid_memory.errors import EmbeddingError

Vector: TypeAlias = npt.NDArray[np.float32]
MOST_DIMENSIONS = 4000


class Embedder(Protocol):
    """Makes vectors of texts, all of one length, that can be compared with each other.

    Every call ends within a deadline, and raises `EmbeddingError` for whatever goes wrong.
    """

    @property
    def model(self) -> str:
        """The name under which its vectors are kept; another name, other vectors."""

    @property
    def dimensions(self) -> int | None:
        """How long its vectors are; None as long as nobody knows."""

    @property
    def may_answer_at_once(self) -> bool:
        """Whether it may have an answer without anything to wait for: no thread, no service."""

    async def documents(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text, in their order."""

    async def query(self, text: str, *, timeout: float) -> Vector:
        """The vector of a question."""

    async def close(self) -> None:
        """Let connections go."""


def checked(answer: Iterable[Sequence[float] | Vector], expected: int, dimensions: int | None) -> list[Vector]:
    """The vectors of an answer to `expected` texts.

    Raises:
        EmbeddingError: there are more or fewer, or they cannot be compared with others of that model.
    """
    try:
        vectors = [np.asarray(one, dtype=np.float32) for one in answer]
    except (TypeError, ValueError, OverflowError) as error:
        raise EmbeddingError("the embedder answered with something else than lists of numbers") from error
    if len(vectors) != expected:
        raise EmbeddingError(f"the embedder gave {len(vectors)} vectors for {expected} texts")
    for vector in vectors:
        if vector.ndim != 1 or not 1 <= vector.size <= MOST_DIMENSIONS:
            raise EmbeddingError(
                f"the embedder gave a vector of shape {vector.shape}; up to {MOST_DIMENSIONS} can be kept"
            )
        dimensions = dimensions or vector.size
        if vector.size != dimensions:
            raise EmbeddingError(f"the embedder gave a vector of {vector.size} dimensions instead of {dimensions}")
        if not np.isfinite(vector).all():
            raise EmbeddingError("the embedder gave a vector with a number that is none")
    return vectors
