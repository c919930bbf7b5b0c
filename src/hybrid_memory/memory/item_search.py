"""Finding items below a namespace: by filters, by a question, page by page, of one owner or of all."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

from hybrid_memory.errors import InvalidInput, StorageUnavailable
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.items import is_searched
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.item_index import ItemIndex, newest_first
from hybrid_memory.memory.large_users import LargeUsers
from hybrid_memory.memory.namespaces import Namespace, Namespaces, may_own
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.store_items import StoredItems
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import MemoryNode
from hybrid_memory.settings import Settings

_OWNERS_AT_ONCE = 8
# Of owners who are not loaded: so many items are read at first, and so many times more as long as too few pass.
_FEWEST_READ = 200
_MORE = 8

Mode = Literal["hybrid", "vector"]
Admits = Callable[[MemoryNode], bool]
Scored = tuple[MemoryNode, float]
Found = tuple[MemoryNode, float | None]


class Ranking(Protocol):
    """How an owner's items are ranked for a question."""

    async def ranked(
        self, memory: UserMemory, query: str, admits: Admits, most: int, *, mode: Mode = "hybrid"
    ) -> Sequence[Scored]:
        """Those that the question is about, the best first, at most so many.

        Args:
            memory: the owner's.
            query: what is asked, in words.
            admits: which memories may be given.
            most: how many are wanted.
            mode: `vector` scores by the cosine alone, and gives nothing that has no vector.
        """


@dataclass(frozen=True, slots=True)
class Wanted:
    """One search. Its page is `limit` items after `offset`."""

    prefix: Namespace
    admits: Admits | None
    query: str | None
    limit: int
    offset: int
    strong: bool

    @property
    def most(self) -> int:
        """How many there have to be for the page to be full."""
        return self.offset + self.limit


class ItemSearch:
    """Searches and lists items. Belongs to the manager's loop."""

    def __init__(
        self,
        namespaces: Namespaces,
        rows: StoredItems,
        sessions: Sessions,
        accesses: Accesses,
        ranking: Ranking,
        large: LargeUsers | None,
        settings: Settings,
    ) -> None:
        self._namespaces = namespaces
        self._rows = rows
        self._sessions = sessions
        self._accesses = accesses
        self._ranking = ranking
        self._large = large
        self._settings = settings
        self._indexes: WeakKeyDictionary[UserMemory, ItemIndex] = WeakKeyDictionary()

    async def found(self, wanted: Wanted) -> list[Found]:
        """The page: by score where something is asked, without a question the newest change first.

        What the question is not about follows with score 0, what is not searched, or has no vector to go by, with none.

        Raises:
            InvalidInput: the items are of several owners, and looking at all of them is switched off.
            StorageUnavailable: it has to be current or is of several owners, and Postgres does not answer.
        """
        if wanted.limit == 0:
            return []
        owner = self._namespaces.owner_below(wanted.prefix)
        if owner is not None:
            best = await self._of_owner(owner, wanted)
        else:
            best = []
            async for owners in self._owners(wanted.prefix):
                pages = await asyncio.gather(*(self._of_one_of_many(one, wanted) for one in owners))
                best = _merged((best, *pages))[: wanted.most]
        page = best[wanted.offset : wanted.most]
        if wanted.query:
            for one in {node.user_id for node, _ in page}:
                self._accesses.count(one, [node.node_id for node, _ in page if node.user_id == one])
        return page

    async def namespaces(self, prefix: Namespace, *, strong: bool) -> set[Namespace]:
        """The namespaces below that hold items."""
        owner = self._namespaces.owner_below(prefix)
        if owner is not None:
            if await self._is_large(owner):
                found = await self._rows.namespaces(owner, utc_now())
            else:
                memory = await self._memory(owner, strong=strong)
                found = self._index_of(memory).namespaces(memory.snapshot())
            return {one for one in found if one[: len(prefix)] == prefix}
        everywhere: set[Namespace] = set()
        async for owners in self._owners(prefix):
            lists = await asyncio.gather(*(self._namespaces_of(one, strong=strong) for one in owners))
            everywhere.update(one for one in chain.from_iterable(lists) if one[: len(prefix)] == prefix)
        return everywhere

    async def _of_owner(self, owner: str, wanted: Wanted) -> list[Found]:
        if self._large is not None and await self._is_large(owner):
            try:
                return await self._of_large_owner(self._large, owner, wanted)
            except StorageUnavailable:
                # What took too long must not end in loading all of him; what is away is answered from what is here.
                if wanted.strong or await self._is_large(owner):
                    raise
        memory = await self._memory(owner, strong=wanted.strong)
        if not wanted.query:
            return _first(self._below(memory, wanted), wanted)
        mode = self._settings.store_search
        hits = await self._ranking.ranked(memory, wanted.query, _searched(wanted), wanted.most, mode=mode)
        # What is below is put in order only where the hits leave room for it.
        return _followed(hits, () if len(hits) >= wanted.most else self._below(memory, wanted), wanted, mode)

    async def _of_large_owner(self, large: LargeUsers, owner: str, wanted: Wanted) -> list[Found]:
        """The same of somebody who is not to be loaded for it."""
        if not wanted.query:
            return [(node, None) for node in await self._newest(owner, wanted)]
        mode = self._settings.store_search
        hits = await large.ranked(owner, wanted.query, wanted.prefix, _searched(wanted), wanted.most, mode=mode)
        below: list[MemoryNode] = []
        for passes in (is_searched, lambda node: not is_searched(node)):
            if len(hits) + len(below) < wanted.most:
                below += await self._newest(owner, wanted, besides={node.node_id for node, _ in hits}, passes=passes)
        return _followed(hits, below, wanted, mode)

    async def _of_one_of_many(self, owner: str, wanted: Wanted) -> list[Found]:
        """The same, without loading somebody who was only met on the way, unless a question has to be answered."""
        if wanted.query or self._is_here(owner):
            return await self._of_owner(owner, wanted)
        return [(node, None) for node in await self._newest(owner, wanted)]

    async def _newest(
        self, owner: str, wanted: Wanted, *, besides: Collection[str] = (), passes: Admits = lambda _: True
    ) -> list[MemoryNode]:
        """The newest of an owner who is not here that pass, as many as fill the page."""
        admits, most = wanted.admits, max(_FEWEST_READ, 2 * (wanted.most + len(besides)))
        while True:
            nodes = await self._rows.under(owner, wanted.prefix, utc_now(), most=most)
            others = (node for node in nodes if node.node_id not in besides and passes(node))
            passing = [node for node in others if admits is None or admits(node)][: wanted.most]
            if len(passing) == wanted.most or len(nodes) < most:
                return passing
            most *= _MORE

    async def _is_large(self, owner: str) -> bool:
        """Whether an owner is not to be loaded for a question; what waits for Postgres shows only where he is."""
        if self._large is None or self._sessions.awaits_delivery(owner):
            return False
        return await self._large.surely_includes(owner)

    async def _namespaces_of(self, owner: str, *, strong: bool) -> Iterable[Namespace]:
        if not self._is_here(owner):
            return await self._rows.namespaces(owner, utc_now())
        memory = await self._memory(owner, strong=strong)
        return self._index_of(memory).namespaces(memory.snapshot())

    def _is_here(self, owner: str) -> bool:
        return self._sessions.loaded(owner) is not None or self._sessions.awaits_delivery(owner)

    async def _memory(self, owner: str, *, strong: bool) -> UserMemory:
        return await (self._sessions.current(owner) if strong else self._sessions.opened(owner))

    def _below(self, memory: UserMemory, wanted: Wanted) -> Sequence[MemoryNode]:
        return self._index_of(memory).below(memory.snapshot(), wanted.prefix)

    def _index_of(self, memory: UserMemory) -> ItemIndex:
        return self._indexes.setdefault(memory, ItemIndex())

    async def _owners(self, prefix: Namespace) -> AsyncIterator[list[str]]:
        """Everybody who may have items below a prefix that several share, some at a time."""
        if not self._settings.store_across_owners:
            raise InvalidInput(
                f"the items below {prefix!r} are of several owners, and looking at all of them is switched off "
                "(HYBRID_MEMORY_STORE_ACROSS_OWNERS)"
            )
        waiting = set(self._sessions.awaiting())
        some: list[str] = [one for one in waiting if may_own(one, prefix)]
        async for owner in self._rows.owners():
            if owner not in waiting and may_own(owner, prefix):
                some.append(owner)
            if len(some) >= _OWNERS_AT_ONCE:
                yield some
                some = []
        yield some


