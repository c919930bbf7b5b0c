"""What a store that writes through can reach at best: one statement for what came together, and nothing around it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

import asyncpg
import numpy as np
import numpy.typing as npt
from pgvector import Vector
from pgvector.asyncpg import register_vector

from hybrid_memory.postgres.target import Target
from tests.benchmarks.runner import Contender

Vectors = Callable[[int], npt.NDArray[np.float32]]
# The published store's own table, beside it; the vectors' has no index of vectors.
_TABLES = """
create table items_of_floor (like store including all);
create table vectors_of_floor (prefix text, key text, field_name text, embedding public.vector(384),
                               primary key (prefix, key, field_name));
"""
_ITEMS = """
insert into items_of_floor (prefix, key, value)
select prefix, key, value::jsonb from unnest($1::text[], $2::text[], $3::text[]) as sent (prefix, key, value)
on conflict (prefix, key) do update set value = excluded.value, updated_at = current_timestamp
"""
_VECTORS = """
insert into vectors_of_floor (prefix, key, field_name, embedding)
select prefix, key, 'text', embedding
from unnest($1::text[], $2::text[], $3::public.vector[]) as sent (prefix, key, embedding)
on conflict (prefix, key, field_name) do update set embedding = excluded.embedding
"""


class Floor:
    """Rows for tables like those of `AsyncPostgresStore`, which has to be set up already."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", vectors: Vectors | None) -> None:
        self._pool = pool
        self._vectors = vectors
        self._numbers = count()

    def items(self, rows: int, times: int, users: int) -> Contender:
        """So many statements one after another, each with so many rows."""

        async def run() -> None:
            for _ in range(times):
                prefixes, keys, values = self._rows(rows, users)
                await self._pool.execute(_ITEMS, prefixes, keys, values)

        return Contender(f"one INSERT of {rows} rows, raw asyncpg", run, rows * times)

    def items_with_vectors(self, rows: int, times: int, users: int) -> Contender:
        """The same, each with a second statement for the rows' vectors in the same transaction."""
        nth = self._vectors
        if nth is None:
            raise ValueError("there are no vectors to insert")

        async def run() -> None:
            for _ in range(times):
                prefixes, keys, values = self._rows(rows, users)
                vectors = [Vector(nth(int(key))) for key in keys]
                async with self._pool.acquire() as connection, connection.transaction():
                    await connection.execute(_ITEMS, prefixes, keys, values)
                    await connection.execute(_VECTORS, prefixes, keys, vectors)

        return Contender(f"INSERT of {rows} rows, INSERT of vectors, asyncpg", run, rows * times)

    def _rows(self, rows: int, users: int) -> tuple[list[str], list[str], list[str]]:
        keys = [str(next(self._numbers)) for _ in range(rows)]
        prefixes = [f"memories.user {place % users}" for place in range(rows)]
        return prefixes, keys, [json.dumps({"text": key}) for key in keys]


@asynccontextmanager
async def floor_in(target: Target, vectors: Vectors | None = None) -> AsyncIterator[Floor]:
    """On tables of its own in that database."""
    async with asyncpg.create_pool(**target.asyncpg_arguments(), min_size=2, max_size=4, init=register_vector) as pool:
        await pool.execute(_TABLES)
        yield Floor(pool, vectors)
