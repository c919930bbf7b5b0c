"""`HybridCheckpointer`: LangGraph's checkpointer on `state.db`, for any thread and any event loop."""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from hybrid_memory.langgraph.addresses import address_of, checkpoint_id_of, config_of, namespace_of
from hybrid_memory.langgraph.restoring import restored, restored_history
from hybrid_memory.langgraph.storing import StoredPut, StoredWrites, filter_json
from hybrid_memory.langgraph.threads import ThreadCalls
from hybrid_memory.sqlite.checkpoints import reading
from hybrid_memory.sqlite.checkpoints.history import histories
from hybrid_memory.sqlite.checkpoints.listing import Listing, Selection
from hybrid_memory.sqlite.checkpoints.reading import NotRead
from hybrid_memory.sqlite.checkpoints.rows import Address, StoredCheckpoint
from hybrid_memory.sqlite.connection import Statements

_PAGE = 25


class _Named(TypedDict):
    address: Address
    checkpoint_id: str | None


class HybridCheckpointer(ThreadCalls):
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

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - the interface is LangGraph's
        """A version later than `current`, which no other branch of the thread gives to its values."""
        number = 0 if current is None else int(str(current).partition(".")[0])
        return f"{str(number + 1).zfill(32)}.{str(random.getrandbits(48)).zfill(15)}"

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint a config names, or the newest of its thread."""
        return self._state.database().read_blocking(self._getting(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint a config names, or the newest of its thread."""
        if (opened := self._state.opened) is not None:
            # A small one is read sooner than a thread could be asked to read it.
            found = opened.read_blocking(partial(reading.one_if_small, **self._named(config)))
            if found is NotRead.MEDIUM:
                async with self._turns.one():
                    return opened.read_blocking(self._getting(config))
            if found is not NotRead.LARGE:
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
        database = self._state.database()
        memory = self._memory_of(database)
        put = StoredPut(self._serialisation, memory, self._elements, config, checkpoint, metadata, new_versions)
        put.prepare()
        database.write_blocking(put, durable=self._durable)
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
        database = await self._database()
        memory = self._memory_of(database)
        put = StoredPut(self._serialisation, memory, self._elements, config, checkpoint, metadata, new_versions)
        if light := not put.is_heavy:
            put.prepare()
        await database.write(put, durable=self._durable, light=light)
        put.done()
        return config_of(put.address, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; it is durable when this returns, and before a later put is."""
        database = self._state.database()
        stored = StoredWrites(self._serialisation, self._memory_of(database), config, writes, task_id, task_path)
        stored.prepare()
        database.write_blocking(stored, durable=self._durable)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote; it is durable when this returns, and before a later put is."""
        database = await self._database()
        stored = StoredWrites(self._serialisation, self._memory_of(database), config, writes, task_id, task_path)
        if light := not stored.is_heavy:
            stored.prepare()
        # LangGraph puts the checkpoint of the step next, and waits for neither.
        await database.write(stored, durable=self._durable, light=light, followed=True)

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
        self._listing = Listing(selection)
        self._left = limit
        self.ended = limit is not None and limit <= 0

    def next(self, sql: Statements) -> Sequence[StoredCheckpoint]:
        """The next page."""
        size = _PAGE if self._left is None else min(_PAGE, self._left)
        found = self._listing.page(sql, size)
        self._left = None if self._left is None else self._left - len(found)
        self.ended = len(found) < size or self._left == 0
        return found


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
