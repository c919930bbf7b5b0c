"""`HybridMemoryManager`: the facade, which hands each call to the part whose work it is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hybrid_memory.embeddings.choosing import EmbedderLike
from hybrid_memory.langgraph.serialisation import AllowedType
from hybrid_memory.memory.extraction.records import Recogniser
from hybrid_memory.memory.homes import Persists
from hybrid_memory.memory.listing import page
from hybrid_memory.memory.memories import Progress
from hybrid_memory.memory.model_extraction import ModelExtractor
from hybrid_memory.memory.progress import Progress as LoadProgress
from hybrid_memory.memory.prompting import CountTokens, approximate_tokens, fitting_lines
from hybrid_memory.memory.tool_outputs import Finders
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import EntityRef, MemoryNode, RememberedOutput
from hybrid_memory.observability import Events
from hybrid_memory.recalling import Recalling
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.transient import TransientMemory

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_MOST_IN_A_PROMPT = 50


class HybridMemoryManager(Recalling):
    """Users' memories, written through to Postgres and read from this process.

    Use it as `async with HybridMemoryManager() as manager`, or plain `with` and `manager.blocking`. One that was not
    started starts on its first call. Calls from other loops and threads are forwarded to its own.

    Args:
        settings: how to reach the databases; from the environment when None.
        events: where to report; hooks for metrics and tracing attach to it.
        recognisers: tell `remember_tool_output` which entities records describe, before those that are built in.
        extractor: a LangChain chat model with structured output that looks for more entities in what tools return.
        allowed_types: types of a graph's state that its checkpoints may restore, besides those of the settings.
        embedder: makes vectors of memories and questions: `"provider:model"`, a LangChain `Embeddings`, a function of
            texts, or LangGraph's `{"embed": ..., "dims": ...}`; as the settings say when None.
        persist_user: given a user id, whether that user's memory goes to Postgres; others stay in `state.db` until it
            says so. It is asked often and must not wait. `HYBRID_MEMORY_ROLLOUT_PERCENT` decides when None.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        events: Events | None = None,
        recognisers: Iterable[Recogniser] = (),
        extractor: "BaseChatModel | None" = None,
        allowed_types: Iterable[AllowedType] = (),
        embedder: EmbedderLike | None = None,
        persist_user: Persists | None = None,
    ) -> None:
        super().__init__(settings or Settings(), events or Events(), allowed_types, embedder, persist_user)
        seconds = self.settings.extractor_timeout_seconds
        self._finders = Finders(tuple(recognisers), ModelExtractor(extractor, seconds) if extractor else None)

    async def ensure_user_memories(self, user_id: str, *, progress: LoadProgress | None = None) -> UserMemory:
        """The user's memory, loaded when it is not here yet, and brought up to date when it is old.

        An unknown user has an empty one. While Postgres does not answer, what was loaded before is given, or the copy
        that an earlier process left in `cache.db`, `stale`.

        Args:
            user_id: whose memory.
            progress: called, on the manager's loop, with how many of how many rows are here while they come in.

        Raises:
            InvalidInput: the user id cannot be one.
            StorageUnavailable: Postgres does not answer and nothing is known of the user here.
        """
        owner = self._border.user_id(user_id)
        return await self._on_home(lambda parts: parts.sessions.opened(owner, progress))

    async def store_persistent_memory(
        self,
        user_id: str,
        content: object,
        context_type: str = "conversation_fact",
        *,
        summary: str | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        importance: float = 0.5,
        confidence: float = 1.0,
        thread_id: str | None = None,
        relates_to: Iterable[str | UUID] = (),
        depends_on: Iterable[str | UUID] = (),
        expires_in: timedelta | float | None = None,
        node_id: str | UUID | None = None,
        embedding: Sequence[float] | None = None,
        deduplicate: bool = True,
    ) -> str:
        """Store a memory for good and return its id; when this returns, Postgres has committed it.

        Args:
            user_id: whose memory it is.
            content: a string, or anything that is data (see `InvalidInput`).
            context_type: what kind of memory; any word.
            summary: one line about it; made from the content when None.
            tags: words to find it by.
            metadata: anything else, as JSON.
            importance: 0 to 1.
            confidence: 0 to 1.
            thread_id: the conversation it comes from.
            relates_to: memories it relates to.
            depends_on: memories it depends on.
            expires_in: seconds, or a timedelta, after which it is hidden and later removed.
            node_id: an id or name of your own; storing it again replaces the memory.
            embedding: a vector of its content.
            deduplicate: give the id of an identical memory of that type instead of storing a second one.

        Raises:
            InvalidInput: a value cannot be stored; the text names the field.
            UnknownMemory: a memory in `relates_to` or `depends_on` does not exist.
            StorageUnavailable: Postgres did not confirm it.
        """
        fields = {
            "summary": summary,
            "tags": tags,
            "metadata": metadata,
            "importance": importance,
            "confidence": confidence,
            "thread_id": thread_id,
            "relates_to": relates_to,
            "depends_on": depends_on,
            "expires_in": expires_in,
            "node_id": node_id,
            "embedding": embedding,
            "deduplicate": deduplicate,
        }
        return await self._on_home(lambda parts: parts.memories.store(user_id, content, context_type, **fields))

    async def store_many(
        self, user_id: str, items: Sequence[Mapping[str, Any]], *, progress: Progress | None = None
    ) -> list[str]:
        """Store many, given as the keywords of `store_persistent_memory`; their ids in the same order.

        All are checked before the first is written. `progress` is called with how many of how many are stored.
        """
        return await self._on_home(lambda parts: parts.memories.store_many(user_id, items, progress))

    async def store_entity(
        self,
        user_id: str,
        *,
        entity_id: str | None = None,
        entity_system: str,
        entity_type: str,
        entity_name: str,
        data: Mapping[str, Any] | None = None,
        relations: Iterable[tuple[str, str | UUID | EntityRef]] = (),
        aliases: Iterable[str] = (),
    ) -> str:
        """Store what is known of an entity and return its id; keys stored earlier or elsewhere at once are kept.

        Args:
            user_id: whose knowledge it is.
            entity_id: its id in its own system; without one it is known by its type and name.
            entity_system: where it lives, such as `salesforce`.
            entity_type: what it is, such as `account`.
            entity_name: what it is called; the name it had before becomes an alias.
            data: what is known; merged key by key, the later write of a key wins.
            relations: pairs of relationship type and target: a memory's id, or an `EntityRef`, which names an entity
                that need not be known yet.
            aliases: other names.

        Raises:
            InvalidInput: a value cannot be stored; the text names the field.
            UnknownMemory: a memory in `relations` does not exist.
            StorageUnavailable: Postgres did not confirm it.
        """
        return await self._on_home(
            lambda parts: parts.entities.store(
                user_id,
                entity_id=entity_id,
                entity_system=entity_system,
                entity_type=entity_type,
                entity_name=entity_name,
                data=data,
                relations=relations,
                aliases=aliases,
            )
        )

    async def remember_tool_output(
        self, user_id: str, tool_name: str, arguments: object, result: object, *, thread_id: str | None = None
    ) -> RememberedOutput:
        """Store what a tool returned, and the entities it tells of with how they are related.

        Records of Salesforce, Jira, ServiceNow and of the shape `{id, name, type}` are recognised at any depth; see
        `recognisers` and `extractor` of the manager for others. Nothing a result holds is refused: what cannot be
        stored becomes text, what is too much is left out and counted.

        Args:
            user_id: whose memory it is.
            tool_name: which tool it was.
            arguments: what it was called with.
            result: what it returned: data, a JSON string, a pydantic model, a LangChain `ToolMessage`.
            thread_id: the conversation it comes from.

        Raises:
            InvalidInput: the user, the tool's name or the thread cannot be one.
            StorageUnavailable: Postgres did not confirm it.
        """
        return await self._on_home(
            lambda parts: parts.tool_outputs.remember(
                user_id, tool_name, arguments, result, thread_id=thread_id, finders=self._finders
            )
        )

    async def relate(
        self,
        user_id: str,
        from_id: str | UUID,
        to_id: str | UUID,
        relationship_type: str,
        *,
        strength: float = 1.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Relate two memories of one user, or change how they are related.

        Raises:
            InvalidInput: a value cannot be stored; the text names the field.
            UnknownMemory: one of them does not exist for this user.
            StorageUnavailable: Postgres did not confirm it.
        """
        await self._on_home(
            lambda parts: parts.memories.relate(
                user_id, from_id, to_id, relationship_type, strength=strength, metadata=metadata
            )
        )

    def store_transient_memory(
        self,
        thread_id: str,
        content: object,
        context_type: str = "temporary_state",
        *,
        summary: str | None = None,
        tags: Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        importance: float = 0.5,
        confidence: float = 1.0,
        relates_to: Iterable[str] = (),
        depends_on: Iterable[str] = (),
        expires_in: timedelta | float | None = None,
        node_id: str | None = None,
    ) -> str:
        """Note something down for one thread, in SQLite alone; needs no event loop, and is durable when it returns."""
        return self._notes.store(
            thread_id,
            content,
            context_type,
            summary=summary,
            tags=tags,
            metadata=metadata,
            importance=importance,
            confidence=confidence,
            relates_to=relates_to,
            depends_on=depends_on,
            expires_in=expires_in,
            node_id=node_id,
        )

    def transient_memories(self, thread_id: str) -> list[TransientMemory]:
        """The notes of a thread, in the order they were made."""
        return self._notes.of_thread(thread_id)

    async def promote(self, thread_id: str, node_id: str, user_id: str) -> str:
        """Make a note a memory of the user, and remove the note; the memory's id.

        Raises:
            UnknownMemory: the thread has no such note.
            StorageUnavailable: Postgres did not confirm it; the note is still there.
        """
        return await self._on_home(lambda parts: self._notes.promote(thread_id, node_id, user_id, parts.memories))

    async def list_memories(
        self,
        user_id: str,
        *,
        context_types: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        thread_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[MemoryNode]:
        """A page of a user's memories, newest first.

        Args:
            user_id: whose memories.
            context_types: of one of these types.
            tags: with all of these tags.
            thread_id: from this thread.
            metadata: with these values.
            limit: how many at most.
            after: the last id of the page before.

        Raises:
            UnknownMemory: the memory named by `after` is not there any more.
        """
        memory = await self.ensure_user_memories(user_id)
        return page(
            memory.get_all_nodes(),
            context_types=context_types,
            tags=tags,
            thread_id=thread_id,
            metadata=metadata,
            limit=limit,
            after=after,
        )

    async def get_node(self, user_id: str, node_id: str | UUID) -> MemoryNode | None:
        """One memory; None when this user has none by that id."""
        return await self._on_home(lambda parts: parts.memories.get(user_id, node_id))

    async def update_memory(self, user_id: str, node_id: str | UUID, **fields: Any) -> MemoryNode:
        """Replace some fields of a memory, named as in `store_persistent_memory`; the memory as it is then.

        Raises:
            InvalidInput: a value cannot be stored, or the memory is an entity.
            UnknownMemory: this user has none by that id.
            StorageUnavailable: Postgres did not confirm it.
        """
        return await self._on_home(lambda parts: parts.memories.update(user_id, node_id, **fields))

    async def forget(self, user_id: str, node_id: str | UUID) -> bool:
        """Delete a memory with its relationships; False when this user has none by that id."""
        return await self._on_home(lambda parts: parts.memories.forget(user_id, node_id))

    async def add_message(
        self,
        user_id: str,
        thread_id: str,
        role: str,
        content: object,
        *,
        name: str | None = None,
        at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> str:
        """Add a turn to a conversation; one with a `message_id` given before replaces that turn in its place."""
        return await self._on_home(
            lambda parts: parts.conversations.add(
                user_id, thread_id, role, content, name=name, at=at, metadata=metadata, message_id=message_id
            )
        )

    async def get_context(self, user_id: str, thread_id: str, *, limit: int = 10) -> list[dict[str, Any]]:
        """The newest `limit` turns of a conversation, oldest first, each `{role, content, name, at, ...}`."""
        return await self._on_home(lambda parts: parts.conversations.context(user_id, thread_id, limit=limit))

    async def context_for(
        self,
        user_id: str,
        query: str,
        *,
        max_tokens: int,
        thread_id: str | None = None,
        admits: Callable[[MemoryNode], bool] | None = None,
        count_tokens: CountTokens = approximate_tokens,
    ) -> str:
        """What is known of a user about something, ready for a prompt: a memory per line, with its id, the best first.

        The turns of `thread_id` that `get_context` gives are left out: the prompt has them already.

        Args:
            user_id: whose memories.
            query: what the prompt is about; when it says nothing, the newest memories are given.
            max_tokens: how long the text may be.
            thread_id: the conversation that the prompt is part of.
            admits: says of a memory whether it may be given, and does not wait; what the prompt has already may not.
            count_tokens: how many tokens a text has; by default a rough guess without a tokenizer.
        """
        if query.strip():
            hits = await self._on_home(
                lambda parts: parts.finding.recall(user_id, query, limit=_MOST_IN_A_PROMPT, admits=admits)
            )
            known = [hit.node for hit in hits]
        else:
            newest_first = reversed((await self.ensure_user_memories(user_id)).get_all_nodes())
            known = list(islice(filter(admits, newest_first), _MOST_IN_A_PROMPT))
        turns = await self.get_context(user_id, thread_id) if thread_id and known else []
        said = {turn["node_id"] for turn in turns}
        return fitting_lines((node for node in known if node.node_id not in said), max_tokens, count_tokens)
