"""How the parts that make, hold and compare vectors are put together."""

from collections.abc import Sequence
from typing import Protocol

from hybrid_memory.embeddings.choosing import named
from hybrid_memory.embeddings.embedder import Embedder
from hybrid_memory.embeddings.guarded import GuardedEmbedder
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.memory.embedding import Embedding, Undelivered, VectorRows
from hybrid_memory.memory.held_vectors import VectorSource
from hybrid_memory.memory.in_time import VectorsInTime
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.texts import Texts
from hybrid_memory.memory.vectors import Vectors
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Applied
from hybrid_memory.postgres.echo import Written
from hybrid_memory.postgres.embeddings import KeptVectors, Made, Space
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.cached_vectors import CachedVectors

_NOTHING = Written((), (), frozenset())
# Of whoever else made vectors before: those that can be asked again by their name alone.
_KNOWN_BY_NAME = ("openai:", "local:")


class VectorStorage(VectorRows, VectorSource, Protocol):
    """What the database does for vectors; see `postgres.embeddings.Embeddings`."""


def vectors_and_pipeline(
    storage: VectorStorage,
    embedder: Embedder | None,
    sessions: Sessions,
    undelivered: Undelivered,
    cache: CachedVectors | None,
    texts: Texts,
    settings: Settings,
    events: Events,
) -> tuple[Vectors, Embedding | None]:
    """The vectors of a manager's users and, where there is an embedder, what makes them."""
    guarded = None if embedder is None else GuardedEmbedder(embedder, events)
    pipeline = in_time = None
    if guarded is not None:
        events.info("embedder_chosen", model=guarded.model)
        in_time = VectorsInTime(guarded, cache, texts, events)

        async def shown(user_id: str, space: Space, kept: KeptVectors, made: Sequence[Made]) -> None:
            vectors.held.kept(user_id, space.model, kept, made)
            if kept.version > kept.before and sessions.holds(user_id):
                await sessions.show(Applied(user_id, kept.incarnation, kept.version, 0, (), written=_NOTHING))

        pipeline = Embedding(guarded, storage, cache, texts, shown, undelivered, events)
    vectors = Vectors(
        storage,
        storage.spaces,
        settings.max_loaded_users,
        cache=cache,
        texts=texts,
        embedder=guarded,
        pipeline=pipeline,
        in_time=in_time,
        older=_Older(settings, events),
    )
    return vectors, pipeline


class _Older:
    """Embedders of models that were in use before, each made once."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self._settings = settings
        self._events = events
        self._made: dict[str, Embedder | None] = {}

    def of(self, model: str) -> Embedder | None:
        """The embedder of a model; None when its name does not say how to make one."""
        if model not in self._made:
            self._made[model] = self._new(model)
        return self._made[model]

    async def close(self) -> None:
        """Let their connections go."""
        for embedder in self._made.values():
            if embedder is not None:
                await embedder.close()

    def _new(self, model: str) -> Embedder | None:
        if not model.startswith(_KNOWN_BY_NAME):
            return None
        try:
            found = named(model, self._settings)
        except ConfigurationError:
            return None
        return None if found is None else GuardedEmbedder(found, self._events)
