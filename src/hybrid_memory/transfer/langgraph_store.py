"""Items from the tables of LangGraph's Postgres store, with their vectors.

An item carries the moment of its last change there as the stamp that decides between two writes: repeating an import
brings what is new there, and neither undoes what was changed here later nor brings back what was deleted here.
"""

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg

from hybrid_memory import queries
from hybrid_memory.embeddings.choosing import chosen
from hybrid_memory.errors import ConfigurationError, InvalidInput, StorageRejected
from hybrid_memory.items import WHOLE, Index
from hybrid_memory.memory.border import GIVEN_VECTOR, Border
from hybrid_memory.memory.identity import new_id
from hybrid_memory.memory.item_drafts import ItemDraft, ItemDrafts
from hybrid_memory.memory.namespaces import Namespaces
from hybrid_memory.memory.texts import CONTENT
from hybrid_memory.models import NEVER_WRITTEN_BY
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Batches, Embedding, Operation
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.schema import connected
from hybrid_memory.postgres.target import target_of
from hybrid_memory.settings import Settings

_PAGE = 500
_OPERATIONS = 100
_MOST_REFUSALS = 20
# LangGraph leaves the vectors of what an item said before, when it is no longer searched by them.
_STALE = timedelta(seconds=60)
_NUMBERED = re.compile(r"(.*[\[\]{}*].*)\.\d+")

Progress = Callable[[int, int], object]
_Key = tuple[str, str]


@dataclass(slots=True)
class Imported:
    """What became of an import: how many items were looked at, how many are new or newer here, and their vectors.

    `refused` counts items that cannot be memories; `reasons` tells of the first ones.
    """

    looked_at: int = 0
    new: int = 0
    vectors: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)

    def refuse(self, address: str, reason: object) -> None:
        """Count one more."""
        self.refused += 1
        if len(self.reasons) < _MOST_REFUSALS:
            self.reasons.append(f"{address}: {reason}")


async def import_langgraph_store(
    dsn: str,
    settings: Settings,
    *,
    model: str | None = None,
    progress: Progress | None = None,
    events: Events | None = None,
) -> Imported:
    """Bring the items of a LangGraph Postgres store here; it is only read.

    Args:
        dsn: the database that holds `store`.
        settings: where they go.
        model: the model that made the vectors; the embedder of the settings when None.
        progress: hears how many of how many items were looked at.
        events: where to report.

    Raises:
        ConfigurationError: there is no such store, or no Postgres of ours.
        StorageUnavailable: a server did not answer; what was brought before stays.
    """
    if settings.memory_type == "sqlite":
        raise ConfigurationError("items are imported into Postgres, which MEMORY_TYPE=sqlite leaves out")
    events = events or Events()
    if model is None:
        embedder = chosen(None, settings)
        model = GIVEN_VECTOR if embedder is None else embedder.model
    async with connected(target_of("DSN", dsn), settings) as connection:
        source = _Source(connection)
        total = await source.count()
        async with _target(settings, events) as link:
            writing = _Writing(Batches(link, new_id()), Border(settings), model)
            async for page in source.pages():
                await writing.write(page)
                if progress is not None:
                    progress(writing.imported.looked_at, max(total, writing.imported.looked_at))
            return writing.imported


@asynccontextmanager
async def _target(settings: Settings, events: Events) -> AsyncIterator[Link]:
    link = Link(settings, events)
    await link.start()
    try:
        yield link
    finally:
        await link.close()


@dataclass(frozen=True, slots=True)
class _Item:
    """An item as it is there, and its vectors; None where the store has none at all."""

    row: asyncpg.Record
    vectors: Mapping[str, Sequence[float]] | None

    @property
    def namespace(self) -> tuple[str, ...]:
        return tuple(self.row["prefix"].split(".")) if self.row["prefix"] else ()


