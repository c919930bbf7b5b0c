"""What a process remembers of the rows it stored, so that the next ones need not be compared with the file."""

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock

from hybrid_memory.sqlite.checkpoints.lists import Known
from hybrid_memory.sqlite.checkpoints.rows import Address, Line

_MOST_LINES = 20_000
_MOST_ELEMENTS = 200_000
_NOTHING: tuple[None, Mapping[str, str]] = None, {}


class Memory:
    """The lines of threads with the values of the last checkpoint in each, and the last list of each channel.

    Those that were kept longest ago are forgotten first.

    Only what is committed is kept here. It may be out of date all the same, because other processes work on the file:
    a line that is remembered wrongly is noticed when something is stored in it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._lines: OrderedDict[Address, tuple[Line, Mapping[str, str]]] = OrderedDict()
        self._lists: OrderedDict[tuple[Line, str], Known] = OrderedDict()
        self._elements = 0

    def line(self, address: Address) -> Line | None:
        """The line of a namespace of a thread, or None."""
        return self._lines.get(address, _NOTHING)[0]

    def versions_in(self, line: Line, address: Address) -> Mapping[str, str]:
        """Versions of channels that are kept in a line, as long as its values are not collected."""
        known, versions = self._lines.get(address, _NOTHING)
        return versions if known == line else {}

    def keep_line(self, address: Address, line: Line, versions: Mapping[str, str]) -> None:
        """Remember a line that is committed, with the versions of channels that are kept in it."""
        with self._lock:
            self._lines[address] = line, versions
            self._lines.move_to_end(address)
            if len(self._lines) > _MOST_LINES:
                self._lines.popitem(last=False)

    def list_of(self, line: Line, channel: str) -> Known | None:
        """What is known of the last list of a channel, or None."""
        return self._lists.get((line, channel))

    def keep_list(self, line: Line, channel: str, known: Known) -> None:
        """Remember a list that is committed."""
        with self._lock:
            earlier = self._lists.get((line, channel))
            self._lists[line, channel] = known
            self._lists.move_to_end((line, channel))
            self._elements += len(known.places) - (len(earlier.places) if earlier else 0)
            while self._elements > _MOST_ELEMENTS:
                _, forgotten = self._lists.popitem(last=False)
                self._elements -= len(forgotten.places)
