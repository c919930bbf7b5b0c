"""Two ways of finding that need no words: nearness of vectors, and the time that is asked for."""

from collections.abc import Sequence

import numpy as np

from hybrid_memory.graph.cosines import LEAST, Scores
from hybrid_memory.recall.columns import NOBODY, Columns, Flags, Floats, Slots
from hybrid_memory.recall.moments import Span

# Where all vectors are about as near, none is far.
_LEAST_SPREAD = 0.5


def vector_scores(columns: Columns, by_place: Scores, neighbour: float) -> tuple[Floats, Flags]:
    """From 0 for the farthest to 1 for the nearest, by slot; and who has a vector.

    A turn means what its neighbours mean too: `neighbour` is how much those of both neighbours count, against its own.
    """
    used = columns.used
    near = by_place.take(columns.place[:used])
    there: Flags = near > LEAST

    def beside(neighbours: Slots) -> Floats:
        """Itself, where there is none."""
        found = near.take(neighbours[:used])
        return np.where(found > LEAST, found, near)

    if columns.turns:
        mixed = near + np.float32(neighbour) * beside(columns.earlier)
        mixed += np.float32(neighbour) * beside(columns.later)
    else:
        mixed = near * np.float32(1 + 2 * neighbour)
    all_there = bool(there[NOBODY + 1 :].all())
    among = mixed[NOBODY + 1 :] if all_there else mixed[there]
    if not len(among):
        return np.zeros(used, np.float32), there
    nearest = float(among.max())
    farthest = min(float(among.min()), nearest - _LEAST_SPREAD)
    mixed -= np.float32(farthest)
    mixed *= np.float32(1 / (nearest - farthest))
    if all_there:
        mixed[NOBODY] = 0.0
        return mixed, there
    return np.maximum(mixed, 0.0, out=mixed), there


def time_scores(columns: Columns, asked: Sequence[Span], fades_days: float) -> Floats:
    """1 for what happened in a span that is asked for; less for what was told afterwards, the later the less."""
    at = columns.at[: columns.used]
    scores = np.zeros(columns.used, np.float32)
    for span in asked:
        late = at - span.end_day
        told = np.where(at < span.first_day, 0.0, np.exp(-np.maximum(late, 0.0) / fades_days))
        scores = np.maximum(scores, told.astype(np.float32))
    return scores
