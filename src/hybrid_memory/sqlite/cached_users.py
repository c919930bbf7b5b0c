"""Users' memories in `cache.db`: rows in, rows out, and never half of them.

A user's rows lie in buckets by a hash of their ids, sealed by how many there are and by the sum of the buckets'
checksums: a bucket that is missing, or from another time, is noticed. Buckets and seal are written in one transaction,
in which an older version gives way to a newer one that another process has written.
"""

import math
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic

from hybrid_memory.blocking import elsewhere
from hybrid_memory.models import MemoryNode, Relationship
from hybrid_memory.sqlite.columns import Row, decoded, encoded
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database

# Small buckets make small changes cheap, large ones make loads fast.
_ROWS_PER_BUCKET = {"nodes": 64, "relationships": 256}
_OVERFULL = 4
# A relationship of a deleted memory can be in any bucket.
_MOST_SEARCHED_FOR = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UnusableCopy(Exception):
    """What is kept of a user is not what was written, or not of this database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Which state of which user's memory a copy is.

    `latest_stamp` is the latest time of writing that its maker had seen, `confirmed_at` when it was last compared with
    Postgres.
    """

    user_id: str
    deployment: str
    incarnation: str
    version: int
    latest_stamp: datetime
    confirmed_at: datetime


@dataclass(frozen=True, slots=True)
class CachedUser:
    """All rows of one user."""

    standing: Standing
    nodes: Sequence[MemoryNode]
    relationships: Sequence[Relationship]


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed between `since` and the version of the copy they lead to."""

    since: int
    nodes: Sequence[MemoryNode]
    relationships: Sequence[Relationship]
    deleted: Collection[str]


@dataclass(frozen=True, slots=True)
class _Kind(Generic[Row]):
    """One of the two kinds of rows: what tells them apart, and what decides on the bucket."""

    name: str
    type: type[Row]
    key: tuple[str, ...]

    def key_of(self, row: Row) -> tuple[str, ...]:
        return tuple(getattr(row, name) for name in self.key)

    def bucket_of(self, row: Row, buckets: int) -> int:
        return _bucket(getattr(row, self.key[0]), buckets)


_NODES = _Kind("nodes", MemoryNode, ("node_id",))
_RELATIONSHIPS = _Kind("relationships", Relationship, ("from_node_id", "to_node_id", "relationship_type"))


@dataclass(slots=True)
class _Seal:
    """What a user's buckets add up to: rows and buckets of each kind, bytes, and the sum of their checksums."""

    standing: Standing
    rows: dict[str, int]
    buckets: dict[str, int]
    digest: int = 0
    bytes: int = 0
    used_at: int = 0

    def add(self, kind: str, rows: int, size: int, checksum: int) -> None:
        self.rows[kind] += rows
        self.bytes += size
        self.digest = _wrapped(self.digest + checksum)

    @property
    def added_up(self) -> tuple[Mapping[str, int], int, int]:
        return self.rows, self.bytes, self.digest


class CachedUsers:
    """The copies of all users, on one file that other processes may share."""

    def __init__(self, cache: Database) -> None:
        self._cache = cache

    async def get(self, user_id: str, deployment: str) -> CachedUser | None:
        """A user's copy, complete; None when there is none.

        Raises:
            UnusableCopy: there is one, and it is good for nothing.
            StorageUnavailable: the file cannot be read.
        """
        return await self._cache.read(lambda sql: _read(sql, user_id, deployment))

    async def replace(self, user: CachedUser) -> None:
        """Keep a complete copy instead of the one there, unless that is of a later version."""
        buckets, seal = await elsewhere(partial(_in_buckets, user))

        def write(sql: Statements) -> None:
            known = _sealed(sql, user.standing.user_id)
            if known is not None and _is_later(known.standing, user.standing):
                return
            _drop(sql, user.standing.user_id)
            checksums = [_write_bucket(sql, user.standing.user_id, *bucket) for bucket in buckets]
            _seal(sql, replace(seal, digest=_wrapped(sum(checksums))))

        await self._cache.write(write)

    async def apply(self, standing: Standing, changes: Changes) -> bool:
        """Bring a copy to a later version; False when only a complete copy can do that."""
        return await self._cache.write(lambda sql: _apply(sql, standing, changes))

    async def drop(self, user_id: str) -> None:
        """Remove a user's copy."""
        await self._cache.write(lambda sql: _drop(sql, user_id))

    async def make_room(self, *, unused_seconds: float, most_bytes: int) -> int:
        """Remove copies that nobody used for long, and the least recently used beyond a size; how many."""
        before = _now() - int(unused_seconds * 1_000_000)

        def leave(sql: Statements) -> int:
            leaving = [user_id for (user_id,) in sql.rows("cached_users.to_leave", before=before, most=most_bytes)]
            for user_id in leaving:
                _drop(sql, user_id)
            return len(leaving)

        return await self._cache.write(leave)


