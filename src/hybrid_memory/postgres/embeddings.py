"""The table `embeddings`: keeping vectors, finding the memories that have none, and reading what is new."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from uuid import UUID

import asyncpg
import numpy as np
import numpy.typing as npt
from pgvector import HalfVector, Vector

from hybrid_memory.models import MemoryNode
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.batches import LARGEST_VECTOR
from hybrid_memory.postgres.nodes import Nodes
from hybrid_memory.postgres.statistics import over_all_users

Values = npt.NDArray[np.float32]
_USERS_OF_A_PAGE = 1000
_BEFORE_ALL = UUID(int=0)
# Vectors of a large user arrive for longer than other answers.
_LOAD_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors that can be compared with each other: those of a model, all of one length."""

    model: str
    dimensions: int

    @property
    def mark(self) -> str:
        """The name under which it is noted how far a user is."""
        return f"{self.model}/{self.dimensions}"


@dataclass(frozen=True, slots=True)
class VectorRow:
    """One vector of a memory."""

    node_id: str
    field: str
    model: str
    values: Values


@dataclass(frozen=True, slots=True)
class Made:
    """A vector that was made of a text of a memory at some version."""

    node: MemoryNode
    field: str
    values: Values


@dataclass(frozen=True, slots=True)
class MadeForUser:
    """Vectors of one user's memories.

    With them, no memory that changed after version `since`, up to `done`, lacks one that can be made; `done` is None
    where nobody knows.
    """

    user_id: str
    incarnation: str
    made: Sequence[Made]
    since: int = 0
    done: int | None = None


@dataclass(frozen=True, slots=True)
class KeptVectors:
    """What became of them: the memories that have them now, and the user's version before and after."""

    incarnation: str
    before: int
    version: int
    node_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Lacking:
    """A page of memories without a vector, and where the user was when it was read."""

    incarnation: str
    version: int
    nodes: Sequence[MemoryNode]


@dataclass(frozen=True, slots=True)
class NewVectors:
    """What is new of a user's vectors: those of `outdated` memories count only as far as they are in `rows`."""

    incarnation: str | None
    version: int
    rows: Sequence[VectorRow]
    outdated: frozenset[str]
    complete: bool