def _searched(wanted: Wanted) -> Admits:
    """Which memories can be hits of a search."""
    prefix, admits = wanted.prefix, wanted.admits

    def searched(node: MemoryNode) -> bool:
        return (
            node.namespace is not None
            and node.namespace[: len(prefix)] == prefix
            and (admits is None or admits(node))
            and is_searched(node)
        )

    return searched


def _followed(hits: Sequence[Scored], below: Iterable[MemoryNode], wanted: Wanted, mode: Mode) -> list[Found]:
    """The hits, and where they do not fill the page what the question is not about; what is not searched comes last."""
    found: list[Found] = list(hits)
    if len(found) < wanted.most:
        there, admits = {node.node_id for node, _ in hits}, wanted.admits
        others = [node for node in below if node.node_id not in there and (admits is None or admits(node))]
        # What has no vector yet is not unlike the question: nobody knows.
        found += [(node, 0.0 if mode == "hybrid" else None) for node in others if is_searched(node)]
        found += [(node, None) for node in others if not is_searched(node)]
    return found[: wanted.most]


def _first(below: Iterable[MemoryNode], wanted: Wanted) -> list[Found]:
    """The first that pass, as many as it takes to fill the page."""
    admits = wanted.admits
    passing = (node for node in below if admits is None or admits(node))
    return [(node, None) for _, node in zip(range(wanted.most), passing, strict=False)]


def _merged(pages: Iterable[Iterable[Found]]) -> list[Found]:
    """Several lists in their order as one: by score, what has none last, the newest change first among equals."""
    together = {node.node_id: (node, score) for node, score in chain.from_iterable(pages)}
    ordered = [together[node.node_id] for node in newest_first(node for node, _ in together.values())]
    return sorted(ordered, key=lambda one: (one[1] is None, -(one[1] or 0.0)))
