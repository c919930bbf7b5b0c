"""Values as they are, without making them: what is moved from file to file need not be imported, allowed or trusted.

Inside msgpack an object of Python is an extension: a code and bytes. Here it stays that, so that it is written as it
was read, byte by byte, and no constructor runs on the way.
"""

from dataclasses import dataclass
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import (
    EXT_DELTA_SNAPSHOT,
    EXT_METHOD_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
    JsonPlusSerializer,
)
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from hybrid_memory.errors import InvalidInput

_PLAIN = ("null", "bytes", "bytearray")
_OPTIONS = ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_PASSTHROUGH_DATACLASS | ormsgpack.OPT_REPLACE_SURROGATES


@dataclass(frozen=True, slots=True)
class Unmade:
    """An object that was not made: the code of its kind, and the bytes to make it from."""

    code: int
    content: bytes


class VerbatimSerializer:
    """A serializer of LangGraph's that leaves every object inside a value unmade."""

    def __init__(self) -> None:
        self._safe = JsonPlusSerializer(allowed_msgpack_modules=None)
        # The modules and names of the types that would have been made.
        self.types: set[tuple[str, str]] = set()

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The kind of a value, and its bytes."""
        if obj is None or isinstance(obj, (bytes, bytearray)):
            return self._safe.dumps_typed(obj)
        return "msgpack", _packed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value of these bytes.

        Raises:
            InvalidInput: they are pickled, encrypted, or of a kind nobody knows.
        """
        kind, content = data
        if kind in _PLAIN:
            return self._safe.loads_typed(data)
        if kind == "json":
            # What LangGraph wrote before it used msgpack is read by its own rules, which make safe types only.
            return self.loads_typed(self._safe.dumps_typed(self._safe.loads_typed(data)))
        if kind == "msgpack":
            return self._unpacked(content)
        if kind == "pickle":
            raise InvalidInput("a value is pickled; reading it could run anything, so it is not read")
        if "+" in kind:
            raise InvalidInput(
                f"a value is encrypted ({kind}); give import and export the cipher, see docs/checkpoints.md"
            )
        raise InvalidInput(f"a value is of the kind {kind!r}, which is unknown")

    def _unpacked(self, content: bytes) -> Any:
        return ormsgpack.unpackb(content, ext_hook=self._unmade, option=ormsgpack.OPT_NON_STR_KEYS)

    def _unmade(self, code: int, content: bytes) -> Unmade | _DeltaSnapshot:
        inside = self._unpacked(content)
        if code == EXT_DELTA_SNAPSHOT:  # checkpointers look for these
            return _DeltaSnapshot(inside)
        if code not in (EXT_METHOD_SINGLE_ARG, EXT_NUMPY_ARRAY):
            self.types.add((inside[0], inside[1]))
        return Unmade(code, content)


def _packed(value: Any) -> bytes:
    return ormsgpack.packb(value, default=_extension, option=_OPTIONS)


def _extension(value: Any) -> ormsgpack.Ext:
    if isinstance(value, Unmade):
        return ormsgpack.Ext(value.code, value.content)
    if isinstance(value, _DeltaSnapshot):
        return ormsgpack.Ext(EXT_DELTA_SNAPSHOT, _packed(value.value))
    raise TypeError(f"{type(value).__name__} was not read by this serializer")
