"""Writing and reading single memories: checked at the border, written through, visible at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

from hybrid_memory.errors import InvalidInput, StorageRejected, StorageUnavailable, UnknownMemory
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.graph.view import is_stub
from hybrid_memory.items import is_item, is_searched_whole, item_version, with_metadata
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.border import Border, Draft
from hybrid_memory.memory.places import Source, Writing
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.twins import twins
from hybrid_memory.memory.vectors import Vectors
from hybrid_memory.models import MemoryNode
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import ANOTHER_VERSION, IF_VERSION, Applied, Embedding
from hybrid_memory.replication.batching import Write, key_of
from hybrid_memory.replication.queue import Queued
from hybrid_memory.replication.writer import Answer

_MISSING_END = "23503"
_CHUNK = 100
# A memory that others change all the time is replaced at last, as it is known here.
_MOST_ATTEMPTS = 6
_LISTS = ("tags", "relates_to", "depends_on", "embedding")

Progress = Callable[[int, int], None]


class Memories:
    """The memories of all users, one call at a time."""

    def __init__(
        self,
        border: Border,
        source: Source,
        writer: Writing,
        sessions: Sessions,
        accesses: Accesses,
        vectors: Vectors,
        events: Events,
    ) -> None:
        self._border = border
        self._source = source
        self._writer = writer
        self._sessions = sessions
        self._accesses = accesses
        self._vectors = vectors
        self._events = events

    async def store(self, user_id: str, content: object, context_type: str, **fields: Any) -> str:
        """Store one memory; its id, or the id of the identical one that is there already."""
        draft = await self._of_model(self._border.draft(user_id, content, context_type, now=utc_now(), **fields))
        if twin := (await self._known_twins(draft.user_id, [draft])).get(draft.node_id):
            return twin
        answer = await self.write(draft.user_id, writes_of(draft))
        return self.acknowledged(answer, draft.node_id)

    async def store_many(
        self, user_id: str, items: Sequence[Mapping[str, Any]], progress: Progress | None = None
    ) -> list[str]:
        """Store many, all of them checked before the first is written; their ids in the same order."""
        owner, drafts = self._border.user_id(user_id), []
        for place, item in enumerate(items):
            fields = dict(item)
            try:
                content, context_type = fields.pop("content"), fields.pop("context_type", "conversation_fact")
                draft = self._border.draft(owner, content, context_type, now=utc_now(), **fields)
                drafts.append(await self._of_model(draft))
            except KeyError:
                raise InvalidInput(f"item {place} has no content") from None
            except (InvalidInput, TypeError) as error:
                raise InvalidInput(f"item {place}: {error}") from None
        drafts, ids = _without_twins(drafts)
        known = await self._known_twins(owner, drafts)
        drafts = [draft for draft in drafts if draft.node_id not in known]
        ids = [known.get(node_id, node_id) for node_id in ids]
        for start in range(0, len(drafts), _CHUNK):
            chunk = drafts[start : start + _CHUNK]
            answer = await self.write(owner, _folded(chunk))
            ids = [answer.same.get(node_id, node_id) for node_id in ids]
            if progress is not None:
                progress(min(start + _CHUNK, len(drafts)), len(drafts))
        return ids

    async def relate(
        self,
        user_id: str,
        from_id: str | UUID,
        to_id: str | UUID,
        relationship_type: str,
        *,
        strength: float,
        metadata: Mapping[str, Any] | None,
    ) -> None:
        """Relate two memories of one user, or change how they are related."""
        owner = self._border.user_id(user_id)
        write = edge_write(
            self._border.node_id(owner, from_id, "from_id"),
            self._border.node_id(owner, to_id, "to_id"),
            self._border.name(relationship_type, "relationship_type"),
            self._border.share(strength, "strength"),
            self._border.mapping(metadata, "metadata"),
        )
        answer = await self.write(owner, [write])
        if _is_in_postgres(answer):
            self._events.info(
                "relationship_persisted_to_postgres", user_id=owner, relationship_type=write.row["relationship_type"]
            )

    async def get(self, user_id: str, node_id: str | UUID) -> MemoryNode | None:
        """One memory, which counts as an access."""
        node = await self.found(user_id, node_id)
        if node is not None:
            self._accesses.count(node.user_id, [node.node_id])
        return node

    async def found(self, user_id: str, node_id: str | UUID) -> MemoryNode | None:
        """One memory, from the user's graph when it is here, else from its place, or from what else is known."""
        owner = self._border.user_id(user_id)
        return await self.known(owner, self._border.node_id(owner, node_id))

    async def known(self, owner: str, wanted: str) -> MemoryNode | None:
        """The same for whoever has checked already whose memory it is and which."""
        memory = self._sessions.loaded(owner)
        if memory is not None:
            return memory.peek(wanted)
        try:
            if self._sessions.awaits_delivery(owner):
                return (await self._sessions.opened(owner)).peek(wanted)
            node = await self._source.node(owner, wanted)
        except StorageUnavailable:
            return (await self._sessions.opened(owner)).peek(wanted)
        return _unless_gone(node)

    async def update(self, user_id: str, node_id: str | UUID, **fields: Any) -> MemoryNode:
        """Replace some fields of a memory, and none that somebody else changes meanwhile; the memory as it is then."""
        node = await self.found(user_id, node_id)
        fields |= {name: list(fields[name]) for name in _LISTS if isinstance(fields.get(name), Iterator)}
        for attempt in range(_MOST_ATTEMPTS):
            if node is None:
                raise UnknownMemory(f"user {user_id!r} has no memory {str(node_id)!r}")
            last = attempt == _MOST_ATTEMPTS - 1
            if await self._replaced(node, await self._changed(node, fields), whatever_is_there=last):
                break
            with suppress(StorageUnavailable):
                node = _unless_gone(await self._source.node(node.user_id, node.node_id))
        updated = await self.found(user_id, node_id)
        if updated is None:
            raise UnknownMemory(f"memory {str(node_id)!r} was deleted while it was changed")
        return updated

    async def forget(self, user_id: str, node_id: str | UUID) -> bool:
        """Delete a memory with its relationships; False when there was none."""
        node = await self.found(user_id, node_id)
        if node is None:
            return False
        await self.write(node.user_id, [Write("deletes", {"node_id": node.node_id})])
        return True

    async def write(self, user_id: str, writes: Sequence[Write]) -> Answer:
        """Write all of it or nothing; visible in the user's graph when this returns."""
        await self._check_ends(user_id, writes)
        try:
            answer = await self._writer.write(user_id, writes)
        except StorageRejected as error:
            if error.sqlstate == _MISSING_END:
                raise self._nothing_to_relate_to(user_id, _ends(writes)) from error
            if error.sqlstate != ANOTHER_VERSION:
                self._events.error("failed_to_persist_to_postgres", user_id=user_id, error=str(error))
            raise
        if isinstance(answer, Queued):
            self._sessions.show_queued(answer)
            self._events.info("outbox_operation_queued", user_id=user_id, operations=len(answer.operations))
        else:
            await self._sessions.show(answer)
        self._vectors.wrote(user_id, writes, answer)
        return answer

    def acknowledged(self, answer: Answer, node_id: str) -> str:
        """Report that a memory is stored; the id it is stored under."""
        node_id = answer.same.get(node_id, node_id)
        if _is_in_postgres(answer):
            self._events.info("node_persisted_to_postgres", user_id=answer.user_id, node_id=node_id)
        return node_id

    async def _changed(self, node: MemoryNode, fields: Mapping[str, Any]) -> Draft:
        """A memory with other values in some fields."""
        if node.context_type == "domain_entity":
            raise InvalidInput("an entity is changed with store_entity, which merges what is new")
        content = node.text if node.content_kind == "text" else node.content
        kept: dict[str, Any] = {
            "content": content,
            "context_type": node.context_type,
            "tags": node.tags,
            "metadata": node.metadata,
            "importance": node.importance,
            "confidence": node.confidence,
            "thread_id": node.thread_id,
        }
        if "content" not in fields:
            kept["summary"] = node.summary
        draft = await self._of_model(
            self._border.draft(node.user_id, now=utc_now(), node_id=node.node_id, **(kept | dict(fields)))
        )
        row = dict(draft.row) | {"external_id": node.external_id}
        if is_item(node):
            row |= _address_kept(node, row)
        if node.expires_at is not None and "expires_in" not in fields:
            row["expires_at"] = node.expires_at.isoformat()
        return replace(draft, row=row)

    async def _replaced(self, node: MemoryNode, draft: Draft, *, whatever_is_there: bool) -> bool:
        """Store a memory in place of the one it was made of; False when that has changed in the meantime."""
        first, *others = writes_of(draft)
        if node.version is not None and not whatever_is_there and not self._writer.would_queue(node.user_id):
            guarded = replace(first, row={**first.row, IF_VERSION: item_version(node)})
            try:
                with suppress(StorageUnavailable):  # what waits for Postgres depends on no version
                    await self.write(node.user_id, [guarded, *others])
                    return True
            except StorageRejected as error:
                if error.sqlstate != ANOTHER_VERSION:
                    raise
                return False
        await self.write(node.user_id, [first, *others])
        return True

    async def _of_model(self, draft: Draft) -> Draft:
        """The same, its vector being of the model that is in use."""
        if draft.embedding is None:
            return draft
        return replace(draft, model=await self._vectors.model_of(draft.embedding))

    async def _known_twins(self, user_id: str, drafts: Sequence[Draft]) -> Mapping[str, str]:
        """Of memories that Postgres cannot compare now, those whose content this process knows already.

        What the outbox acknowledges is stored under its own id, so this is the time to look.
        """
        if not self._writer.would_queue(user_id):
            return {}
        once = [draft for draft in drafts if draft.row["only_once"] and not (draft.relates_to or draft.depends_on)]
        if not once:
            return {}
        memory = await self._sessions.opened_soon(user_id)
        return twins(memory.get_all_nodes(), {draft.node_id: draft.row for draft in once})

    async def _check_ends(self, user_id: str, writes: Sequence[Write]) -> None:
        """Refuse at once what Postgres would refuse later, when nobody waits for its answer any more."""
        if not self._writer.would_queue(user_id):
            return
        if ends := _ends(writes):
            await self._sessions.opened_soon(user_id)
            if self._sessions.lacks(user_id, ends):
                raise self._nothing_to_relate_to(user_id, ends)

    def _nothing_to_relate_to(self, user_id: str, ends: AbstractSet[str]) -> UnknownMemory:
        """Names the end that is not there; of a user who is not loaded, both that may be meant."""
        ids = " or ".join(map(repr, self._sessions.lacks(user_id, ends) or sorted(ends)))
        return UnknownMemory(f"user {user_id!r} has no memory to relate to by the id {ids}")


