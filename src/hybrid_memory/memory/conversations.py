"""Conversations: turns of a thread in their order, each once, for their user alone."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hybrid_memory.errors import InvalidInput
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.memories import Memories
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.models import MemoryNode

MESSAGE = "conversation_message"


class Conversations:
    """Messages are memories like any other; this is how they are added and read in order."""

    def __init__(self, border: Border, memories: Memories, sessions: Sessions) -> None:
        self._border = border
        self._memories = memories
        self._sessions = sessions

    async def add(
        self,
        user_id: str,
        thread_id: str,
        role: str,
        content: object,
        *,
        name: str | None,
        at: datetime | None,
        metadata: Mapping[str, Any] | None,
        message_id: str | None,
    ) -> str:
        """Add a turn; one with a `message_id` that the user already has replaces it in its place."""
        turn = {
            "role": self._border.name(role, "role"),
            "content": content,
            "name": None if name is None else self._border.line(name, "name"),
            "at": (datetime.now(UTC) if at is None else self._border.moment(at, "at")).isoformat(),
            "message_id": message_id,
        }
        return await self._memories.store(
            user_id,
            turn,
            MESSAGE,
            thread_id=self._border.thread_id(thread_id),
            metadata=metadata,
            node_id=message_id,
            # Saying the same twice is two turns.
            deduplicate=False,
        )

    async def context(self, user_id: str, thread_id: str, *, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` turns, oldest first; nothing for a thread that is empty, unknown or another user's."""
        owner, thread = self._border.user_id(user_id), self._border.thread_id(thread_id)
        if limit < 1:
            raise InvalidInput(f"limit must be a positive number, not {limit!r}")
        memory = await self._sessions.opened(owner)
        return [
            {
                **_said(turn),
                "node_id": turn.node_id,
                "metadata": dict(turn.metadata),
            }
            for turn in memory.newest_turns(thread, limit)
        ]


def _said(turn: MemoryNode) -> Mapping[str, Any]:
    """What a turn says. One that was stored like any other memory may have no role."""
    if turn.text is None and isinstance(turn.content, Mapping):
        return turn.content
    return {"content": turn.content if turn.text is None else turn.text}
