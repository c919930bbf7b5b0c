"""Users' copies in `cache.db`: whole, of the right time and database, or not there."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import queries
from hybrid_memory.graph.delta import edge_key
from hybrid_memory.observability import Events
from hybrid_memory.sqlite import cached_users
from hybrid_memory.sqlite.cached_users import CachedUser, CachedUsers, Changes, Standing, UnusableCopy
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import CACHE
from tests.support.children import together
from tests.support.graphs import START, USER, History, edge, fact, id_of

HERE = "this database"
STANDING = Standing(user_id=USER, deployment=HERE, incarnation="one", version=1, latest_stamp=START, confirmed_at=START)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Database]:
    with Database(CACHE, tmp_path, Events()) as opened:
        yield opened


@pytest.fixture
def users(cache: Database) -> CachedUsers:
    return CachedUsers(cache)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_users, "_ROWS_PER_BUCKET", {"nodes": 2, "relationships": 2})


def copy_of(history: History, version: int, **standing: Any) -> CachedUser:
    state = history.states[version]
    return CachedUser(
        replace(STANDING, version=version, **standing), list(state.nodes.values()), list(state.edges.values())
    )


def changes_of(history: History, since: int, version: int) -> Changes:
    delta = history.between(since, version)
    return Changes(since, delta.nodes, delta.relationships, delta.deleted)


def written_at_random(rng: random.Random, writes: int, ids: int = 12) -> History:
    history = History()
    for _ in range(writes):
        nodes = [fact(rng.randrange(ids), str(rng.random())) for _ in range(rng.randrange(4))]
        edges = [edge(rng.randrange(ids), rng.randrange(ids), rng.choice("ab")) for _ in range(rng.randrange(4))]
        deleted = [id_of(rng.randrange(ids))] if rng.random() < 0.3 else []
        history.write(nodes, edges, deleted)
    return history


def assert_is(found: CachedUser | None, history: History, version: int) -> None:
    assert found is not None
    assert found.standing.version == version
    state = history.states[version]
    assert {node.node_id: node for node in found.nodes} == state.nodes
    assert {edge_key(one): one for one in found.relationships} == state.edges
    assert len(found.nodes) + len(found.relationships) == len(state.nodes) + len(state.edges)


def large(nodes: int = 1000) -> CachedUser:
    """A user whose every node leads to five others."""
    edges = [edge(one, (one * 7 + step) % nodes) for one in range(nodes) for step in range(5)]
    return CachedUser(STANDING, [fact(number, f"fact {number}") for number in range(nodes)], edges)


def bodies(cache: Database, user_id: str = USER) -> dict[tuple[str, int], bytes]:
    def read(sql: Statements) -> dict[tuple[str, int], bytes]:
        return {
            (kind, bucket): body
            for kind in ("nodes", "relationships")
            for bucket, body, _ in sql.rows("cached_buckets.of_user", user_id=user_id, kind=kind)
        }

    return cache.read_blocking(read)


def rows(cache: Database, statement: str) -> list[Any]:
    return cache.read_blocking(lambda sql: sql.connection.execute(statement).fetchall())


def execute(cache: Database, statement: str, *values: object) -> None:
    cache.write_blocking(lambda sql: sql.connection.execute(statement, values).fetchall())


async def test_what_is_kept_is_given_back(users: CachedUsers) -> None:
    assert await users.get(USER, HERE) is None
    copy = large()
    await users.replace(copy)
    found = await users.get(USER, HERE)
    assert found is not None
    assert found.standing == STANDING
    assert sorted(found.nodes, key=lambda node: node.node_id) == copy.nodes
    assert sorted(found.relationships, key=edge_key) == sorted(copy.relationships, key=edge_key)
    await users.drop(USER)
    assert await users.get(USER, HERE) is None


async def test_an_empty_user_is_a_copy_too(users: CachedUsers) -> None:
    await users.replace(CachedUser(STANDING, [], []))
    assert await users.get(USER, HERE) == CachedUser(STANDING, [], [])


@pytest.mark.usefixtures("small_buckets")
async def test_changes_lead_to_what_there_is(users: CachedUsers, rng: random.Random) -> None:
    """Random writes; the copy follows in steps of any size, and overlapping ones, or says that it cannot."""
    history, followed = written_at_random(rng, 150), 0
    await users.replace(copy_of(history, 0))
    at = 0
    while at < history.version:
        to = min(history.version, at + rng.randrange(1, 4))
        since = max(0, at - rng.randrange(3))
        if await users.apply(replace(STANDING, version=to), changes_of(history, since, to)):
            followed += 1
        else:
            await users.replace(copy_of(history, to))
        at = to
        assert_is(await users.get(USER, HERE), history, at)
    assert followed > 30


async def test_a_change_of_ten_rows_writes_few(users: CachedUsers, cache: Database) -> None:
    await users.replace(large(10_000))
    before = bodies(cache)
    news = [fact(number, "changed", version=2) for number in range(0, 10_000, 1000)]
    assert await users.apply(replace(STANDING, version=2), Changes(1, news, [], []))
    after = bodies(cache)
    touched = [key for key in after if after[key] != before[key]]
    assert 1 <= len(touched) <= len(news)
    assert sum(len(after[key]) for key in touched) < sum(map(len, after.values())) / 20


async def test_a_deleted_memory_leaves_nothing_behind(users: CachedUsers, cache: Database) -> None:
    copy = large(300)
    secret = fact(17, "the secret")
    await users.replace(replace(copy, nodes=[secret if node.node_id == id_of(17) else node for node in copy.nodes]))
    assert b"the secret" in b"".join(bodies(cache).values())
    assert await users.apply(replace(STANDING, version=2), Changes(1, [], [], [id_of(17)]))
    left = b"".join(bodies(cache).values())
    assert b"the secret" not in left
    assert id_of(17).encode() not in left
    found = await users.get(USER, HERE)
    assert found is not None
    assert len(found.nodes) == 299


async def test_a_missing_bucket_is_noticed(users: CachedUsers, cache: Database) -> None:
    await users.replace(large())
    kept = bodies(cache)
    for kind, bucket in (("nodes", 3), ("relationships", 5)):
        assert (kind, bucket) in kept
        execute(cache, "delete from cached_buckets where kind = ? and bucket = ?", kind, bucket)
        with pytest.raises(UnusableCopy, match="missing"):
            await users.get(USER, HERE)
        await users.replace(large())
        assert await users.get(USER, HERE) is not None


async def test_a_bucket_from_another_time_is_noticed(users: CachedUsers, cache: Database) -> None:
    """As many rows, of as many bytes, with the right checksum of their own: only the sum tells."""
    await users.replace(CachedUser(STANDING, [fact(1, "one")], []))
    (old,) = rows(cache, "select * from cached_buckets")
    assert await users.apply(replace(STANDING, version=2), Changes(1, [fact(1, "two", version=2)], [], []))
    execute(cache, "replace into cached_buckets values (?, ?, ?, ?, ?)", *old)
    with pytest.raises(UnusableCopy, match="from another time"):
        await users.get(USER, HERE)


async def test_what_is_wrong_stays_noticed_after_a_change(users: CachedUsers, cache: Database) -> None:
    await users.replace(large())
    execute(cache, "delete from cached_buckets where kind = 'nodes' and bucket = 3")
    await users.apply(replace(STANDING, version=2), Changes(1, [fact(5, "new", version=2)], [], [id_of(9)]))
    with pytest.raises(UnusableCopy):
        await users.get(USER, HERE)


async def test_rows_of_another_version_of_this_library_are_no_copy(users: CachedUsers, cache: Database) -> None:
    await users.replace(CachedUser(STANDING, [fact(1)], []))
    execute(
        cache,
        "update cached_buckets set body = ?1, checksum = row_checksum('cached_buckets', user_id, kind, bucket, ?1)",
        b'{"rows": 1, "same": {}, "each": {"node_id": ["x"]}}',
    )
    with pytest.raises(UnusableCopy, match="ValueError"):
        await users.get(USER, HERE)
    assert not await users.apply(replace(STANDING, version=2), Changes(1, [fact(1, version=2)], [], []))


async def test_a_copy_of_another_database_is_not_used(users: CachedUsers) -> None:
    await users.replace(large(10))
    with pytest.raises(UnusableCopy, match="another database"):
        await users.get(USER, "another one")
    there = replace(STANDING, deployment="another one", version=2)
    assert not await users.apply(there, Changes(1, [], [], []))


async def test_an_older_version_never_replaces_a_newer_one(users: CachedUsers, rng: random.Random) -> None:
    history = written_at_random(rng, 9)
    await users.replace(copy_of(history, 7))
    await users.replace(copy_of(history, 5))
    assert_is(await users.get(USER, HERE), history, 7)
    assert await users.apply(replace(STANDING, version=6), changes_of(history, 5, 6))
    assert_is(await users.get(USER, HERE), history, 7)
    assert not await users.apply(replace(STANDING, version=9), changes_of(history, 8, 9)), "version 8 is missing"
    assert_is(await users.get(USER, HERE), history, 7)


async def test_another_life_replaces_whatever_its_version(users: CachedUsers, rng: random.Random) -> None:
    history = written_at_random(rng, 9)
    await users.replace(copy_of(history, 7))
    other = replace(STANDING, incarnation="two", version=3)
    assert not await users.apply(other, changes_of(history, 2, 3))
    await users.replace(copy_of(history, 3, incarnation="two"))
    assert_is(await users.get(USER, HERE), history, 3)


async def test_asking_again_without_news_is_remembered(users: CachedUsers) -> None:
    await users.replace(large(10))
    later = START + timedelta(hours=1)
    assert await users.apply(replace(STANDING, confirmed_at=later, latest_stamp=later), Changes(1, [], [], []))
    assert await users.apply(replace(STANDING, confirmed_at=later), Changes(1, [], [], []))
    found = await users.get(USER, HERE)
    assert found is not None
    assert (found.standing.confirmed_at, found.standing.latest_stamp) == (later, later)


async def test_many_deletions_and_rapid_growth_ask_for_a_complete_copy(users: CachedUsers) -> None:
    await users.replace(large(300))
    many = [id_of(number) for number in range(150)]
    assert not await users.apply(replace(STANDING, version=2), Changes(1, [], [], many))
    grown = [fact(number, version=2) for number in range(1000, 3000)]
    assert not await users.apply(replace(STANDING, version=2), Changes(1, grown, [], []))


async def test_users_are_kept_apart(users: CachedUsers, cache: Database) -> None:
    eve = replace(STANDING, user_id="eve")
    await users.replace(CachedUser(STANDING, [fact(1, "nick's")], [edge(1, 1)]))
    await users.replace(CachedUser(eve, [fact(1, "eve's", user_id="eve")], []))
    assert await users.apply(replace(eve, version=2), Changes(1, [], [], [id_of(1)]))
    for user_id, expected in ((USER, 1), ("eve", 0)):
        found = await users.get(user_id, HERE)
        assert found is not None
        assert [node.user_id for node in found.nodes] == [user_id] * expected
    await users.drop("eve")
    assert await users.get(USER, HERE) is not None
    # A bucket that lands at another user's place is not hers.
    execute(cache, "update cached_buckets set user_id = 'eve' where kind = 'nodes'")
    execute(cache, "update cached_users set user_id = 'eve'")
    assert await users.get("eve", HERE) is None


def test_every_statement_binds_its_user() -> None:
    across = {"cached_users.to_leave", "cached_users.verify", "cached_buckets.verify"}
    for name, query in queries.load("sqlite").items():
        if name.startswith(("cached_users.", "cached_buckets.")) and name not in across:
            assert "user_id" in query.parameters, name


async def test_room_is_made_by_whoever_was_not_used_lately(
    users: CachedUsers, cache: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = int(datetime.now(UTC).timestamp() * 1_000_000)
    for number in range(5):
        monkeypatch.setattr(cached_users, "_now", lambda number=number: start + number * 1_000_000)
        copy = large(50)
        await users.replace(replace(copy, standing=replace(STANDING, user_id=f"user {number}")))
    ((size,),) = rows(cache, "select distinct bytes from cached_users")

    async def there() -> list[bool]:
        return [await users.get(f"user {number}", HERE) is not None for number in range(5)]

    # Using one is what counts.
    monkeypatch.setattr(cached_users, "_now", lambda: start + 10_000_000)
    assert await users.apply(replace(STANDING, user_id="user 0"), Changes(1, [], [], []))
    assert await users.make_room(unused_seconds=3600, most_bytes=3 * size) == 2
    assert await there() == [True, False, False, True, True]
    assert await users.make_room(unused_seconds=6.5, most_bytes=10 * size) == 1
    assert await there() == [True, False, False, False, True]
    assert await users.make_room(unused_seconds=3600, most_bytes=0) == 2
    assert rows(cache, "select * from cached_buckets") == []


@asynccontextmanager
async def copies_in(directory: str) -> AsyncIterator[CachedUsers]:
    with Database(CACHE, Path(directory), Events()) as cache:
        yield CachedUsers(cache)


async def follow(events: Events, directory: str, seed: int, index: int) -> list[int]:
    """Follow a history at a pace of one's own, and look at what is kept; the versions seen, each of them whole."""
    del events
    history, rng, seen = written_at_random(random.Random(seed), 60), random.Random(seed + index), []
    async with copies_in(directory) as users:
        at = 1
        while at < history.version:
            to = min(history.version, at + rng.randrange(1, 4))
            if not await users.apply(replace(STANDING, version=to), changes_of(history, at, to)):
                await users.replace(copy_of(history, to))
            at = to
            found = await users.get(USER, HERE)
            assert found is not None
            assert_is(found, history, found.standing.version)
            seen.append(found.standing.version)
    return seen


async def test_processes_that_share_the_file_leave_the_newest_and_never_half(
    tmp_path: Path, rng: random.Random
) -> None:
    seed = rng.randrange(2**32)
    versions = await asyncio.to_thread(together, follow, 3, directory=str(tmp_path), seed=seed)
    for seen in versions:
        assert seen == sorted(seen)
    history = written_at_random(random.Random(seed), 60)
    async with copies_in(str(tmp_path)) as users:
        assert_is(await users.get(USER, HERE), history, history.version)
