"""Notes of a thread, and how one of them becomes a user's memory."""

from datetime import timedelta
from functools import partial
from typing import Any

from hybrid_memory.errors import UnknownMemory
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.memories import Memories
from hybrid_memory.sqlite.state import StateFile
from hybrid_memory.sqlite.transient import TransientMemories, TransientMemory


class Notes:
    """Transient memories in `state.db`, which is opened by the first call, from whatever thread it comes."""

    def __init__(self, state: StateFile, border: Border) -> None:
        self._state = state
        self._border = border

    def store(self, thread_id: str, content: object, context_type: str, **fields: Any) -> str:
        """Note something down; durable when this returns."""
        plain, kind, _ = self._border.content(content)
        note = plain["text"] if kind == "text" and isinstance(plain, dict) else plain
        border = self._border
        fields["tags"] = border.tags(fields.get("tags"))
        fields["metadata"] = border.mapping(fields.get("metadata"), "metadata")
        for share in ("importance", "confidence"):
            fields[share] = border.share(fields[share], share)
        for relation in ("relates_to", "depends_on"):
            fields[relation] = [border.line(str(one), relation) for one in fields[relation]]
        for given, check in (("summary", border.summary), ("node_id", partial(border.line, path="node_id"))):
            if fields[given] is not None:
                fields[given] = check(fields[given])
        border.expiry(fields["expires_in"], utc_now())
        thread, kind_of = border.thread_id(thread_id), border.name(context_type, "context_type")
        return self._memories().store(thread, note, kind_of, **fields)

    def of_thread(self, thread_id: str) -> list[TransientMemory]:
        """The notes of a thread, in the order they were made."""
        return self._memories().of_thread(self._border.thread_id(thread_id))

    async def promote(self, thread_id: str, node_id: str, user_id: str, memories: Memories) -> str:
        """Make a note a memory of the user, and remove the note; the memory's id.

        Of the relations the note has, those to memories of this user are kept.
        """
        notes = self._memories()
        note = notes.get(self._border.thread_id(thread_id), node_id)
        if note is None:
            raise UnknownMemory(f"thread {thread_id!r} has no note {node_id!r}")
        known = {one for one in (*note.relates_to, *note.depends_on) if await memories.found(user_id, one) is not None}
        stored = await memories.store(
            user_id,
            note.content,
            note.context_type,
            summary=note.summary,
            tags=note.tags,
            metadata=note.metadata,
            importance=note.importance,
            confidence=note.confidence,
            thread_id=thread_id,
            relates_to=[one for one in note.relates_to if one in known],
            depends_on=[one for one in note.depends_on if one in known],
            node_id=note.node_id,
        )
        notes.forget(thread_id, node_id)
        return stored

    def clean_up(self, older_than: timedelta, *, only_if_open: bool = False) -> int:
        """Remove what has expired, and the threads quiet for so long; how many notes. Makes no file for that."""
        there = self._state.opened is not None or (self._state.exists and not only_if_open)
        return self._memories().clean_up(older_than) if there else 0

    def _memories(self) -> TransientMemories:
        return TransientMemories(self._state.database())
