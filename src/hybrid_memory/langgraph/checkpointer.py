"""`HybridCheckpointer`: LangGraph's checkpointer on `state.db`, for any thread and any event loop."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from hybrid_memory.errors import InvalidInput
from hybrid_memory.langgraph.addresses import address_of, checkpoint_id_of, config_of, namespace_of, thread_id_of
from hybrid_memory.langgraph.elements import KnownElements
from hybrid_memory.langgraph.restoring import restored, restored_history
from hybrid_memory.langgraph.serialisation import AllowedType, Serialisation, strict
from hybrid_memory.langgraph.storing import StoredPut, StoredWrites, filter_json
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.checkpoints import reading, upkeep
from hybrid_memory.sqlite.checkpoints.history import histories
from hybrid_memory.sqlite.checkpoints.reading import TOO_LARGE, Selection
from hybrid_memory.sqlite.checkpoints.remembering import Memory
from hybrid_memory.sqlite.checkpoints.rows import Address, StoredCheckpoint
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.state import StateFile

T = TypeVar("T")

_PAGE = 25
_VERSION_DIGITS = 32


class _Named(TypedDict):
    address: Address
    checkpoint_id: str | None


class HybridCheckpointer(BaseCheckpointSaver[str]):
    """Checkpoints in `state.db` of a data directory. It opens the file when it is first used.

    Every call works in any thread and any event loop. What a call has stored is durable when it returns.

        with HybridCheckpointer("./data") as checkpointer:
            graph = builder.compile(checkpointer=checkpointer)

    Args:
        data_dir: where `state.db` is; that of the settings when None.
        settings: from the environment when None.
        serde: how values become bytes; an `EncryptedSerializer`, for example. LangGraph's own one is made strict.
        allowed_types: types that may come back from a checkpoint besides the safe ones, as `Order` or `"shop:Order"`;
            they add to those of the settings.
        durability: `full`, which survives a loss of power, or `normal`, which survives the end of the process; that of
            the settings when None.
        events: where to report.
    """

    def __init__(  # noqa: PLR0913 - each has a default
        self,
        data_dir: Path | str | None = None,
        *,
        settings: Settings | None = None,
        serde: SerializerProtocol | None = None,
        allowed_types: Iterable[AllowedType] = (),
        durability: Literal["full", "normal"] | None = None,
        events: Events | None = None,
        state: StateFile | None = None,
    ) -> None:
        settings = settings or Settings()
        super().__init__(serde=strict(serde, (*settings.allowed_types, *allowed_types)))
        directory = settings.data_dir if data_dir is None else Path(data_dir)
        self._durable = (durability or settings.checkpoint_durability) == "full"
        self._state = state or StateFile(directory.expanduser(), events or Events())
        self._memory = Memory()
        self._elements = KnownElements()
        self._serialisation_made = Serialisation(self.serde)

    def close(self) -> None:
        """Commit what is queued and close the file; the next call opens it again."""
        self._state.close()

    async def aclose(self) -> None:
        """The same without blocking the event loop."""
        await asyncio.to_thread(self._state.close)

    def __enter__(self) -> Self:
        self._state.database()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._database()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - the interface is LangGraph's
        """A version later than `current`, which no other branch of the thread gives to its values."""
        number = 0 if current is None else int(str(current).split(".")[0])
        return f"{number + 1:0{_VERSION_DIGITS}}.{random.getrandbits(48):015}"

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint a config names, or the newest of its thread."""
        return self._state.database().read_blocking(self._getting(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint a config names, or the newest of its thread."""
        if (opened := self._state.opened) is not None:
            # A small one is read sooner than a thread could be asked to read it.
            found = opened.read_blocking(partial(reading.one_if_small, **self._named(config)))
            if found is not TOO_LARGE:
                return None if found is None else restored(self._serialisation, found)
        return await (await self._database()).read(self._getting(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the interface is LangGraph's
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; nothing is held open between two of them."""
        pages = _Pages(_selection(config, filter, before), limit)
        while not pages.ended:
            found = self._state.database().read_blocking(pages.next)
            for stored in found:
                yield restored(self._serialisation, stored)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - the interface is LangGraph's
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first; nothing is held open between two of them."""
        pages = _Pages(_selection(config, filter, before), limit)
        serialisation = self._serialisation
        while not pages.ended:
            database = await self._database()
            for one in await database.read(lambda sql: [restored(serialisation, found) for found in pages.next(sql)]):
                yield one

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; it is durable when this returns.

        Raises:
            InvalidInput: something in it cannot be stored, or may not come back; the text names it.
            StorageUnavailable: not stored.
        """
        put = StoredPut(self._serialisation, self._memory, self._elements, config, checkpoint, metadata, new_versions)
        put.prepare()
        self._state.database().write_blocking(put.job, durable=self._durable)
        put.done()
        return config_of(put.address, checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; it is durable when this returns. Errors as in `put`."""
        put = StoredPut(self._serialisation, self._memory, self._elements, config, checkpoint, metadata, new_versions)
        if not put.is_heavy:
            put.prepare()
        await (await self._database()).write(put.job, durable=self._durable)
        put.done()
        return config_of(put.address, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; it is durable when this returns, and before a later put is."""
        stored = StoredWrites(self._serialisation, self._memory, config, writes, task_id, task_path)
        if not stored.is_heavy:
            stored.prepare()
        self._state.database().write_blocking(stored.job, durable=self._durable)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; it is durable when this returns, and before a later put is."""
        stored = StoredWrites(self._serialisation, self._memory, config, writes, task_id, task_path)
        stored.prepare()
        await (await self._database()).write(stored.job, durable=self._durable)

    def delete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread; no row of it is left."""
        self._state.database().write_blocking(partial(upkeep.remove_thread, thread_id=thread_id_of(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread; no row of it is left."""
        await (await self._database()).write(partial(upkeep.remove_thread, thread_id=thread_id_of(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs with their writes.

        What a DeltaChannel of a remaining checkpoint is rebuilt from stays in the file, out of sight.
        """
        database = self._state.database()
        found = database.read_blocking(partial(upkeep.checkpoints_of_runs, run_ids=_texts(run_ids)))
        if found:
            database.write_blocking(partial(upkeep.remove_checkpoints, by_line=found))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs with their writes; DeltaChannels as in `delete_for_runs`."""
        database = await self._database()
        found = await database.read(partial(upkeep.checkpoints_of_runs, run_ids=_texts(run_ids)))
        if found:
            await database.write(partial(upkeep.remove_checkpoints, by_line=found))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints, of all namespaces, and their writes to a thread that has none.

        Raises:
            InvalidInput: it has some.
        """
        self._state.database().write_blocking(_copying(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints, of all namespaces, and their writes to a thread that has none."""
        await (await self._database()).write(_copying(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but the newest checkpoint of each namespace, or (`delete`) the threads.

        What a DeltaChannel of a remaining checkpoint is rebuilt from stays in the file, out of sight.
        """
        for job in _pruning(thread_ids, strategy):
            self._state.database().write_blocking(job)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but the newest checkpoint of each namespace, or (`delete`) the threads; as in `prune`."""
        for job in _pruning(thread_ids, strategy):
            await (await self._database()).write(job)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint wrote to channels, and the nearest values before that."""
        return self._state.database().read_blocking(self._telling(config, channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint wrote to channels, and the nearest values before that."""
        return await (await self._database()).read(self._telling(config, channels))

    def _telling(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Callable[[Statements], Mapping[str, DeltaChannelHistory]]:
        address, checkpoint_id, serialisation = address_of(config), checkpoint_id_of(config), self._serialisation
        return lambda sql: {
            channel: restored_history(serialisation, channel, found)
            for channel, found in histories(sql, address, checkpoint_id, channels).items()
        }

    @property
    def _serialisation(self) -> Serialisation:
        """The one of the serializer in use: LangGraph gives a copy of the checkpointer another one."""
        if self._serialisation_made.serde is not self.serde:
            self._serialisation_made = Serialisation(self.serde)
        return self._serialisation_made

    async def _database(self) -> Database:
        opened = self._state.opened
        return await asyncio.to_thread(self._state.database) if opened is None else opened

    def _getting(self, config: RunnableConfig) -> Callable[[Statements], CheckpointTuple | None]:
        named, serialisation = self._named(config), self._serialisation

        def get(sql: Statements) -> CheckpointTuple | None:
            stored = reading.one(sql, **named)
            return None if stored is None else restored(serialisation, stored)

        return get

    @staticmethod
    def _named(config: RunnableConfig) -> _Named:
        return {"address": address_of(config), "checkpoint_id": checkpoint_id_of(config)}


class _Pages:
    """A listing, page by page."""

    def __init__(self, selection: Selection, limit: int | None) -> None:
        self._selection = selection
        self._left = limit
        self._last: StoredCheckpoint | None = None
        self.ended = limit is not None and limit <= 0

    def next(self, sql: Statements) -> Sequence[StoredCheckpoint]:
        """The next page."""
        size = _PAGE if self._left is None else min(_PAGE, self._left)
        found = reading.page(sql, self._selection, self._last, size)
        self._left = None if self._left is None else self._left - len(found)
        self.ended = len(found) < size or self._left == 0
        self._last = found[-1] if found else None
        return found


def _texts(values: Iterable[object]) -> Sequence[str]:
    return [str(value) for value in values]


def _copying(source: str, target: str) -> Callable[[Statements], None]:
    return partial(upkeep.copy_thread, source=thread_id_of(source), target=thread_id_of(target))


def _pruning(thread_ids: Iterable[str], strategy: str) -> Sequence[Callable[[Statements], object]]:
    """One job per thread, so that others get in between."""
    if strategy == "delete":
        return [partial(upkeep.remove_thread, thread_id=thread_id_of(one)) for one in thread_ids]
    if strategy == "keep_latest":
        return [
            partial(upkeep.reduce_thread, thread_id=thread_id_of(one), choice=upkeep.keep_latest) for one in thread_ids
        ]
    raise InvalidInput(f"strategy: keep_latest or delete, not {strategy!r}")


def _selection(
    config: RunnableConfig | None, wanted: dict[str, Any] | None, before: RunnableConfig | None
) -> Selection:
    return Selection(
        thread_id=address_of(config).thread_id if config else None,
        namespace=namespace_of(config) if config else None,
        checkpoint_id=checkpoint_id_of(config),
        before=checkpoint_id_of(before),
        filter=filter_json(wanted),
    )
