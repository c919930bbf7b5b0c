"""Pages of a user's memories, newest first, by what they are and not by what they say."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybrid_memory.errors import UnknownMemory
from hybrid_memory.models import MemoryNode
from hybrid_memory.recall.question import types_of


def page(
    memories: Sequence[MemoryNode],
    *,
    context_types: Iterable[str] | None,
    tags: Iterable[str] | None,
    thread_id: str | None,
    metadata: Mapping[str, Any] | None,
    limit: int,
    after: str | None,
) -> list[MemoryNode]:
    """The newest `limit` of `memories` (given oldest first) that fit, beginning behind `after`.

    Raises:
        UnknownMemory: the memory that `after` names is not there any more.
    """
    kinds = types_of(context_types)
    wanted_tags = {tags} if isinstance(tags, str) else set(tags or ())
    wanted = dict(metadata or {})
    newest_first = list(reversed(memories))
    if after is not None:
        places = {node.node_id: place for place, node in enumerate(newest_first)}
        if after not in places:
            raise UnknownMemory(f"there is no memory {after!r} to go on after")
        newest_first = newest_first[places[after] + 1 :]
    fitting = (
        node
        for node in newest_first
        if (kinds is None or node.context_type in kinds)
        and wanted_tags <= set(node.tags)
        and (thread_id is None or node.thread_id == thread_id)
        and all(key in node.metadata and node.metadata[key] == value for key, value in wanted.items())
    )
    return [node for _, node in zip(range(limit), fitting, strict=False)]
