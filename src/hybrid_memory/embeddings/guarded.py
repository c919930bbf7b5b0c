"""An embedder that may be away: failing is said once, and it is not asked again and again while it lasts."""

import time
from collections.abc import Callable, Sequence

from hybrid_memory.embeddings.embedder import Embedder, Vector
from hybrid_memory.errors import EmbeddingError
from hybrid_memory.observability import Events

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0


class GuardedEmbedder:
    """An embedder with a pause after each failure, twice as long as the one before."""

    def __init__(self, embedder: Embedder, events: Events, clock: Callable[[], float] = time.monotonic) -> None:
        self._embedder = embedder
        self._events = events
        self._clock = clock
        self._pause = 0.0
        self._rests_until = float("-inf")

    @property
    def model(self) -> str:
        """The name under which its vectors are kept."""
        return self._embedder.model

    @property
    def dimensions(self) -> int | None:
        """How long its vectors are; None as long as nobody knows."""
        return self._embedder.dimensions

    @property
    def may_answer_at_once(self) -> bool:
        """Whether it may have an answer without anything to wait for."""
        return self._embedder.may_answer_at_once

    @property
    def resting(self) -> bool:
        """Whether it failed a moment ago, and nobody waits for it now."""
        return self._clock() < self._rests_until

    def wake(self) -> None:
        """End the pause: somebody wants to know whether it works again."""
        self._rests_until = float("-inf")

    async def documents(self, texts: Sequence[str]) -> list[Vector]:
        """A vector for each text.

        Raises:
            EmbeddingError: whatever the reason; also while it rests.
        """
        self._check_awake()
        try:
            vectors = await self._embedder.documents(texts)
        except EmbeddingError as error:
            self._failed(error)
            raise
        self._worked()
        return vectors

    async def query(self, text: str, *, timeout: float) -> Vector:
        """The vector of a question.

        Raises:
            EmbeddingError: whatever the reason; also while it rests.
        """
        self._check_awake()
        try:
            vector = await self._embedder.query(text, timeout=timeout)
        except EmbeddingError as error:
            self._failed(error)
            raise
        self._worked()
        return vector

    async def close(self) -> None:
        """Let connections go."""
        await self._embedder.close()

    def _check_awake(self) -> None:
        if self.resting:
            raise EmbeddingError(f"{self.model} failed a moment ago and is asked again soon")

    def _failed(self, error: EmbeddingError) -> None:
        if error.texts_at_fault:
            return
        if not self._pause:
            self._events.warning("embedder_unavailable", model=self.model, error=str(error))
        self._pause = min(self._pause * 2 or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        self._rests_until = self._clock() + self._pause

    def _worked(self) -> None:
        if self._pause:
            self._events.info("embedder_recovered", model=self.model)
        self._pause, self._rests_until = 0.0, float("-inf")
