"""What the ancestors of a checkpoint wrote to channels: what a DeltaChannel is rebuilt from."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hybrid_memory.sqlite.checkpoints import reading
from hybrid_memory.sqlite.checkpoints.rows import Address, Encoded, StoredCheckpoint, StoredWrite
from hybrid_memory.sqlite.connection import Statements

_PAGE = 200


@dataclass(slots=True)
class ChannelHistory:
    """The writes since the nearest ancestor that has a value of the channel, oldest first, and that ancestor."""

    writes: list[StoredWrite] = field(default_factory=list)
    seed: StoredCheckpoint | None = None


def histories(
    sql: Statements, address: Address, checkpoint_id: str | None, channels: Collection[str]
) -> Mapping[str, ChannelHistory]:
    """The history of each channel up to a checkpoint, or up to the newest."""
    found = {channel: ChannelHistory() for channel in channels}
    line = sql.value("checkpoint_lines.find", thread_id=address.thread_id, namespace=address.namespace)
    if checkpoint_id is None and line is not None:
        checkpoint_id = sql.value("checkpoints.newest", line=line)
    if line is None or checkpoint_id is None:
        return found
    open_ones = set(channels)
    for ancestors in _pages(sql, line, checkpoint_id):
        writes = _writes(sql, line, [one.checkpoint_id for one in ancestors], open_ones)
        for ancestor in ancestors:
            for write in reversed(writes.get(ancestor.checkpoint_id, ())):
                if write.channel in open_ones:
                    found[write.channel].writes.append(write)
            for channel in open_ones & ancestor.held.keys():
                found[channel].seed = ancestor
                open_ones.discard(channel)
        if not open_ones:
            break
    for history in found.values():
        history.writes.reverse()
    seeds = {id(one.seed): one.seed for one in found.values() if one.seed is not None}
    reading.read_values(sql, list(seeds.values()), channels)
    return found


def _pages(sql: Statements, line: int, checkpoint_id: str) -> Iterator[Sequence[StoredCheckpoint]]:
    seen: set[str] = set()
    while True:
        rows = sql.rows("checkpoints.ancestors", line=line, checkpoint_id=checkpoint_id, page=_PAGE)
        found = [reading.stored_checkpoint((line, "", "", *row)) for row in rows]
        if not found or found[0].checkpoint_id in seen:
            return
        yield found
        seen.update(one.checkpoint_id for one in found)
        checkpoint_id = found[-1].checkpoint_id


def _writes(
    sql: Statements, line: int, ids: Sequence[str], channels: Collection[str]
) -> Mapping[str, Sequence[StoredWrite]]:
    writes: dict[str, list[StoredWrite]] = {}
    for checkpoint_id, task_id, channel, kind, content in sql.rows(
        "checkpoint_writes.of_channels", line=line, ids=json.dumps(ids), channels=json.dumps(sorted(channels))
    ):
        writes.setdefault(checkpoint_id, []).append(StoredWrite(task_id, channel, Encoded(kind, content)))
    return writes
