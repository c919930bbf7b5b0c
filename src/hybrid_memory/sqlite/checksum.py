"""Row checksums: how a damaged row is told from a good one.

Every table of ours ends with a column `checksum` over the table's name and all other columns in their order. Two SQL
functions, known on every connection, do the work inside the statements:

    insert ... values (:bucket, :key, :value, row_checksum('cached_values', :bucket, :key, :value))
    select ... where row_is_intact(checksum, 'cached_values', :bucket, :key, value)

A row that is not intact ends the statement with SQLite's own error for a corrupt file, so that both kinds of damage
are handled in one place.
"""

import struct
from hashlib import blake2b
from typing import Any

import apsw

Value = str | bytes | int | float | None


def row_checksum(table: str, *values: Value) -> int:
    """64 bits over a row. A whole number counts the same as integer and as float, as SQLite stores them."""
    digest = blake2b(_tagged(table), digest_size=8)
    for value in values:
        digest.update(_tagged(value))
    return int.from_bytes(digest.digest(), "big", signed=True)


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


def _tagged(value: Value) -> bytes:
    """A value with its kind and length, so that no two rows run together into the same bytes."""
    if value is None:
        return b"n"
    if isinstance(value, str):
        text = value.encode()
        return b"t%d:" % len(text) + text
    if isinstance(value, bytes):
        return b"b%d:" % len(value) + value
    if isinstance(value, float) and not value.is_integer():
        return b"f" + struct.pack(">d", value)
    return b"i%d;" % int(value)
