"""A bug to plant: each attempt to send is that of a new process, so no repeat is recognised."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from hybrid_memory.postgres.batches import Batches, Portion, QueuedBatches


def recognise_no_repeat(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Plant it where writes are sent, and where the outbox is."""
    written: Callable[..., Any] = Batches.apply
    queued: Callable[..., Any] = QueuedBatches.apply

    async def written_by_another(batches: Batches, *sent: Any, **keywords: Any) -> Any:
        batches._instance = uuid4()
        return await written(batches, *sent, **keywords)

    async def queued_by_another(
        batches: QueuedBatches, user_id: str, portions: Sequence[Portion], **keywords: Any
    ) -> Any:
        return await queued(batches, user_id, [replace(one, instance_id=str(uuid4())) for one in portions], **keywords)

    put(Batches, "apply", written_by_another)
    put(QueuedBatches, "apply", queued_by_another)