def _read(sql: Statements, user_id: str, deployment: str) -> CachedUser | None:
    seal = _sealed(sql, user_id)
    if seal is None:
        return None
    if seal.standing.deployment != deployment:
        raise UnusableCopy("it is of another database")
    found = replace(seal, rows=dict.fromkeys(seal.rows, 0), digest=0, bytes=0)
    try:
        nodes = _all_rows(sql, _NODES, found)
        relationships = _all_rows(sql, _RELATIONSHIPS, found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnusableCopy(f"it cannot be read: {type(error).__name__}") from error
    if found.added_up != seal.added_up:
        raise UnusableCopy("rows are missing or from another time")
    return CachedUser(seal.standing, nodes, relationships)


def _all_rows(sql: Statements, kind: _Kind[Row], found: _Seal) -> list[Row]:
    user_id, rows = found.standing.user_id, []
    for _, body, checksum in sql.rows("cached_buckets.of_user", user_id=user_id, kind=kind.name):
        more = decoded(kind.type, user_id, body)
        found.add(kind.name, len(more), len(body), checksum)
        rows += more
    return rows


def _in_buckets(user: CachedUser) -> tuple[list[tuple[str, int, bytes]], _Seal]:
    """The rows of a user as buckets, and their seal without a digest, which the file gives."""
    sizes = {"nodes": len(user.nodes), "relationships": len(user.relationships)}
    buckets = {name: max(1, math.ceil(size / _ROWS_PER_BUCKET[name])) for name, size in sizes.items()}
    bodies = [
        *_bodies(_NODES, user.nodes, buckets["nodes"]),
        *_bodies(_RELATIONSHIPS, user.relationships, buckets["relationships"]),
    ]
    return bodies, _Seal(user.standing, sizes, buckets, bytes=sum(len(body) for *_, body in bodies), used_at=_now())


def _bodies(kind: _Kind[Row], rows: Iterable[Row], buckets: int) -> Iterator[tuple[str, int, bytes]]:
    for bucket, content in _by_bucket(kind, rows, buckets).items():
        yield kind.name, bucket, encoded(kind.type, content)


def _apply(sql: Statements, standing: Standing, changes: Changes) -> bool:
    seal = _sealed(sql, standing.user_id)
    if seal is None or not _same_life(seal.standing, standing) or seal.standing.version < changes.since:
        return False
    if _is_later(seal.standing, standing):
        return True
    if seal.standing.version < standing.version:
        crowded = any(
            seal.rows[name] + len(rows) > _OVERFULL * _ROWS_PER_BUCKET[name] * seal.buckets[name]
            for name, rows in (("nodes", changes.nodes), ("relationships", changes.relationships))
        )
        if crowded or len(changes.deleted) > _MOST_SEARCHED_FOR:
            return False
        try:
            _change(sql, seal, changes)
        except (ValueError, TypeError, KeyError, AttributeError):
            return False
    stamp = max(seal.standing.latest_stamp, standing.latest_stamp)
    seal.standing, seal.used_at = replace(standing, latest_stamp=stamp), _now()
    _seal(sql, seal)
    return True


def _change(sql: Statements, seal: _Seal, changes: Changes) -> None:
    user_id, gone = seal.standing.user_id, frozenset(changes.deleted)
    touched = {_bucket(node_id, seal.buckets["nodes"]) for node_id in gone}
    _rewrite(sql, seal, _NODES, changes.nodes, gone, touched)
    touched = set()
    if gone:
        ids = [node_id.encode() for node_id in gone]
        rows = sql.rows("cached_buckets.of_user", user_id=user_id, kind=_RELATIONSHIPS.name)
        touched = {bucket for bucket, body, _ in rows if any(node_id in body for node_id in ids)}
    _rewrite(sql, seal, _RELATIONSHIPS, changes.relationships, gone, touched)


def _rewrite(  # noqa: PLR0913, PLR0917 - all of them belong to one bucket's change
    sql: Statements, seal: _Seal, kind: _Kind[Row], rows: Iterable[Row], gone: frozenset[str], touched: Collection[int]
) -> None:
    """Take out of the touched buckets what mentions a deleted memory, and put the new rows into theirs."""
    user_id, new = seal.standing.user_id, _by_bucket(kind, rows, seal.buckets[kind.name])
    for bucket in new.keys() | set(touched):
        known: dict[tuple[str, ...], Row] = {}
        before = sql.row("cached_buckets.get", user_id=user_id, kind=kind.name, bucket=bucket)
        if before is not None:
            _, body, checksum = before
            known = {kind.key_of(row): row for row in decoded(kind.type, user_id, body)}
            seal.add(kind.name, -len(known), -len(body), -checksum)
        content = {key: row for key, row in known.items() if gone.isdisjoint(key[:2])}
        content |= {kind.key_of(row): row for row in new.get(bucket, ())}
        body = encoded(kind.type, list(content.values()))
        seal.add(kind.name, len(content), len(body), _write_bucket(sql, user_id, kind.name, bucket, body))


def _by_bucket(kind: _Kind[Row], rows: Iterable[Row], buckets: int) -> dict[int, list[Row]]:
    grouped: dict[int, list[Row]] = {}
    for row in rows:
        grouped.setdefault(kind.bucket_of(row, buckets), []).append(row)
    return grouped


def _bucket(node_id: str, buckets: int) -> int:
    return zlib.crc32(node_id.encode()) % buckets


def _write_bucket(sql: Statements, user_id: str, kind: str, bucket: int, body: bytes) -> int:
    checksum: int = sql.value("cached_buckets.keep", user_id=user_id, kind=kind, bucket=bucket, body=body)
    return checksum


def _drop(sql: Statements, user_id: str) -> None:
    sql.run("cached_buckets.forget", user_id=user_id)
    sql.run("cached_users.forget", user_id=user_id)


def _sealed(sql: Statements, user_id: str) -> _Seal | None:
    row: Any = sql.row("cached_users.get", user_id=user_id)
    if row is None:
        return None
    _, deployment, incarnation, version, nodes, edges, node_buckets, edge_buckets, digest, size, stamp, at, used = row
    standing = Standing(
        user_id=user_id,
        deployment=deployment,
        incarnation=incarnation,
        version=version,
        latest_stamp=_moment(stamp),
        confirmed_at=_moment(at),
    )
    rows = {"nodes": nodes, "relationships": edges}
    return _Seal(standing, rows, {"nodes": node_buckets, "relationships": edge_buckets}, digest, size, used)


def _seal(sql: Statements, seal: _Seal) -> None:
    standing = seal.standing
    sql.run(
        "cached_users.keep",
        user_id=standing.user_id,
        deployment=standing.deployment,
        incarnation=standing.incarnation,
        version=standing.version,
        node_count=seal.rows["nodes"],
        relationship_count=seal.rows["relationships"],
        node_buckets=seal.buckets["nodes"],
        relationship_buckets=seal.buckets["relationships"],
        digest=seal.digest,
        bytes=seal.bytes,
        latest_stamp=_microseconds(standing.latest_stamp),
        confirmed_at=_microseconds(standing.confirmed_at),
        used_at=seal.used_at,
    )


def _same_life(one: Standing, other: Standing) -> bool:
    return (one.deployment, one.incarnation) == (other.deployment, other.incarnation)


def _is_later(one: Standing, other: Standing) -> bool:
    """Whether both are of one life, and the first is the later; of two lives nobody can tell."""
    return _same_life(one, other) and one.version > other.version


def _wrapped(number: int) -> int:
    """Within SQLite's 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _now() -> int:
    return int(time.time() * 1_000_000)
