"""The elements of a list in the bytes of one row."""

from collections.abc import Iterable

import ormsgpack

from hybrid_memory.sqlite.checkpoints.rows import Encoded, EncodedList

LIST = "list"


def packed(elements: Iterable[Encoded]) -> bytes:
    """Elements one after another, each with the word for how to read it."""
    return ormsgpack.packb([part for element in elements for part in element])


def unpacked(content: bytes) -> EncodedList:
    """The other way."""
    parts = ormsgpack.unpackb(content)
    return EncodedList(parts[::2], parts[1::2])