class Embeddings:
    """The vectors of all users.

    Args:
        database: where they are.
        changed: told of a user's new version.
    """

    def __init__(self, database: Access, *, changed: Callable[[str, int], None] = lambda _user, _version: None) -> None:
        self._database = database
        self._changed = changed

    async def keep(self, space: Space, several: Sequence[MadeForUser]) -> Mapping[str, KeptVectors]:
        """Keep vectors of memories that have not changed since, of each user once; who is gone is left out."""
        made = [one for user in several for one in user.made]
        lasts = list(accumulate(len(user.made) for user in several))
        whole = space.dimensions <= LARGEST_VECTOR
        rows = await self._database.call(
            "embeddings.keep",
            owners=[user.user_id for user in several],
            incarnations=[UUID(user.incarnation) for user in several],
            sinces=[user.since for user in several],
            dones=[user.done for user in several],
            firsts=[last - len(user.made) + 1 for last, user in zip(lasts, several, strict=True)],
            lasts=lasts,
            model=space.model,
            dimensions=space.dimensions,
            nodes=[UUID(one.node.node_id) for one in made],
            fields=[one.field for one in made],
            versions=[one.node.version for one in made],
            vectors=[Vector(one.values) for one in made] if whole else [],
            halves=[] if whole else [HalfVector(one.values) for one in made],
            mark=space.mark,
        )
        kept = {}
        for row in rows:
            if row["incarnation"] is None:
                continue
            if row["version"] > row["before"]:
                self._changed(row["user_id"], row["version"])
            kept[row["user_id"]] = KeptVectors(
                str(row["incarnation"]), row["before"], row["version"], frozenset(map(str, row["kept"]))
            )
        return kept

    async def lacking(
        self, user_id: str, space: Space, at: datetime, after: MemoryNode | None, most: int
    ) -> Lacking | None:
        """Memories without a vector: the first of those not known to have one, or the ones after another."""
        async with self._database.transaction([user_id], isolation="repeatable_read") as transaction:
            standing = await transaction.fetchrow("embeddings.standing", user_id=user_id, mark=space.mark)
            if standing is None or standing["done"] >= standing["version"]:
                return None
            rows = await transaction.fetch(
                "embeddings.lacking",
                user_id=user_id,
                model=space.model,
                dimensions=space.dimensions,
                version=standing["done"] + 1 if after is None else after.version,
                after=_BEFORE_ALL if after is None else UUID(after.node_id),
                at=at,
                most=most,
            )
            nodes = Nodes(transaction, user_id).nodes(rows)
        return Lacking(str(standing["incarnation"]), standing["version"], nodes)

    async def lacking_count(self, user_id: str, space: Space, at: datetime) -> int:
        """How many memories have no vector and may get one."""
        async with self._database.transaction([user_id], isolation="repeatable_read") as transaction:
            standing = await transaction.fetchrow("embeddings.standing", user_id=user_id, mark=space.mark)
            if standing is None or standing["done"] >= standing["version"]:
                return 0
            count: int = await transaction.fetchval(
                "embeddings.lacking_count",
                user_id=user_id,
                model=space.model,
                dimensions=space.dimensions,
                version=standing["done"],
                at=at,
            )
        return count

    async def users_to_embed(self, space: Space, seconds: float) -> AsyncIterator[str]:
        """Users who may have memories without a vector; nobody, unless this process claims to look after them now."""
        if not (await self._database.call("housekeeping.claim", chore=f"embed {space.mark}", seconds=seconds))[0][0]:
            return
        after = ""
        while True:
            async with over_all_users(self._database) as transaction:
                rows = await transaction.fetch(
                    "embeddings.users_to_embed", after=after, mark=space.mark, most=_USERS_OF_A_PAGE
                )
            for row in rows:
                yield row["user_id"]
            if len(rows) < _USERS_OF_A_PAGE:
                return
            after = rows[-1]["user_id"]

    async def spaces(self, user_id: str) -> dict[Space, int]:
        """Which vectors a user has, and how many of each kind."""
        async with self._database.transaction([user_id]) as transaction:
            rows = await transaction.fetch("embeddings.models", user_id=user_id)
        return {Space(row["model"], row["dimensions"]): row["vectors"] for row in rows}

    async def news(
        self, user_id: str, models: Sequence[str], incarnation: str | None, since: int, *, timeout: float | None = None
    ) -> NewVectors:
        """What changed of the vectors of some models since a version of an incarnation; everything of another one."""
        async with self._database.transaction(
            [user_id], isolation="repeatable_read", timeout=timeout or _LOAD_SECONDS
        ) as transaction:
            standing = await transaction.fetchrow("embeddings.standing", user_id=user_id, mark="")
            if standing is None:
                return NewVectors(None, 0, [], frozenset(), complete=True)
            complete = str(standing["incarnation"]) != incarnation
            since = -1 if complete else since
            rows: list[VectorRow] = []
            async for some in transaction.stream(
                "embeddings.changed_since", user_id=user_id, models=models, version=since
            ):
                rows += map(_vector_row, some)
            outdated: set[str] = set()
            if not complete:
                for row in await transaction.fetch(
                    "embeddings.of_changed_nodes", user_id=user_id, models=models, version=since
                ):
                    outdated.add(str(row["node_id"]))
                    if row["model"] is not None:
                        rows.append(_vector_row(row))
        return NewVectors(
            str(standing["incarnation"]), standing["version"], rows, frozenset(outdated), complete=complete
        )


def _vector_row(row: asyncpg.Record) -> VectorRow:
    stored = row["whole"] if row["half"] is None else row["half"]
    return VectorRow(str(row["node_id"]), row["field"], row["model"], stored.to_numpy().astype(np.float32))
