"""Elements of lists that were stored before: recognised by what they contain, without serialising them again.

A chat puts the same messages into every checkpoint. What an element contains, as plain data, is compared each time, so
one that was changed in place is a new one; the full serialisation is made for new ones alone.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import ormsgpack
from langchain_core.messages import BaseMessage

from hybrid_memory.langgraph.serialisation import Serialisation
from hybrid_memory.sqlite.checkpoints.rows import Address, Encoded
from hybrid_memory.sqlite.checkpoints.writing import digest

_MOST_BYTES = 64 * 1024 * 1024
# Anything that is not plain data is refused instead of being written in a form of ormsgpack's own.
_PLAIN_DATA_ALONE = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_MESSAGES = "langchain_core.messages."

Digests = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ListByElements:
    """A list on the way into the file: the digests of its elements now, an element's bytes when they are needed."""

    digests: Sequence[bytes]
    _elements: Sequence[Any]
    _encoded: Mapping[int, Encoded]
    _serialisation: Serialisation
    _where: str

    def stored(self, index: int) -> Encoded:
        """An element as it is stored."""
        plain = self._encoded.get(index) or self._serialisation.plain(self._elements[index], self._where)
        return self._serialisation.sealed(plain)


@dataclass(slots=True)
class KnownElements:
    """What was in the last list of each channel; the least recently used ones are forgotten first."""

    _lists: OrderedDict[tuple[Address, str], Digests] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def digested(
        self, address: Address, channel: str, elements: Sequence[Any], serialisation: Serialisation
    ) -> ListByElements:
        """A list with the digests of its elements.

        Raises:
            InvalidInput: an element cannot be stored.
        """
        where = f"channel {channel!r}"
        before = self._get((address, channel))
        now: dict[bytes, bytes] = {}
        digests: list[bytes] = []
        encoded: dict[int, Encoded] = {}
        for index, element in enumerate(elements):
            print_ = _fingerprint(element)
            known = before.get(print_) if print_ is not None else None
            if known is None:
                plain = encoded[index] = serialisation.plain(element, where)
                known = digest(plain)
            digests.append(known)
            if print_ is not None:
                now[print_] = known
        self._keep((address, channel), now)
        return ListByElements(digests, elements, encoded, serialisation, where)

    def _get(self, key: tuple[Address, str]) -> Digests:
        with self._lock:
            if key in self._lists:
                self._lists.move_to_end(key)
            return self._lists.get(key, {})

    def _keep(self, key: tuple[Address, str], digests: Digests) -> None:
        with self._lock:
            self._bytes += _size(digests) - _size(self._lists.pop(key, {}))
            self._lists[key] = digests
            while self._bytes > _MOST_BYTES:
                self._bytes -= _size(self._lists.popitem(last=False)[1])


def _fingerprint(element: object) -> bytes | None:
    """Bytes that are equal only when the serialised elements are equal; None for what is not known to have some."""
    kind = type(element)
    try:
        if isinstance(element, BaseMessage):
            if not kind.__module__.startswith(_MESSAGES):
                return None
            content: object = (kind.__module__, kind.__name__, element.__dict__, element.__pydantic_extra__)
        elif kind in (str, dict, list):
            content = element
        else:
            return None
        return ormsgpack.packb(content, option=_PLAIN_DATA_ALONE)
    except (TypeError, ValueError):
        return None


def _size(digests: Digests) -> int:
    return sum(map(len, digests))
