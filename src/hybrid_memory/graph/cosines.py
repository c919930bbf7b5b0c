"""How alike memories are to a question: about, for all of them, and exactly for those that it matters of."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hybrid_memory.graph.largest import nth_largest, places_of_largest

Rows = npt.NDArray[np.intp]
Scores = npt.NDArray[np.float32]
# The score of what is compared with nothing.
NONE = -9.0
# No cosine is below this one, and neither is what is about one.
LEAST = NONE / 2
# So many are looked at to begin with at least: fewer would take as long.
_FEWEST = 16


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

    def sharpen(self, count: int) -> None:
        """Have the true scores of the nearest: so many, and all that are as near as the last of them."""
        if self._exactly is not None:
            self._nearest(count)

    def best_first(self, expected: int = 64) -> Iterator[tuple[str, float]]:
        """The most alike first; of equals the one with the smaller id, so that the order is always the same.

        Args:
            expected: how many will be looked at, most likely.
        """
        taken, wanted = 0, max(expected, _FEWEST)
        while True:
            # Sorting all of a large user for ten of them would cost more than comparing.
            places = self._nearest(wanted)
            scores = self.scores[places]
            if wanted < len(places):
                # Others may be nearer than what is behind the last of these.
                sure = scores >= nth_largest(scores, wanted)
                places, scores = places[sure], scores[sure]
            ids = (self.node_ids[place] for place in places.tolist())
            ordered = sorted(zip((-scores).tolist(), ids, strict=True))
            for negative, node_id in ordered[taken:]:
                yield node_id, -negative
            if len(ordered) < wanted or wanted >= len(self.scores):
                return
            taken, wanted = len(ordered), wanted * 8

    def _nearest(self, count: int) -> Rows:
        """Where the nearest are: so many, all that are as near as the last of them, and some more; exact by now.

        Nothing else is as near: who is, is no further below the last of the approximate ones than both may be off.
        """
        places = places_of_largest(self.scores, count, 2 * self._off, LEAST)
        if self._exactly is not None:
            self.scores[places] = self._exactly(places)
        return places


NOTHING = Cosines((), np.empty(0, dtype=np.float32))