def writes_of(draft: Draft) -> list[Write]:
    """A memory, its vector and the relationships that come with it."""
    embeddings: tuple[Embedding, ...] = ()
    if draft.embedding is not None:
        embeddings = (Embedding(draft.model, draft.embedding, str(draft.row["content_hash"])),)
    writes = [Write("nodes", draft.row, embeddings)]
    writes += [edge_write(draft.node_id, target, "relates_to") for target in dict.fromkeys(draft.relates_to)]
    writes += [edge_write(draft.node_id, target, "depends_on") for target in dict.fromkeys(draft.depends_on)]
    return writes


def _unless_gone(node: MemoryNode | None) -> MemoryNode | None:
    """A row, if it is a memory that has not expired."""
    if node is None or is_stub(node) or (node.expires_at is not None and node.expires_at <= utc_now()):
        return None
    return node


def _ends(writes: Sequence[Write]) -> set[str]:
    """The memories that relationships lead to or from and that are not written along with them."""
    ends = {write.row[end] for write in writes if write.kind == "edges" for end in ("from_node_id", "to_node_id")}
    return ends - {write.row.get("node_id") for write in writes}


def _address_kept(node: MemoryNode, row: Mapping[str, Any]) -> dict[str, Any]:
    """What makes an item of a store stay one."""
    if row["content_kind"] != "json" or not isinstance(row["content"], dict):
        raise InvalidInput("content of an item of a store must be a mapping")
    return {
        "namespace": list(node.namespace or ()),
        "key": node.key,
        "context_type": node.context_type,
        "metadata": with_metadata(node, row["metadata"]),
        "summary": row["summary"] if is_searched_whole(node) else "",
    }


