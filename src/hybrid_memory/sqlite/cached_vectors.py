"""Vectors in `cache.db`, by the text they were made of: what is lost here is made again."""

import time
from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database

Values: TypeAlias = npt.NDArray[np.float32]
UserText: TypeAlias = tuple[str, bytes]
"""Whose text it is, and its hash."""
_STORED = np.dtype("<f4")


class CachedVectors:
    """The vectors of texts, each user's own, on one file that other processes may share."""

    def __init__(self, cache: Database) -> None:
        self._cache = cache

    async def get(self, space: str, wanted: Collection[UserText]) -> dict[UserText, Values]:
        """The vectors of those texts that have one."""

        def read(sql: Statements) -> dict[UserText, Values]:
            found = {
                (user_id, text_hash): sql.value("cached_vectors.get", user_id=user_id, space=space, text_hash=text_hash)
                for user_id, text_hash in wanted
            }
            return {
                one: np.frombuffer(stored, dtype=_STORED).astype(np.float32)
                for one, stored in found.items()
                if stored is not None
            }

        return await self._cache.read(read)

    async def keep(self, space: str, vectors: Mapping[UserText, Values]) -> None:
        """Remember the vectors of some texts."""
        now = int(time.time() * 1_000_000)

        def write(sql: Statements) -> None:
            for (user_id, text_hash), values in vectors.items():
                sql.run(
                    "cached_vectors.keep",
                    user_id=user_id,
                    space=space,
                    text_hash=text_hash,
                    vector=values.astype(_STORED).tobytes(),
                    kept_at=now,
                )

        await self._cache.write(write, durable=False)

    async def make_room(self, *, unused_seconds: float, most_bytes: int) -> None:
        """Forget what is old, and the oldest beyond a size."""
        before = int((time.time() - unused_seconds) * 1_000_000)
        await self._cache.write(lambda sql: sql.run("cached_vectors.make_room", before=before, most=most_bytes))
