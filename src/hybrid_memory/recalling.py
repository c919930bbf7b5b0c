"""What a manager finds: the memories a question is about."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from hybrid_memory.checkpointing import Checkpointing
from hybrid_memory.embeddings.choosing import EmbedderLike, chosen
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.langgraph.serialisation import AllowedType
from hybrid_memory.memory.homes import Persists
from hybrid_memory.models import RecallHit
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings


class Recalling(Checkpointing):
    """The part of a manager for finding."""

    def __init__(
        self,
        settings: Settings,
        events: Events,
        allowed_types: Iterable[AllowedType],
        embedder: EmbedderLike | None,
        persist_user: Persists | None = None,
    ) -> None:
        if not isinstance(settings, Settings):
            raise ConfigurationError(f"settings must be a Settings, such as Settings(data_dir=...), not {settings!r}")
        self._embedder = chosen(embedder, settings)
        fields = embedder.get("fields") if isinstance(embedder, Mapping) else None
        super().__init__(settings, events, allowed_types, fields, persist_user)

    async def recall(
        self,
        user_id: str,
        query: str | None = None,
        *,
        vector: Sequence[float] | None = None,
        limit: int = 10,
        context_types: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        thread_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        explain: bool = False,
    ) -> list[RecallHit]:
        """The memories of a user that a question is about, the best first.

        Words always count; meaning does where there is an embedder, or a vector is given. While the embedder does not
        answer, words alone do. What this process has just written is waited for, for at most a second, until it has
        its vectors. What is given counts as accessed.

        Args:
            user_id: whose memories.
            query: what is asked.
            vector: the question as a vector of the model that the memories' vectors are of.
            limit: that many at most, and as many as there are that pass the filters and fit.
            context_types: of one of these types.
            tags: with all of these tags, in any case.
            thread_id: from this thread.
            metadata: with these values.
            since: not from before; what a message says of its time counts, else when the memory was made.
            until: not from after.
            explain: whether each hit says why it was found.

        Raises:
            InvalidInput: there is nothing to look for, or a value that cannot be; the text names it.
            StorageUnavailable: the user is too large to be loaded, and Postgres does not find it in time.
        """
        return await self._on_home(
            lambda parts: parts.finding.recall(
                user_id,
                query,
                vector=vector,
                limit=limit,
                context_types=context_types,
                tags=tags,
                thread_id=thread_id,
                metadata=metadata,
                since=since,
                until=until,
                explain=explain,
            )
        )
