"""Lists that grow: what was in the last one is recognised without serialising it again.

A chat puts the same messages into every checkpoint. A cheap print of all that a list contains is compared with that of
the last one, so a message that was changed in place is noticed; only what is new is serialised in full.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from threading import Lock
from typing import Any, NamedTuple

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
_MESSAGES = (AIMessage, AIMessageChunk, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage)
_FIELDS, _EXTRA_FIELDS = attrgetter("__dict__"), attrgetter("__pydantic_extra__")
_PLAIN = 0
_KINDS: Mapping[type, int] = {
    **dict.fromkeys((str, dict, list, int, float, bool, type(None)), _PLAIN),
    **{message: number for number, message in enumerate(_MESSAGES, _PLAIN + 1)},
}


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


class _Print(NamedTuple):
    """All that the serialised form of a list depends on, so that equal prints mean equal lists."""

    kinds: bytes
    contents: bytes
    extras: bytes

    @classmethod
    def of(cls, elements: Sequence[Any]) -> "_Print | None":
        """That of messages alone or of plain data alone; None for any other list."""
        try:
            kinds = bytes(map(_KINDS.__getitem__, map(type, elements)))
            if not any(kinds):
                return cls(kinds, _packed(elements), b"")
            return cls(kinds, _packed(list(map(_FIELDS, elements))), _packed(list(map(_EXTRA_FIELDS, elements))))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return sum(map(len, self))

    def begins_with(self, other: "_Print") -> bool:
        """Whether the first elements are those of another list: in the bytes of each it is said where it ends."""
        return all(map(bytes.startswith, self, other))


class _Last(NamedTuple):
    """The last list of a channel."""

    print_: _Print
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
        print_ = _Print.of(elements)
        last = self._get(key) if print_ else None
        digests = list(last.digests) if last and print_ and print_.begins_with(last.print_) else []
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
            self._bytes += last.print_.size - (earlier.print_.size if earlier else 0)
            while self._bytes > _MOST_BYTES:
                self._bytes -= self._lists.popitem(last=False)[1].print_.size


def _packed(elements: Sequence[object]) -> bytes:
    """The bytes of elements, one after another.

    Raises:
        TypeError: there is something else than plain data in one.
    """
    header = 1 if len(elements) < 16 else 3 if len(elements) < 65_536 else 5  # noqa: PLR2004 - the format's own steps
    return ormsgpack.packb(elements, option=_PLAIN_DATA_ALONE)[header:]
