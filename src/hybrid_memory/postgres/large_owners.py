"""Finding in the memory of users that are too large for a process, and keeping what finds them up to date."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pgvector import HalfVector, Vector

from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.batches import LARGEST_VECTOR
from hybrid_memory.postgres.database import Transaction
from hybrid_memory.postgres.embeddings import Space
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.relationships import Relationships
from hybrid_memory.postgres.statistics import over_all_users

Values = npt.NDArray[np.float32]
_USERS_OF_A_PAGE = 1000
# Memories whose words are taken in, and vectors that are put into an index, in one transaction.
_PORTION = 2000
# New vectors find their place in an index slowly.
_PORTION_SECONDS = 120.0
_BEFORE_ALL = UUID(int=0)
# One in so many of what the index gives has to pass the filters.
_FEWEST_PASSING = 4
# Measured: so many vectors are compared one by one while the index leads to the next.
_COMPARED_PER_STEP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question to a large user: its words, its vector, and the filters as `memory.passes` takes them, as JSON."""

    text: str
    language: str
    space: Space | None
    vector: Values | None
    filters: str
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What may be meant: the memories, how they are related, their cosines, and how vectors were compared."""

    nodes: Sequence[MemoryNode]
    relationships: Sequence[Relationship]
    cosines: Mapping[str, float] = field(default_factory=dict)
    compared: Literal["exactly", "by index", "not"] = "not"


class LargeOwners:
    """The searches and the upkeep of large users, one user per call."""

    def __init__(self, database: Access) -> None:
        self._database = database

    async def size(self, user_id: str) -> int:
        """How many memories a user has."""
        async with self._database.transaction([user_id]) as transaction:
            row = await transaction.fetchrow("large_owners.standing", user_id=user_id, mark="")
        return row["node_count"] if row else 0

    async def candidates(self, user_id: str, asked: Asked, *, timeout: float | None = None) -> Candidates:
        """The memories that may be meant, by words and by vector, as many of each as are asked for."""
        async with self._database.transaction([user_id], timeout=timeout) as transaction:
            await transaction.execute("large_owners.plan_anew")
            found: dict[UUID, None] = {}
            if asked.text.strip():
                rows = await transaction.fetch(
                    "large_owners.worded",
                    owner=user_id,
                    language=asked.language,
                    question=asked.text,
                    filters=asked.filters,
                    most=asked.most,
                )
                found = dict.fromkeys(row["node_id"] for row in rows)
            cosines, compared = await _nearest(transaction, user_id, asked)
            ids = list(found | dict.fromkeys(map(UUID, cosines)))
            edges = await transaction.fetch("large_owners.relationships", user_id=user_id, nodes=ids)
            return Candidates(
                nodes=await Nodes(transaction, user_id).several(map(str, ids)),
                relationships=Relationships(transaction, user_id).edges(edges),
                cosines=cosines,
                compared=compared,
            )

    async def users(self, size: int) -> AsyncIterator[str]:
        """Users with at least so many memories."""
        after = ""
        while True:
            async with over_all_users(self._database) as transaction:
                rows = await transaction.fetch(
                    "large_owners.large_users", after=after, size=size, most=_USERS_OF_A_PAGE
                )
            for row in rows:
                yield row["user_id"]
            if len(rows) < _USERS_OF_A_PAGE:
                return
            after = rows[-1]["user_id"]

    async def claim(self, seconds: float) -> bool:
        """Whether this process is to look after large users, which one of all processes does now and then."""
        rows = await self._database.call("housekeeping.claim", chore="large owners", seconds=seconds)
        return bool(rows[0][0])

    async def index_words(self, user_id: str, language: str) -> int:
        """Take in the words of what came or changed; how many memories that were."""
        total = 0
        while True:
            async with over_all_users(self._database) as transaction:
                count: int = await transaction.fetchval(
                    "large_owners.index_words", owner=user_id, language=language, most=_PORTION
                )
            total += count
            if count < _PORTION:
                return total

    async def index_vectors(
        self, user_id: str, space: Space, progress: Callable[[int], None] = lambda _total: None
    ) -> int:
        """Put a user's vectors into the index of their model, which is made when it is missing; how many there were.

        What callers give with their memories is put there the next time, and compared one by one until then.

        Args:
            user_id: whose.
            space: which.
            progress: told now and then how many there were so far.
        """
        async with self._database.transaction([user_id]) as transaction:
            standing = await transaction.fetchrow("large_owners.standing", user_id=user_id, mark=space.mark)
            there = await transaction.fetchval("large_owners.has_ann_index", mark=space.mark)
        if standing is None or (there and standing["marked"] == standing["version"]):
            return 0
        if not there:
            async with over_all_users(self._database) as transaction:
                await transaction.execute(
                    "large_owners.create_ann_index", model=space.model, dimensions=space.dimensions
                )
        async with self._database.transaction([user_id]) as transaction:
            begun = await transaction.fetchrow("large_owners.begin_ann", user_id=user_id, mark=space.mark)
        if begun is None:
            return 0
        total, first = 0, _BEFORE_ALL
        # A portion is short where somebody has just changed a memory of it; only an empty one is behind the last.
        while held := await self._put_into_index(user_id, space, begun["marked"], first):
            total += len(held)
            progress(total)
            first = max(held)
        async with self._database.transaction([user_id]) as transaction:
            await transaction.execute(
                "large_owners.end_ann", user_id=user_id, mark=space.mark, version=begun["version"]
            )
        return total

    async def _put_into_index(self, user_id: str, space: Space, marked: int, first: UUID) -> Sequence[UUID]:
        """The memories of the next of a user's vectors that were not in the index; it holds those up to `marked`."""
        async with self._database.transaction([user_id], timeout=_PORTION_SECONDS) as transaction:
            await transaction.execute("housekeeping.allow_long_statements")
            await transaction.execute("large_owners.plan_anew")
            rows = await transaction.fetch(
                "large_owners.mark_ann",
                user_id=user_id,
                marked=marked,
                first=first,
                model=space.model,
                dimensions=space.dimensions,
                most=_PORTION,
            )
        return [row["node_id"] for row in rows]


