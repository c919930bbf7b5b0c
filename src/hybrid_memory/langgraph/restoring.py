"""Stored checkpoints as LangGraph wants them."""

import json
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory

from hybrid_memory.langgraph.addresses import config_of
from hybrid_memory.langgraph.bodies import lengthened
from hybrid_memory.langgraph.serialisation import Serialisation, nothing_blocked
from hybrid_memory.sqlite.breathing import breathing
from hybrid_memory.sqlite.checkpoints.history import ChannelHistory
from hybrid_memory.sqlite.checkpoints.rows import Encoded, EncodedList, StoredCheckpoint


def restored(serialisation: Serialisation, stored: StoredCheckpoint) -> CheckpointTuple:
    """A checkpoint with its values, metadata and pending writes.

    Raises:
        ConfigurationError: a type in it is not allowed.
    """
    with nothing_blocked():
        checkpoint = lengthened(serialisation.value(stored.body), stored.checkpoint_id)
        inside = checkpoint["channel_values"]
        checkpoint["channel_values"] = {
            name: inside[name] if version is None else _value(serialisation, stored.values[name])
            for name, version in stored.held.items()
        }
        writes = [(write.task_id, write.channel, serialisation.value(write.encoded)) for write in stored.writes]
    parent = None if stored.parent_id is None else config_of(stored.address, stored.parent_id)
    return CheckpointTuple(
        config_of(stored.address, stored.checkpoint_id), checkpoint, json.loads(stored.metadata), parent, writes
    )


def restored_history(serialisation: Serialisation, channel: str, stored: ChannelHistory) -> DeltaChannelHistory:
    """What was written to a channel, and the value before that if there is one.

    Raises:
        ConfigurationError: a type in it is not allowed.
    """
    with nothing_blocked():
        found = DeltaChannelHistory(
            writes=[(write.task_id, write.channel, serialisation.value(write.encoded)) for write in stored.writes]
        )
        if stored.seed is not None:
            found["seed"] = (
                serialisation.value(stored.seed.body)["channel_values"][channel]
                if stored.seed.held[channel] is None
                else _value(serialisation, stored.seed.values[channel])
            )
    return found


def _value(serialisation: Serialisation, stored: Encoded | EncodedList) -> Any:
    if isinstance(stored, Encoded):
        return serialisation.value(stored)
    return [serialisation.value(element) for element in breathing(map(Encoded, *stored))]
