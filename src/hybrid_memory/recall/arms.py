"""Two ways of finding that need no words: nearness of vectors, and the time that is asked for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybrid_memory.recall.columns import Columns, Floats
from hybrid_memory.recall.compared import Compared
from hybrid_memory.recall.moments import Span

# Where all vectors are about as near, none is far.
_LEAST_SPREAD = 0.5


def vector_scores(compared: Compared, cosines: NDArray[np.float32], neighbour: float) -> Floats:
    """From 0 for the farthest to 1 for the nearest, by slot; a turn means what its neighbours mean too.

    `neighbour` is how much those of both neighbours count, against its own.
    """
    scores = np.zeros(len(compared.there))
    if not len(compared.slots):
        return scores
    near = cosines[compared.places].astype(np.float64)
    mixed = near + neighbour * near[compared.before]
    mixed += neighbour * near[compared.after]
    nearest = float(mixed.max())
    farthest = min(float(mixed.min()), nearest - _LEAST_SPREAD)
    scores[compared.slots] = (mixed - farthest) / (nearest - farthest)
    return scores


def time_scores(columns: Columns, asked: Sequence[Span], fades_days: float) -> Floats:
    """1 for what happened in a span that is asked for; less for what was told afterwards, the later the less."""
    at = columns.at[: columns.used]
    scores = np.zeros(columns.used)
    for span in asked:
        late = at - span.end_day
        scores = np.maximum(scores, np.where(at < span.first_day, 0.0, np.exp(-np.maximum(late, 0.0) / fades_days)))
    return scores