async def _nearest(
    transaction: Transaction, user_id: str, asked: Asked
) -> tuple[dict[str, float], Literal["exactly", "by index", "not"]]:
    """The nearest memories by cosine: through the index of the model where there is one, else one by one."""
    if asked.vector is None or asked.space is None:
        return {}, "not"
    whole = asked.space.dimensions <= LARGEST_VECTOR
    question: dict[str, Any] = {
        "owner": user_id,
        "model": asked.space.model,
        "dimensions": asked.space.dimensions,
        "vector": Vector(asked.vector) if whole else None,
        "half": None if whole else HalfVector(asked.vector),
        "filters": asked.filters,
        "most": asked.most,
    }
    standing = await transaction.fetchrow("large_owners.standing", user_id=user_id, mark=asked.space.mark)
    own, marked = (standing["node_count"], standing["marked"]) if standing else (0, None)
    held = await transaction.fetchval("large_owners.ann_index_size", mark=asked.space.mark)
    if marked is not None and held is not None and _is_quicker_by_index(own, held, asked.most):
        near = await transaction.fetch("large_owners.nearest_by_index", **question)
        others = await transaction.fetch("large_owners.nearest_latest", **question, after=marked)
        # The index is asked before the filters: where few of what it gave pass, nearer ones may follow behind.
        if len(near) * _FEWEST_PASSING >= asked.most and len(near) + len(others) >= asked.most:
            best = sorted([*near, *others], key=lambda row: (-row["cosine"], row["node_id"]))
            return {str(row["node_id"]): row["cosine"] for row in best[: asked.most]}, "by index"
    # Nothing is marked, others fill the index, or so little passes the filters that it gives up looking for it.
    rows = await transaction.fetch("large_owners.nearest", **question)
    return {str(row["node_id"]): row["cosine"] for row in rows}, "exactly"


def _is_quicker_by_index(own: int, held: float, most: int) -> bool:
    """Whether enough of a user's vectors are met in an index of many users before all of them are compared."""
    return most * max(held, own) * _COMPARED_PER_STEP <= own * own
