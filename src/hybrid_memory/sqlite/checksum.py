"""Row checksums: how a damaged row is told from a good one.

Every table of ours ends with a column `checksum` over the table's name and all other columns in their order. Two SQL
functions, known on every connection, do the work inside the statements:

    insert ... values (:bucket, :key, :value, row_checksum('cached_values', :bucket, :key, :value))
    select ... where row_is_intact(checksum, 'cached_values', :bucket, :key, value)

A row that is not intact ends the statement with SQLite's own error for a corrupt file, so that both kinds of damage
are handled in one place.
"""

from hashlib import sha256
from operator import length_hint
from struct import Struct
from typing import Any

import apsw
import ormsgpack

Value = str | bytes | int | float | None

_FIRST_64_BITS = Struct(">q")
_LARGE = 50_000
_WHOLE_BELOW = 2.0**63


def row_checksum(table: str, *values: Value) -> int:
    """64 bits over a row. A whole number counts the same as integer and as float, as SQLite stores them.

    Every value comes with its kind and length, so that no two rows run together into the same bytes.
    """
    parts: list[object] | tuple[object, ...] = values
    if float in map(type, parts):
        parts = [_whole(part) if isinstance(part, float) else part for part in parts]
    if sum(map(length_hint, parts)) > _LARGE:  # a copy of it all would cost as much as the hashing
        parts = [_hashed(part) for part in parts]
    checksum: int = _FIRST_64_BITS.unpack_from(sha256(ormsgpack.packb((table, parts))).digest())[0]
    return checksum


def _whole(number: float) -> float | int:
    return int(number) if number.is_integer() and -_WHOLE_BELOW <= number < _WHOLE_BELOW else number


def _hashed(part: object) -> object:
    """Its hash in place of a large value."""
    if not isinstance(part, (str, bytes)) or len(part) < _LARGE:
        return part
    return [isinstance(part, str), sha256(part.encode() if isinstance(part, str) else part).digest()]


def row_is_intact(checksum: Value, table: str, *values: Value) -> bool:
    """True; a row that is not what it was ends the statement.

    Raises:
        apsw.CorruptError: the checksum is that of another row.
    """
    if checksum != row_checksum(table, *values):
        raise apsw.CorruptError(f"a row of {table} is not the one that was written")
    return True


def register(connection: apsw.Connection) -> None:
    """Make both functions known to a connection."""
    function: Any  # apsw's own type knows only functions whose arguments may all be anything
    for function in (row_checksum, row_is_intact):
        connection.create_scalar_function(function.__name__, function, deterministic=True)
