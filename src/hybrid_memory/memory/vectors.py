"""What a question's vector is compared with: whose vectors, of which model, and how questions become vectors."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np

from hybrid_memory.embeddings.embedder import Embedder, Vector
from hybrid_memory.embeddings.guarded import GuardedEmbedder
from hybrid_memory.errors import EmbeddingError, HybridMemoryError, InvalidInput, StorageUnavailable
from hybrid_memory.graph.cosines import NOTHING, Cosines
from hybrid_memory.graph.directions import Direction
from hybrid_memory.graph.vectors import UserVectors
from hybrid_memory.memory.border import GIVEN_VECTOR
from hybrid_memory.memory.embedding import Embedding
from hybrid_memory.memory.held_vectors import HeldVectors, VectorSource
from hybrid_memory.memory.in_time import VectorsInTime
from hybrid_memory.memory.texts import LONGEST_TEXT, Texts, hash_of
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.postgres.batches import Applied
from hybrid_memory.postgres.embeddings import Space
from hybrid_memory.replication.batching import Write
from hybrid_memory.replication.writer import Answer
from hybrid_memory.sqlite.cached_vectors import CachedVectors, UserText

# Longer waits are not worth it: words find something at once.
_OWN_VECTORS_SECONDS = 1.0
_QUESTION_SECONDS = 2.0
_REFRESH_SECONDS = 5.0
_MOST_QUESTIONS = 1000

Spaces = Callable[[str], Awaitable[Mapping[Space, int]]]


class OlderEmbedders(Protocol):
    """Embedders of models that were in use before."""

    def of(self, model: str) -> Embedder | None:
        """The embedder of a model; None when its name does not say how to make one."""

    async def close(self) -> None:
        """Let their connections go."""


class Vectors:
    """The vectors of a manager's users. Belongs to its loop.

    Args:
        source: where users' vectors come from.
        spaces: which vectors a user has.
        most_users: of how many users vectors are held at most.
        cache: vectors by text, for when the source does not answer.
        texts: of what of a memory vectors are made.
        embedder: makes vectors of questions; None: only vectors that callers give are compared.
        pipeline: makes those of memories; there when `embedder` is.
        in_time: makes those that travel with their memories; there when `embedder` is.
        older: embedders for vectors of other models, where they can be made.
    """

    def __init__(
        self,
        source: VectorSource,
        spaces: Spaces,
        most_users: int,
        *,
        cache: CachedVectors | None,
        texts: Texts,
        embedder: GuardedEmbedder | None = None,
        pipeline: Embedding | None = None,
        in_time: VectorsInTime | None = None,
        older: OlderEmbedders,
    ) -> None:
        self.held = HeldVectors(source, self._models_of, most_users)
        self.in_time = in_time
        self._spaces = spaces
        self._cache = cache
        self._texts = texts
        self._embedder = embedder
        self._pipeline = pipeline
        self._older = older
        self._questions: OrderedDict[tuple[str, str, str], Direction] = OrderedDict()
        self._filled: dict[str, tuple[str, int]] = {}

    @property
    def model(self) -> str:
        """The model of vectors that are compared now, and of vectors that callers give."""
        return GIVEN_VECTOR if self._embedder is None else self._embedder.model

    async def model_of(self, values: Sequence[float], path: str = "embedding") -> str:
        """The model under which a vector that a caller gives is kept.

        Raises:
            InvalidInput: it is not as long as the vectors of the model.
        """
        if self._embedder is not None:
            dimensions = self._embedder.dimensions
            if dimensions is None and self._pipeline is not None:
                with suppress(EmbeddingError):
                    dimensions = (await self._pipeline.space()).dimensions
            if dimensions is not None and len(values) != dimensions:
                raise InvalidInput(f"{path} has {len(values)} dimensions, those of {self.model} have {dimensions}")
        return self.model

    def wrote(self, user_id: str, writes: Sequence[Write], answer: Answer) -> None:
        """This process has written something."""
        if isinstance(answer, Applied):
            self.held.wrote(answer)
        if self._pipeline is not None:
            nodes = (one for one in writes if one.kind in ("nodes", "entities"))
            node_ids = {answer.same.get(one.row["node_id"], one.row["node_id"]) for one in nodes}
            self._pipeline.wrote(user_id, node_ids, answer)

    async def cosines(self, memory: UserMemory, text: str, vector: Sequence[float] | None) -> Cosines | None:
        """How alike a user's memories are to a question, in words or as a vector; None when that cannot be told.

        Raises:
            InvalidInput: the vector is not as long as those it would be compared with.
        """
        if vector is not None:
            return await self._alike(memory, np.asarray(vector, dtype=np.float32))
        if self._embedder is None or not text.strip():
            return None
        if self._pipeline is not None:
            await self._pipeline.settled(memory.user_id, _OWN_VECTORS_SECONDS)
        vectors = await self._current(memory)
        model = self._answering(memory.user_id, vectors)
        question = await self._question(memory.user_id, model, text)
        if question is None:
            return None
        dimensions = question.vector.size
        table = vectors.table(model, dimensions)
        if not table and not vectors.sizes(model):
            await self._fill_from_cache(memory, vectors, Space(model, dimensions))
            table = vectors.table(model, dimensions)
        return NOTHING if table is None else table.cosines(question)

    async def close(self) -> None:
        """Finish what was made, and let the connections of embedders go."""
        if self.in_time is not None:
            await self.in_time.close()
        if self._embedder is not None:
            await self._embedder.close()
        await self._older.close()

    async def _alike(self, memory: UserMemory, question: Vector) -> Cosines:
        if self._pipeline is not None:
            await self._pipeline.settled(memory.user_id, _OWN_VECTORS_SECONDS)
        await self.model_of(question.tolist(), "vector")
        vectors = await self._current(memory)
        table = vectors.table(self.model, question.size)
        if table is None or not len(table):
            sizes = vectors.sizes(self.model)
            if sizes:
                known = " and ".join(map(str, sorted(sizes)))
                raise InvalidInput(f"vector has {question.size} dimensions, those of the memories have {known}")
            return NOTHING
        return table.cosines(Direction(question))

    async def _current(self, memory: UserMemory) -> UserVectors:
        """The user's vectors, or what there is of them while the database does not answer."""
        try:
            return await self.held.current(memory, timeout=_REFRESH_SECONDS)
        except StorageUnavailable:
            return self.held.known(memory.user_id)

    async def _models_of(self, user_id: str) -> Sequence[str]:
        """The present model, and the one before as long as that has made more of the user's vectors."""
        if self._embedder is None:
            return [GIVEN_VECTOR]
        there = {one.model: count for one, count in (await self._spaces(user_id)).items()}
        others = [name for name in there if name not in (self.model, GIVEN_VECTOR) and self._older.of(name) is not None]
        best = max(others, key=lambda name: there[name], default=None)
        return [self.model] if best is None or there[best] <= there.get(self.model, 0) else [self.model, best]

    def _answering(self, user_id: str, vectors: UserVectors) -> str:
        """The model that has made more of a user's vectors."""
        models = self.held.models(user_id)
        if len(models) == 1:
            return models[0]
        sizes = {name: sum(vectors.sizes(name).values()) for name in models}
        return max(sizes, key=lambda name: (sizes[name], name == self.model), default=self.model)

    async def question(self, user_id: str, text: str) -> Vector | None:
        """A question as a vector of the present model; None when there is none."""
        question = await self._question(user_id, self.model, text) if text.strip() else None
        return None if question is None else question.vector

    async def _question(self, user_id: str, model: str, text: str) -> Direction | None:
        key = (user_id, model, text)
        if key not in self._questions:
            embedder = self._embedder if model == self.model else self._older.of(model)
            if embedder is None:
                return None
            try:
                vector = await embedder.query(text[:LONGEST_TEXT], timeout=_QUESTION_SECONDS)
            except EmbeddingError:
                return None
            self._questions[key] = Direction(vector)
            if len(self._questions) > _MOST_QUESTIONS:
                self._questions.popitem(last=False)
        self._questions.move_to_end(key)
        return self._questions[key]

    async def _fill_from_cache(self, memory: UserMemory, vectors: UserVectors, space: Space) -> None:
        """While the database is away: the vectors of texts that were made one on this machine before."""
        standing = (space.mark, memory.version)
        if self._cache is None or vectors.incarnation is not None or self._filled.get(memory.user_id) == standing:
            return
        self._filled[memory.user_id] = standing
        wanted: dict[UserText, list[tuple[str, str]]] = {}
        for node in memory.get_all_nodes():
            for field, text in self._texts(node).items():
                wanted.setdefault((memory.user_id, hash_of(text)), []).append((node.node_id, field))
        with suppress(HybridMemoryError):
            for key, values in (await self._cache.get(space.mark, wanted)).items():
                for node_id, field in wanted[key]:
                    vectors.put(node_id, field, space.model, values)
