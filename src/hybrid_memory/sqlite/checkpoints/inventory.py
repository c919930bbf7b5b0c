"""What there is, for whoever compares one file with another; checkpoints that pruning keeps out of sight count."""

from collections.abc import Sequence

from hybrid_memory.sqlite.checkpoints import reading
from hybrid_memory.sqlite.checkpoints.rows import Address, StoredCheckpoint
from hybrid_memory.sqlite.connection import Row, Statements


def checkpoints(sql: Statements) -> Sequence[Row]:
    """Thread, namespace and id of every checkpoint; those of a line together, oldest first."""
    return sql.rows("checkpoint_inventory.checkpoints")


def ids_of_line(sql: Statements, address: Address) -> frozenset[str]:
    """The ids of a line's checkpoints."""
    rows = sql.rows("checkpoint_inventory.ids_of_line", **address._asdict())
    return frozenset(checkpoint_id for (checkpoint_id,) in rows)


def checkpoint(sql: Statements, address: Address, checkpoint_id: str) -> StoredCheckpoint | None:
    """A checkpoint with its values and writes, and the parent it was stored with, wherever that is now."""
    row = sql.row("checkpoint_inventory.checkpoint", **address._asdict(), checkpoint_id=checkpoint_id)
    if row is None:
        return None
    found = reading.stored_checkpoint(row)
    reading.complete(sql, [found])
    return found


def places_of_writes(sql: Statements, address: Address, checkpoint_id: str) -> Sequence[Row]:
    """Task path, task, index and channel of every write of a checkpoint, in the order in which they are applied."""
    return sql.rows("checkpoint_inventory.places_of_writes", **address._asdict(), checkpoint_id=checkpoint_id)
