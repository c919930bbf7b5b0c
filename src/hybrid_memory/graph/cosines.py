"""How alike memories are to a question: about, for all of them, and exactly for those that it matters of."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from hybrid_memory.graph.largest import nth_largest

Rows = npt.NDArray[np.intp]
Scores = npt.NDArray[np.float32]
# No cosine is so small: that of what is compared with nothing.
NONE = -9.0
# So many of the nearest have their true cosines to begin with.
FEWEST_SHARP = 32


class Cosines:
    """The cosine of a question with memories: `scores[i]` is that of `node_ids[i]`, or `NONE`; in no order.

    Ids are added to the same `node_ids` as long as it is the same object: whoever looks places up does so once.

    Args:
        node_ids, scores: as above; there may be more ids than scores.
        off: how far each score may be from the truth.
        exactly: the true scores in some places.
    """

    def __init__(
        self,
        node_ids: Sequence[str],
        scores: Scores,
        off: float = 0.0,
        exactly: Callable[[Rows], Scores] | None = None,
    ) -> None:
        self.node_ids = node_ids
        self.scores = scores
        self._off = off
        self._exactly = exactly
        self._sharp = 0

    def sharpen(self, count: int) -> None:
        """Have the true scores of the nearest: so many, and all that are as near as the last of them.

        Nothing else is as near: who is, is no further below the last of the approximate ones than both may be off.
        """
        scores = self.scores
        if self._exactly is None or not self._off or count <= self._sharp:
            return
        least = nth_largest(scores, count) if count < len(scores) else NONE / 2
        places = np.flatnonzero(scores >= max(least - 2 * self._off, NONE / 2))
        scores[places] = self._exactly(places)
        self._sharp = count

    def best_first(self, expected: int = 64) -> Iterator[tuple[str, float]]:
        """The most alike first; of equals the one with the smaller id, so that the order is always the same.

        Args:
            expected: how many will be looked at, most likely.
        """
        scores = self.scores
        taken, wanted = 0, max(expected, FEWEST_SHARP)
        while True:
            # Sorting all of a large user for ten of them would cost more than comparing.
            self.sharpen(wanted)
            least = nth_largest(scores, wanted) if wanted < len(scores) else NONE
            places = np.flatnonzero(scores >= max(least, NONE / 2))
            ids = (self.node_ids[place] for place in places.tolist())
            ordered = sorted(zip((-scores[places]).tolist(), ids, strict=True))
            yield from ((node_id, -negative) for negative, node_id in ordered[taken:])
            if wanted >= len(scores):
                return
            taken, wanted = len(ordered), wanted * 8

    def nearest(self, count: int) -> list[tuple[str, float]]:
        """The first of these."""
        return list(islice(self.best_first(count), count))


NOTHING = Cosines((), np.empty(0, dtype=np.float32))
