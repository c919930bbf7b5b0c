"""Our side of a transfer: `state.db`."""

from collections.abc import Sequence

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol

from hybrid_memory.langgraph.checkpointer import HybridCheckpointer
from hybrid_memory.langgraph.restoring import restored
from hybrid_memory.langgraph.serialisation import Serialisation
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.checkpoints import inventory
from hybrid_memory.sqlite.checkpoints.rows import Address
from hybrid_memory.sqlite.state import StateFile
from hybrid_memory.transfer.moving import Key, Place


class OwnState:
    """The checkpoints of a data directory, open until `close`."""

    def __init__(self, settings: Settings, serde: SerializerProtocol, events: Events) -> None:
        self._state = StateFile(settings.data_dir.expanduser(), events)
        self._serialisation = Serialisation(serde)
        self.saver = HybridCheckpointer(settings=settings, serde=serde, state=self._state)

    def keys(self) -> Sequence[Key]:
        """All checkpoints; those of a line together and oldest first."""
        return [Key(*row) for row in self._state.database().read_blocking(inventory.checkpoints)]

    def ids_of_line(self, key: Key) -> frozenset[str]:
        """The ids of the checkpoints in the line of this one."""
        return self._state.database().read_blocking(lambda sql: inventory.ids_of_line(sql, Address(*key[:2])))

    def places(self, key: Key) -> Sequence[Place]:
        """The places of the writes of a checkpoint, in their order."""
        rows = self._state.database().read_blocking(
            lambda sql: inventory.places_of_writes(sql, Address(*key[:2]), key.checkpoint_id)
        )
        return [Place(*row) for row in rows]

    def read(self, key: Key) -> CheckpointTuple | None:
        """A checkpoint, one that pruning keeps for a DeltaChannel too, with the parent it was stored with."""
        stored = self._state.database().read_blocking(
            lambda sql: inventory.checkpoint(sql, Address(*key[:2]), key.checkpoint_id)
        )
        return None if stored is None else restored(self._serialisation, stored)

    def close(self) -> None:
        """Close the file."""
        self._state.close()
