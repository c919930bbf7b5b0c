"""Two ways of finding that need no words: nearness of vectors, and the time that is asked for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_memory.recall.columns import NOBODY, Columns, Flags, Floats, Slots
from hybrid_memory.recall.moments import Span

# Where all vectors are about as near, none is far.
_LEAST_SPREAD = 0.5


def vector_scores(
    columns: Columns, slots: Slots, cosines: NDArray[np.float32], neighbour: float
) -> tuple[Floats, Flags]:
    """From 0 for the farthest to 1 for the nearest, and who has a vector; a turn means what its neighbours mean too.

    `slots` are those whose vectors were compared; `neighbour` is how much those of both neighbours count, against its
    own.
    """
    used = columns.used
    near = np.full(used, np.nan)
    near[slots] = cosines
    near[NOBODY] = np.nan
    there = ~np.isnan(near)
    if not there.any():
        return np.zeros(used), there
    mixed = near.copy()
    for beside in (columns.earlier[:used], columns.later[:used]):
        lent = near[beside]
        mixed += neighbour * np.where(np.isnan(lent), near, lent)
    # What has no vector is NaN, which these two pass over.
    nearest = float(np.fmax.reduce(mixed))
    farthest = min(float(np.fmin.reduce(mixed)), nearest - _LEAST_SPREAD)
    return np.where(there, (mixed - farthest) / (nearest - farthest), 0.0), there


def time_scores(columns: Columns, asked: Sequence[Span], fades_days: float) -> Floats:
    """1 for what happened in a span that is asked for; less for what was told afterwards, the later the less."""
    at = columns.at[: columns.used]
    scores = np.zeros(columns.used)
    for span in asked:
        late = at - span.end_day
        scores = np.maximum(scores, np.where(at < span.first_day, 0.0, np.exp(-np.maximum(late, 0.0) / fades_days)))
    return scores
