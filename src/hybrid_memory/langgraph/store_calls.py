"""The operations of LangGraph's stores: each checked, and done by the parts of a manager. Belongs to its loop."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from hybrid_memory.errors import InvalidInput
from hybrid_memory.langgraph.store_filters import condition_of
from hybrid_memory.langgraph.store_listing import fixed_prefix, listed
from hybrid_memory.langgraph.store_values import StoredItem, found_item, stored_item
from hybrid_memory.memory.item_drafts import ItemDraft, ItemDrafts
from hybrid_memory.memory.item_search import ItemSearch, Wanted
from hybrid_memory.memory.namespaces import ItemAddress, Namespaces, UnfitNamespace
from hybrid_memory.memory.store_items import Items
from hybrid_memory.models import MemoryNode


@dataclass(frozen=True, slots=True)
class StoreCalls:
    """The operations of one batch, done for one store.

    Args:
        items: reads and writes single items.
        search: finds them.
        namespaces: whose they are.
        drafts: checks what is to be written.
        strong: whether what is read was compared with Postgres.
        index: the paths that are searched of an item that does not say.
    """

    items: Items
    search: ItemSearch
    namespaces: Namespaces
    drafts: ItemDrafts
    strong: bool
    index: Sequence[str] | None

    async def all(self, ops: Sequence[Op]) -> list[Result]:
        """Do them and answer in their order: reads see what was there before, of two writes of an item the last counts.

        One that fails fails alone; its error is raised when the others are done.
        """
        if len(ops) == 1:
            (op,) = ops
            return [await (self._read(op) if not isinstance(op, PutOp) else self._write(self._draft(op)))]
        outcomes: list[Any] = [None] * len(ops)
        await self._together(outcomes, {place: op for place, op in enumerate(ops) if not isinstance(op, PutOp)})
        await self._write_all(outcomes, {place: op for place, op in enumerate(ops) if isinstance(op, PutOp)})
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes

    def held(self, namespace: Sequence[str], key: str) -> StoredItem | None:
        """An item that a look into this process gives; None: it has to be asked for."""
        if self.strong:
            return None
        try:
            address = self.namespaces.address(namespace, key)
        except InvalidInput:
            # Whoever asks for it is told what is wrong.
            return None
        node = self.items.held(address.owner, address.node_id)
        return None if node is None else stored_item(node)

    async def put_if_version(self, op: PutOp, version: int | None) -> int | None:
        """Write an item if it has this version."""
        draft = self._draft(op)
        if not isinstance(draft, ItemDraft):
            raise InvalidInput("value must be a mapping, not None: put_if_version deletes nothing")
        return await self.items.put_if_version(draft, version)

    async def _together(self, outcomes: list[Any], ops: dict[int, Op]) -> None:
        """Read; gets of one owner are one call."""
        gets: defaultdict[tuple[str, bool], dict[int, str]] = defaultdict(dict)
        others: dict[int, Awaitable[Result]] = {}
        for place, op in ops.items():
            if not isinstance(op, GetOp):
                others[place] = self._read(op)
                continue
            try:
                address = self._address(op)
                gets[address.owner, op.refresh_ttl][place] = address.node_id
            except ValueError as error:
                outcomes[place] = error
        several = [self._get(owner, ids.values(), refresh=refresh) for (owner, refresh), ids in gets.items()]
        found, answers = await asyncio.gather(
            asyncio.gather(*several, return_exceptions=True),
            asyncio.gather(*others.values(), return_exceptions=True),
        )
        for ids, nodes in zip(gets.values(), found, strict=True):
            for place, node_id in ids.items():
                node = nodes if isinstance(nodes, BaseException) else nodes.get(node_id)
                outcomes[place] = stored_item(node) if isinstance(node, MemoryNode) else node
        for place, answer in zip(others, answers, strict=True):
            outcomes[place] = answer

    async def _write_all(self, outcomes: list[Any], ops: dict[int, PutOp]) -> None:
        drafts: dict[ItemAddress, tuple[int, ItemDraft | ItemAddress]] = {}
        for place, op in ops.items():
            try:
                draft = self._draft(op)
                drafts[draft.address if isinstance(draft, ItemDraft) else draft] = (place, draft)
            except ValueError as error:
                outcomes[place] = error
        done = await asyncio.gather(*(self._write(draft) for _, draft in drafts.values()), return_exceptions=True)
        for (place, _), outcome in zip(drafts.values(), done, strict=True):
            outcomes[place] = outcome

    async def _read(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            address = self._address(op)
            found = await self._get(address.owner, [address.node_id], refresh=op.refresh_ttl)
            return stored_item(found[address.node_id]) if found else None
        if isinstance(op, SearchOp):
            return await self._search(op)
        if isinstance(op, ListNamespacesOp):
            prefix = fixed_prefix(op)
            self._check(op, prefix)
            return listed(await self.search.namespaces(prefix, strong=self.strong), op)
        raise InvalidInput(f"{op!r} is no operation of a store")

    async def _get(self, owner: str, node_ids: Iterable[str], *, refresh: bool) -> dict[str, MemoryNode]:
        found = await self.items.get(owner, list(node_ids), strong=self.strong)
        if refresh:
            await self.items.put_off_expiry(owner, found.values())
        return found

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        self._check(op, op.namespace_prefix)
        holds = condition_of(op.filter)
        wanted = Wanted(
            prefix=tuple(op.namespace_prefix),
            admits=None if holds is None else lambda node: holds(node.content),
            query=op.query or None,
            limit=op.limit,
            offset=op.offset,
            strong=self.strong,
        )
        found = await self.search.found(wanted)
        if op.refresh_ttl:
            owners = {node.user_id for node, _ in found}
            for owner in owners:
                await self.items.put_off_expiry(owner, (node for node, _ in found if node.user_id == owner))
        return [found_item(node, score) for node, score in found]

    async def _write(self, draft: ItemDraft | ItemAddress) -> None:
        await (self.items.put(draft) if isinstance(draft, ItemDraft) else self.items.delete(draft))

    def _draft(self, op: PutOp) -> ItemDraft | ItemAddress:
        """What is to be written, or the address of what is to be deleted."""
        address = self._address(op)
        if op.value is None:
            return address
        index = self.index if op.index is None else op.index
        return self.drafts.draft(address, op.value, index, op.ttl)

    def _address(self, op: GetOp | PutOp) -> ItemAddress:
        validate_op_namespace(op)
        try:
            return self.namespaces.address(op.namespace, op.key)
        except UnfitNamespace as error:
            raise InvalidNamespaceError(str(error)) from error

    def _check(self, op: SearchOp | ListNamespacesOp, prefix: Sequence[str]) -> None:
        """Refuse labels and pages that cannot be.

        Raises:
            InvalidNamespaceError: a label cannot be one.
            InvalidInput: another value cannot be.
        """
        validate_op_namespace(op)
        try:
            self.namespaces.owner_of(tuple(prefix))
        except UnfitNamespace as error:
            raise InvalidNamespaceError(str(error)) from error
        numbers: dict[str, object] = {"limit": op.limit, "offset": op.offset}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidInput(f"{name} must be 0 or a positive integer, not {value!r}")
