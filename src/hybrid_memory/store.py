"""`HybridStore`: LangGraph's store over users' memories, for any thread and any event loop."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, cast

from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    IndexConfig,
    InvalidNamespaceError,
    NotProvided,
    Op,
    PutOp,
    Result,
    TTLConfig,
)

from hybrid_memory.blocking import HomeLoop
from hybrid_memory.embeddings.choosing import chosen
from hybrid_memory.embeddings.embedder import Embedder
from hybrid_memory.items import WHOLE
from hybrid_memory.langgraph.store_calls import StoreCalls
from hybrid_memory.langgraph.store_values import StoredItem
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.item_drafts import ItemDrafts
from hybrid_memory.memory.namespaces import Namespace, Namespaces
from hybrid_memory.observability import Events
from hybrid_memory.operating import Operating
from hybrid_memory.settings import Settings
from hybrid_memory.wiring import Parts

Answer = TypeVar("Answer")
# LangGraph keeps this root for itself.
_RESERVED_ROOT = "langgraph"


@dataclass(frozen=True, slots=True)
class Reach:
    """How what was made before a manager is started gets at its parts: they are opened by the first who does.

    `at_hand` gives them only where they are open and the caller is on their loop.
    """

    home: HomeLoop
    parts: Callable[[Callable[[Parts], Awaitable[Any]]], Awaitable[Any]]
    at_hand: Callable[[], Parts | None]


class HybridStore(BaseStore):
    """Items as memories: what is stored here is recalled, counted and erased like every other memory of its owner.

    `manager.store` is one on the manager's connections. One that is made alone opens its own with its first call:

        async with HybridStore() as store:
            await store.aput(("memories", "nick"), "tea", {"text": "prefers tea"})

    Below `("memories", user)` and `("users", user)` items are memories of that user. Every call works in any thread and
    any event loop, but a call without `await` on the loop of the manager raises `WrongThread`.

    Args:
        settings: how to reach the databases; from the environment when None.
        ttl: LangGraph's configuration of expiry; the settings when None. What has expired is never given.
        index: LangGraph's configuration of a search by vectors: `embed`, and the `fields` that are searched of an item
            stored without `index`. The settings name the embedder when None, and a manager has its own.
        freshness: `bounded` or `strong`; that of the settings when None.
        events: where to report.
        reach: for a manager, which hands its own parts in.
    """

    supports_ttl = True

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        ttl: TTLConfig | None = None,
        index: IndexConfig | None = None,
        freshness: Literal["bounded", "strong"] | None = None,
        events: Events | None = None,
        reach: Reach | None = None,
    ) -> None:
        self.settings = settings or Settings()
        minutes = self.settings.store_ttl_minutes
        self.ttl_config = ttl or (None if minutes is None else TTLConfig(default_ttl=minutes))
        self._strong = (freshness or self.settings.store_freshness) == "strong"
        fields = list((index or {}).get("fields") or [WHOLE])
        self._index = None if fields == [WHOLE] else fields
        border = Border(self.settings)
        self._namespaces, self._drafts = Namespaces(border), ItemDrafts(border)
        self._alone: _Alone | None = None
        if reach is None:
            embedder = chosen(index if index and index.get("embed") else None, self.settings)
            self._alone = _Alone(self.settings, events or Events(), embedder)
            reach = self._alone.reach
        self._reach = reach
        self._calls: tuple[Parts, StoreCalls] | None = None

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations and answer in their order; reads among them see what was there before.

        Of two writes of one item the last counts. One that fails fails alone: its error is raised when the others are
        done.
        """
        wanted = list(ops)
        return await self._on_home(lambda calls: calls.all(wanted))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """The same without `await`.

        Raises:
            WrongThread: this is the thread of the manager's event loop, which would wait for itself.
        """
        wanted = list(ops)
        return self._reach.home.run_blocking(lambda: self._on_home(lambda calls: calls.all(wanted)))

    def get(self, namespace: Namespace, key: str, *, refresh_ttl: bool | None = None) -> StoredItem | None:
        """An item, which knows its version; None where there is none."""
        return cast("StoredItem | None", super().get(namespace, key, refresh_ttl=refresh_ttl))

    async def aget(self, namespace: Namespace, key: str, *, refresh_ttl: bool | None = None) -> StoredItem | None:
        """An item, which knows its version; None where there is none."""
        parts = self._reach.at_hand()
        held = None if parts is None else self._calls_of(parts).held(namespace, str(key))
        return held or cast("StoredItem | None", await super().aget(namespace, key, refresh_ttl=refresh_ttl))

    async def aput_if_version(
        self,
        namespace: Namespace,
        key: str,
        value: Mapping[str, Any],
        version: int | None,
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> int | None:
        """Store an item only if it has this version (`item.version`), or, for None, only if there is none.

        Returns:
            The version it has now; None when another one is there, and nothing was stored.

        Raises:
            StorageUnavailable: Postgres does not answer, or writes of this owner wait for it.
        """
        op = self._put(namespace, key, value, index, ttl)
        return await self._on_home(lambda calls: calls.put_if_version(op, version))

    def put_if_version(
        self,
        namespace: Namespace,
        key: str,
        value: Mapping[str, Any],
        version: int | None,
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> int | None:
        """The same without `await`."""
        op = self._put(namespace, key, value, index, ttl)
        return self._reach.home.run_blocking(lambda: self._on_home(lambda calls: calls.put_if_version(op, version)))

    async def aclose(self) -> None:
        """Close what was opened; the store of a manager is closed with it."""
        if self._alone is not None:
            await self._alone.aclose()

    async def __aenter__(self) -> Self:
        if self._alone is not None:
            await self._alone.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        if self._alone is not None:
            self._alone.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._alone is not None:
            self._alone.__exit__(*problem)

    async def _on_home(self, work: Callable[[StoreCalls], Awaitable[Answer]]) -> Answer:
        answer: Answer = await self._reach.parts(lambda parts: work(self._calls_of(parts)))
        return answer

    def _calls_of(self, parts: Parts) -> StoreCalls:
        if self._calls is None or self._calls[0] is not parts:
            calls = StoreCalls(
                parts.items, parts.item_search, self._namespaces, self._drafts, self._strong, self._index
            )
            self._calls = (parts, calls)
        return self._calls[1]

    def _put(
        self,
        namespace: Namespace,
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None,
        ttl: float | NotProvided | None,
    ) -> PutOp:
        if not namespace or namespace[0] == _RESERVED_ROOT:
            raise InvalidNamespaceError(
                f"a namespace must not be empty or begin with {_RESERVED_ROOT!r}: {namespace!r}"
            )
        minutes = (self.ttl_config or {}).get("default_ttl") if isinstance(ttl, NotProvided) else ttl
        return PutOp(tuple(namespace), str(key), value, index, minutes)


class _Alone(Operating):
    """The manager of a store that has none."""

    def __init__(self, settings: Settings, events: Events, embedder: Embedder | None) -> None:
        super().__init__(settings, events)
        self._embedder = embedder

    @property
    def reach(self) -> Reach:
        """The way to its parts."""
        return Reach(self._home, self._on_home, self._at_hand)
