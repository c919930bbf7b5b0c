"""What a process remembers of the lists it stored, so that the next one need not be compared with the file."""

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

from hybrid_memory.sqlite.checkpoints.lists import Known

_MOST_ELEMENTS = 200_000


class ListKey(NamedTuple):
    """The list of a channel. `collected` is that of its line: rows may have gone when it has changed."""

    line: int
    collected: int
    channel: str


class KnownLists:
    """The last list of each channel, the least recently used ones forgotten first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lists: OrderedDict[ListKey, Known] = OrderedDict()
        self._elements = 0

    def get(self, key: ListKey) -> Known | None:
        """What is known of the list, or None."""
        with self._lock:
            if key in self._lists:
                self._lists.move_to_end(key)
            return self._lists.get(key)

    def keep(self, key: ListKey, known: Known) -> None:
        """Remember a list that is committed."""
        with self._lock:
            earlier = self._lists.pop(key, None)
            self._lists[key] = known
            self._elements += len(known.places) - (len(earlier.places) if earlier else 0)
            while self._elements > _MOST_ELEMENTS:
                _, forgotten = self._lists.popitem(last=False)
                self._elements -= len(forgotten.places)
