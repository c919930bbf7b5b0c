"""What this process has written, in the graph of its user."""

from collections.abc import Mapping, Sequence

from hybrid_memory.graph.delta import Delta
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.postgres.batches import Applied
from hybrid_memory.postgres.echo import Written
from hybrid_memory.replication.pending import Pending


def delta_of(applied: Applied, written: Written) -> Delta:
    """What a write made different."""
    return Delta(
        incarnation=applied.incarnation,
        version=applied.version,
        nodes=written.nodes,
        relationships=written.relationships,
        deleted=written.deleted,
        since=applied.version - 1,
    )


def shows(graph: UserGraph, delivered: Sequence[tuple[str, Applied]]) -> bool:
    """Whether a graph has what was delivered by several runs, or was given all that it made different."""
    last = delivered[-1][1]
    is_given = all(applied.written is not None for _, applied in delivered)
    return graph.incarnation in (None, last.incarnation) and (is_given or graph.version >= last.version)


def uncover(graph: UserGraph, pending: Pending | None, up_to: Mapping[str, int]) -> None:
    """Take off what waited, that of each run up to a number: what is below shows it."""
    if pending is not None:
        pending.remove(up_to)
        graph.lay_over(pending.over if pending else None)
