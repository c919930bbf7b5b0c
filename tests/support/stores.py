"""Stores for the conformance suite; the database is the one that the environment names."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from langgraph.store.base import IndexConfig, TTLConfig
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig

from hybrid_memory import HybridStore, Settings

DSN = "STORE_DSN"


def in_memory(index: IndexConfig) -> InMemoryStore:
    return InMemoryStore(index=index)


@asynccontextmanager
async def upstream_postgres(index: IndexConfig) -> AsyncIterator[AsyncPostgresStore]:
    """As good as it can be configured: expired items are left out."""
    vectors, ttl = PostgresIndexConfig(dims=index["dims"], embed=index["embed"]), TTLConfig(omit_expired=True)
    async with AsyncPostgresStore.from_conn_string(os.environ[DSN], index=vectors, ttl=ttl) as store:
        await store.setup()
        yield store


def hybrid(index: IndexConfig) -> HybridStore:
    """As it is by default: by words and vectors."""
    return HybridStore(Settings(data_dir=Path("data"), database_url=os.environ[DSN]), index=index)


def hybrid_by_vectors(index: IndexConfig) -> HybridStore:
    """In the mode whose scores are those of LangGraph's stores."""
    settings = Settings(data_dir=Path("data"), database_url=os.environ[DSN], store_search="vector")
    return HybridStore(settings, index=index)