def _is_in_postgres(answer: Answer) -> bool:
    return isinstance(answer, Applied) and answer.place == "postgres"


def _without_twins(drafts: Sequence[Draft]) -> tuple[list[Draft], list[str]]:
    """Each content that is to be stored once, once, and the id of every draft; relations of a twin are kept."""
    first: dict[tuple[str, str], str] = {}
    kept, ids = [], []
    for draft in drafts:
        key = (draft.row["context_type"], draft.row["content_hash"])
        node_id = first.setdefault(key, draft.node_id) if draft.row["only_once"] else draft.node_id
        ids.append(node_id)
        if node_id == draft.node_id or draft.relates_to or draft.depends_on:
            kept.append(replace(draft, node_id=node_id, row=dict(draft.row) | {"node_id": node_id}))
    return kept, ids


def _folded(drafts: Sequence[Draft]) -> list[Write]:
    """The writes of several memories as one; of a memory given twice the last form counts."""
    by_key = {key_of(write.row): write for draft in drafts for write in writes_of(draft)}
    return list(by_key.values())


def edge_write(
    from_id: str,
    to_id: str,
    relationship_type: str,
    strength: float = 1.0,
    metadata: Mapping[str, Any] | None = None,
) -> Write:
    """The write of a relationship."""
    ends = {"from_node_id": from_id, "to_node_id": to_id, "relationship_type": relationship_type}
    return Write("edges", ends | {"strength": strength, "metadata": dict(metadata or {})})
