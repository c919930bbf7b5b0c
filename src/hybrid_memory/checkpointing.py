"""What a manager offers to graphs: a store, a checkpointer, and keeping of its checkpoints only what is wanted."""

from collections.abc import Iterable
from typing import cast

from langgraph.store.base import IndexConfig

from hybrid_memory.langgraph.checkpointer import HybridCheckpointer
from hybrid_memory.langgraph.serialisation import AllowedType
from hybrid_memory.langgraph.upstream import UpstreamCheckpointer
from hybrid_memory.memory.homes import Persists
from hybrid_memory.memory.namespaces import Namespaces
from hybrid_memory.observability import Events
from hybrid_memory.operating import Operating
from hybrid_memory.settings import Settings
from hybrid_memory.store import HybridStore, Reach
from hybrid_memory.wiring import Parts

CHECKPOINTS = "checkpoints"
_SWEEP_SECONDS = 600.0


class Checkpointing(Operating):
    """The part of a manager for graphs."""

    def __init__(
        self,
        settings: Settings,
        events: Events,
        allowed_types: Iterable[AllowedType],
        store_fields: list[str] | None = None,
        persist_user: Persists | None = None,
    ) -> None:
        super().__init__(settings, events, persist_user)
        allowed = tuple(allowed_types)
        self._checkpointer = HybridCheckpointer(
            settings=settings, allowed_types=allowed, state=self._state, events=events
        )
        index = IndexConfig(fields=store_fields)
        self._store = HybridStore(settings, index=index, reach=Reach(self._home, self._on_home, self._at_hand))
        self._upstream: UpstreamCheckpointer | None = None
        if settings.checkpointer == "upstream":
            directory = settings.data_dir.expanduser()
            self._upstream = UpstreamCheckpointer(directory, (*settings.allowed_types, *allowed), events)

    @property
    def checkpointer(self) -> HybridCheckpointer:
        """What `graph.compile(checkpointer=...)` takes. It needs SQLite alone and works before the manager is started.

        `HYBRID_MEMORY_CHECKPOINTER=upstream` makes it LangGraph's `AsyncSqliteSaver`, whatever the type says.

        Raises:
            ConfigurationError: it is the stock one, and the manager is not started.
        """
        return self._checkpointer if self._upstream is None else cast("HybridCheckpointer", self._upstream.saver)

    @property
    def store(self) -> HybridStore:
        """What `graph.compile(store=...)` takes, also before the manager is started: its first call starts it."""
        return self._store

    def store_namespace(self, user_id: str, *rest: str) -> tuple[str, ...]:
        """A namespace of the store whose items are memories of a user, whatever characters the id has.

        Raises:
            InvalidInput: the user id cannot be one.
        """
        return Namespaces(self._border).namespace_of(user_id, *rest)

    def _begin(self, parts: Parts) -> None:
        super()._begin(parts)
        every = self.settings.checkpoint_sweep_seconds
        parts.background.repeat(CHECKPOINTS, self._sweep_checkpoints, every=every, deadline=_SWEEP_SECONDS)

    async def _sweep_checkpoints(self) -> None:
        if self._state.exists:
            await self._checkpointer.asweep()

    async def _ready(self) -> Parts:
        parts = await super()._ready()
        if self._upstream is not None:
            await self._upstream.open()
            if self._closed:
                await self._upstream.close()
                self._check_open()
        return parts

    async def _close(self, timeout: float) -> None:
        try:
            if self._upstream is not None:
                await self._upstream.close()
        finally:
            await super()._close(timeout)
