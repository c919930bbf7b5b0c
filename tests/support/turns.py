"""Turns of conversations as Postgres gives them back, in texts of our own."""

from datetime import datetime, timedelta
from typing import Any

from hybrid_memory.models import MemoryNode
from tests.support.graphs import START, fact


def turn(
    number: int, text: str, name: str = "Ann", thread: str = "t", at: datetime | None = None, **fields: Any
) -> MemoryNode:
    """The turn of that number in its thread, a minute after the one before."""
    said_at = START + timedelta(minutes=number) if at is None else at
    values: dict[str, Any] = {
        "context_type": "conversation_message",
        "content": {"role": "user", "name": name, "content": text, "at": said_at.isoformat(), "message_id": None},
        "content_kind": "json",
        "summary": f"user: {text}",
        "thread_id": thread,
        "seq": number,
    }
    return fact(number, **(values | fields))
