"""Lists that grow: what was in the last one is recognised without serialising it again.

A chat puts the same messages into every checkpoint. A cheap print of all that a list contains is compared with that of
the last one, so a message that was changed in place is noticed; only what is new is serialised in full.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import ormsgpack
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from hybrid_memory.langgraph.serialisation import Serialisation
from hybrid_memory.sqlite.breathing import breathing
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
# A message is what its fields are; of other classes that is not known.
_MESSAGES: Mapping[type, str] = {
    kind: f"{kind.__module__}:{kind.__name__}"
    for kind in (AIMessage, AIMessageChunk, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage)
}
_PLAIN = (str, dict, list, int, float, bool, type(None))


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


@dataclass(frozen=True, slots=True)
class _Last:
    """The last list of a channel."""

    print_: bytes
    digests: Sequence[bytes]


class KnownElements:
    """What was in the last list of each channel; the least recently used ones are forgotten first."""

    def __init__(self) -> None:
        self._lists: OrderedDict[tuple[Address, str], _Last] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def digested(
        self, address: Address, channel: str, elements: Sequence[Any], serialisation: Serialisation
    ) -> ListByElements:
        """A list with the digests of its elements.

        Raises:
            InvalidInput: an element cannot be stored.
        """
        where = f"channel {channel!r}"
        key = (address, channel)
        print_ = _print(elements)
        last = self._get(key) if print_ else None
        # Each element says in its print where it ends, so the same beginning means the same elements.
        digests = list(last.digests) if last and print_ and print_.startswith(last.print_) else []
        encoded: dict[int, Encoded] = {}
        for index in breathing(range(len(digests), len(elements))):
            plain = encoded[index] = serialisation.plain(elements[index], where)
            digests.append(digest(plain))
        if print_:
            self._keep(key, _Last(print_, digests))
        return ListByElements(digests, elements, encoded, serialisation, where)

    def _get(self, key: tuple[Address, str]) -> _Last | None:
        with self._lock:
            if key in self._lists:
                self._lists.move_to_end(key)
            return self._lists.get(key)

    def _keep(self, key: tuple[Address, str], last: _Last) -> None:
        with self._lock:
            earlier = self._lists.pop(key, None)
            self._lists[key] = last
            self._bytes += len(last.print_) - (len(earlier.print_) if earlier else 0)
            while self._bytes > _MOST_BYTES:
                self._bytes -= len(self._lists.popitem(last=False)[1].print_)


def _print(elements: Sequence[Any]) -> bytes | None:
    """Bytes that begin like those of another list only if all its elements are alike; None when there are none."""
    try:
        packed = ormsgpack.packb([_content(element) for element in elements], option=_PLAIN_DATA_ALONE)
    except (TypeError, ValueError):
        return None
    return packed[_header_bytes(len(elements)) :]


def _content(element: Any) -> object:
    """All that the serialised form of an element depends on.

    Raises:
        TypeError: that is not known of its type.
    """
    kind = type(element)
    name = _MESSAGES.get(kind)
    if name is not None:
        return (name, element.__dict__, element.__pydantic_extra__)
    if kind in _PLAIN:
        return (None, element)
    raise TypeError(kind)


def _header_bytes(length: int) -> int:
    """How many bytes msgpack takes for the length of an array."""
    return 1 if length < 16 else 3 if length < 65_536 else 5  # noqa: PLR2004 - the format's own steps