class _Source:
    """The tables of LangGraph's store."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self._sql = {name: query.text for name, query in queries.load("langgraph").items()}
        self._searched = False

    async def count(self) -> int:
        """How many items there are."""
        searched = await self._connection.fetchval(self._sql["store.has_vectors"])
        if searched is None:
            raise ConfigurationError("there is no table `store` of langgraph-checkpoint-postgres in that database")
        self._searched = searched
        total: int = await self._connection.fetchval(self._sql["store.count"])
        return total

    async def pages(self) -> AsyncIterator[list[_Item]]:
        """All items as they are at one moment, those that changed first coming first."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            cursor = await self._connection.cursor(self._sql["store.items"])
            while rows := await cursor.fetch(_PAGE):
                vectors = await self._vectors(rows) if self._searched else None
                yield [
                    _Item(row, None if vectors is None else vectors.get((row["prefix"], row["key"]), {}))
                    for row in rows
                ]

    async def _vectors(self, rows: Sequence[asyncpg.Record]) -> dict[_Key, dict[str, Sequence[float]]]:
        changed = {(row["prefix"], row["key"]): row["updated_at"] for row in rows}
        prefixes, keys = zip(*changed, strict=True)
        found: defaultdict[_Key, dict[str, Sequence[float]]] = defaultdict(dict)
        for row in await self._connection.fetch(self._sql["store.vectors"], list(prefixes), list(keys)):
            address = (row["prefix"], row["key"])
            if row["embedding"] is not None and row["updated_at"] >= changed[address] - _STALE:
                found[address][row["field"]] = row["embedding"]
        return found


class _Writing:
    """Items on their way into memories."""

    def __init__(self, batches: Batches, border: Border, model: str) -> None:
        self._batches = batches
        self._border = border
        self._namespaces = Namespaces(border)
        self._drafts = ItemDrafts(border)
        self._model = model
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self.imported = Imported()

    async def write(self, items: Iterable[_Item]) -> None:
        """Write them, owner by owner; what cannot be a memory is left out and told."""
        operations: defaultdict[str, list[Operation]] = defaultdict(list)
        for item in items:
            self.imported.looked_at += 1
            try:
                draft, vectors = self._drafted(item)
            except InvalidInput as error:
                self.imported.refuse(f"{item.row['prefix']} {item.row['key']}", error)
                continue
            owner = draft.address.owner
            self._numbers[owner] += 1
            operations[owner].append(Operation(self._numbers[owner], "nodes", draft.row, vectors))
        for owner, many in operations.items():
            for start in range(0, len(many), _OPERATIONS):
                await self._apply(owner, many[start : start + _OPERATIONS])

    async def _apply(self, owner: str, operations: Sequence[Operation]) -> None:
        try:
            applied = (await self._batches.apply({owner: operations}, echo=[owner]))[owner]
        except StorageRejected as error:
            if len(operations) == 1:
                self.imported.refuse(f"{operations[0].row['namespace']} {operations[0].row['key']}", error)
                return
            for operation in operations:
                await self._apply(owner, [operation])
            return
        written = {node.node_id for node in applied.written.nodes} if applied.written else set()
        self.imported.new += len(written)
        self.imported.vectors += sum(len(one.embeddings) for one in operations if one.row["node_id"] in written)

    def _drafted(self, item: _Item) -> tuple[ItemDraft, tuple[Embedding, ...]]:
        row, vectors = item.row, item.vectors
        address = self._namespaces.address(item.namespace, row["key"])
        draft = self._drafts.draft(address, json.loads(row["value"]), _index_of(vectors), row["ttl_minutes"] or None)
        kept: dict[str, Any] = {
            "created_at": row["created_at"].isoformat(),
            "written_at": row["updated_at"].isoformat(),
            "written_by": NEVER_WRITTEN_BY,
            "expires_at": row["expires_at"] and row["expires_at"].isoformat(),
        }
        embeddings = tuple(
            Embedding(
                self._model,
                self._border.vector(values, f"vector of {path}"),
                draft.row["content_hash"],
                CONTENT if path == WHOLE else path,
            )
            for path, values in (vectors or {}).items()
        )
        return ItemDraft(address, {**draft.row, **kept}), embeddings


def _index_of(vectors: Mapping[str, Any] | None) -> Index:
    """What of an item is searched, as its vectors tell; several texts at one path have vectors with numbers."""
    if vectors is None or vectors.keys() == {WHOLE}:
        return None
    paths = dict.fromkeys(found[1] if (found := _NUMBERED.fullmatch(path)) else path for path in sorted(vectors))
    return list(paths) or False
