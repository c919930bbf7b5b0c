"""Random histories of two managers on one Postgres, held against a dictionary after every step."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from hybrid_memory import EntityRef, HybridMemoryManager
from hybrid_memory.errors import InvalidInput, UnknownMemory
from hybrid_memory.graph.delta import Delta
from hybrid_memory.memory.at_home import SourceAtHome
from hybrid_memory.memory.identity import entity_node_id
from hybrid_memory.memory.keeping import Keeper
from hybrid_memory.memory.loading import Loader
from hybrid_memory.memory.progress import Progress
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.user_memory import UserMemory
from hybrid_memory.models import Cleanup
from hybrid_memory.postgres.target import Targets
from hybrid_memory.sqlite.cached_users import CachedUsers, Changes, Standing
from tests.support.histories import CAMPAIGN, History, Length, check, finds
from tests.support.managers import settings_for
from tests.support.sqlite_damage import TO_A_CACHE, Damage, flipped_in_a_value

SHORT = Length(histories=10, steps=15)
NAMES = ("plan", "Plan", "pl'an")
ENTITY_KEYS = ("a", "b")
TYPES = ("relates_to", "led_to", "of_my_own")

which = st.integers(0, 1)
picks = st.integers(0, 7)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
tags = st.lists(st.sampled_from("xyz"), unique=True, max_size=2)
shares = st.sampled_from([0.0, 0.25, 1.0])

CACHE_FILE = Path(".hybrid_memory/cache.db")
LOST = {
    "buckets": "delete from cached_buckets where user_id = ?",
    "a bucket": "delete from cached_buckets where user_id = ? and kind = 'nodes' and bucket = 0",
    "the seal": "delete from cached_users where user_id = ?",
}
DAMAGES = [damage for damage in TO_A_CACHE if damage is not flipped_in_a_value]

Model = dict[str, dict[str, Any]]
Edges = dict[tuple[str, str, str], float]


class TwoManagers(History):
    """Every history has a user of its own; both managers must show the model, whoever wrote."""

    managers: ClassVar[list[HybridMemoryManager]]
    bug: ClassVar["Bug | None"] = None
    outside: ClassVar["asyncpg.Connection[asyncpg.Record]"]

    def __init__(self) -> None:
        super().__init__()
        self.user = f"user {self.number}"
        self.memories: Model = {}
        self.edges: Edges = {}
        self.stubs: set[str] = set()
        self.version = 0

    def named(self, pick: int) -> str | None:
        """One of the memories there are; None while there is none."""
        ids = sorted(self.memories)
        return ids[pick % len(ids)] if ids else None

    @rule(by=which, text=texts, tags=tags, importance=shares, name=st.none() | st.sampled_from(NAMES))
    def store(self, by: int, text: str, tags: list[str], importance: float, name: str | None) -> None:
        call = self.managers[by].store_persistent_memory(
            self.user, text, tags=tags, metadata={"by": by}, importance=importance, node_id=name
        )
        node_id = self.run(call)
        row = {"text": text, "tags": tuple(tags), "metadata": {"by": by}, "importance": importance, "name": name}
        twins = self.twins(text)
        if name is None and twins:
            assert node_id == min(twins)
        else:
            assert name is not None or node_id not in self.memories
            self.memories[node_id] = row
        self.written()

    def twins(self, text: str) -> list[str]:
        """The memories that say just that; one without a name of its own is not stored beside them."""
        return [node_id for node_id, row in self.memories.items() if row.get("text") == text]

    @rule(by=which, items=st.lists(texts, min_size=1, max_size=4))
    def store_many(self, by: int, items: list[str]) -> None:
        ids = self.run(self.managers[by].store_many(self.user, [{"content": text} for text in items]))
        for node_id, text in zip(ids, items, strict=True):
            row = {"text": text, "tags": (), "metadata": {}, "importance": 0.5, "name": None}
            if twins := self.twins(text):
                assert node_id == min(twins)
            else:
                self.memories[node_id] = row
        self.written()

    @rule(by=which, entity=st.sampled_from("12"), key=st.sampled_from(ENTITY_KEYS), value=picks, alias=tags)
    def merge(self, by: int, entity: str, key: str, value: int, alias: list[str]) -> None:
        call = self.managers[by].store_entity(
            self.user,
            entity_id=entity,
            entity_system="crm",
            entity_type="account",
            entity_name=f"Account {entity}",
            data={key: value},
            aliases=alias,
        )
        self.reported(self.run(call), {key: value}, alias)
        self.written()

    @rule(by=which, entity=st.sampled_from("12"), other=st.sampled_from("234"))
    def speak_of(self, by: int, entity: str, other: str) -> None:
        """An entity is related to one that need not be there."""
        call = self.managers[by].store_entity(
            self.user,
            entity_id=entity,
            entity_system="crm",
            entity_type="account",
            entity_name=f"Account {entity}",
            relations=[("of_my_own", EntityRef("crm", other))],
        )
        node_id, target = self.run(call), entity_node_id(self.user, "crm", other)
        self.reported(node_id, {}, [])
        if target not in self.memories:
            self.stubs.add(target)
        self.edges[node_id, target, "of_my_own"] = 1.0
        self.written()

    def reported(self, node_id: str, data: dict[str, int], aliases: list[str]) -> None:
        known = self.memories.setdefault(node_id, {"data": {}, "aliases": set(), "updates": 0})
        known["data"].update(data)
        known["aliases"].update(aliases)
        known["updates"] += 1
        self.stubs.discard(node_id)

    @rule(by=which, start=picks, end=picks, kind=st.sampled_from(TYPES), strength=shares)
    def relate(self, by: int, start: int, end: int, kind: str, strength: float) -> None:
        one, two = self.named(start), self.named(end)
        if one is None or two is None:
            return
        self.run(self.managers[by].relate(self.user, one, two, kind, strength=strength))
        self.edges[one, two, kind] = strength
        self.written()

    @rule(by=which, start=picks)
    def relate_to_nothing(self, by: int, start: int) -> None:
        one = self.named(start) or str(uuid4())
        with pytest.raises(UnknownMemory):
            self.run(self.managers[by].relate(self.user, one, str(uuid4()), "led_to"))

    @rule(by=which, pick=picks, text=st.none() | texts, importance=st.none() | shares)
    def update(self, by: int, pick: int, text: str | None, importance: float | None) -> None:
        node_id = self.named(pick)
        if node_id is None:
            return
        fields = {"content": text, "importance": importance}
        given = {key: value for key, value in fields.items() if value is not None}
        call = self.managers[by].update_memory(self.user, node_id, **given)
        row = self.memories[node_id]
        if "data" in row:
            with pytest.raises(InvalidInput):
                self.run(call)
            return
        self.run(call)
        row |= {"text" if key == "content" else key: value for key, value in given.items()}
        self.written()

    @rule(by=which, pick=picks)
    def forget(self, by: int, pick: int) -> None:
        node_id = self.named(pick)
        if node_id is None:
            assert self.run(self.managers[by].forget(self.user, str(uuid4()))) is False
            return
        assert self.run(self.managers[by].forget(self.user, node_id)) is True
        del self.memories[node_id]
        self.edges = {key: strength for key, strength in self.edges.items() if node_id not in key[:2]}
        self.written()

    @rule(by=which, keep=tags)
    def clean_up(self, by: int, keep: list[str]) -> None:
        call = self.managers[by].cleanup(timedelta(microseconds=1), user_id=self.user, keep_tags=keep)
        gone = {node_id for node_id, row in self.memories.items() if not set(keep) & set(row.get("tags", ()))}
        lost = {key for key in self.edges if gone & set(key[:2])}
        # A place that nothing points at any more needs not be held.
        free = self.stubs - {end for key in self.edges for end in key[:2]}
        done = Cleanup(memories=len(gone), relationships=len(lost), users=1 if gone | free else 0)
        assert self.run(call) == done
        self.memories = {node_id: row for node_id, row in self.memories.items() if node_id not in gone}
        self.edges = {key: strength for key, strength in self.edges.items() if key not in lost}
        self.stubs -= free
        if gone | free:
            self.written()

    @rule(by=which)
    def forget_deletions(self, by: int) -> None:
        """As after the time they are remembered for; who has not heard of them has to load afresh."""
        parts = self.managers[by]._parts
        assert parts is not None
        self.run(parts.housekeeping.trim(datetime.now(UTC)))

    @rule(by=which)
    def lose_the_session(self, by: int) -> None:
        sessions_of(self.managers[by])._sessions.pop(self.user, None)

    @rule(by=which)
    def restart(self, by: int) -> None:
        """The process ends as it should, and another begins with what it has left."""
        self.run(self.managers[by].aclose())
        self.run(started(self.managers[by], self.bug))

    @rule(by=which, last_words=st.booleans())
    def die(self, by: int, last_words: bool) -> None:  # noqa: FBT001 - Hypothesis gives rules keywords
        """The process is killed, and what it had not written yet to the cache is lost."""
        keeper = keeper_of(self.managers[by])
        if last_words:
            self.run(keeper.written())
        keeper._unwritten.clear()
        sessions_of(self.managers[by])._sessions.clear()

    @rule(by=which, pick=picks)
    def forget_between_two_processes(self, by: int, pick: int) -> None:
        """A session that begins with a copy forgets something; the next one begins with its copy."""
        self.die(by, last_words=True)
        self.run(self.managers[by].ensure_user_memories(self.user))
        self.forget(by, pick)
        self.die(by, last_words=True)

    @rule(by=which, what=st.sampled_from(sorted(LOST)))
    def lose_rows_of_the_copy(self, by: int, what: str) -> None:
        self.run(keeper_of(self.managers[by]).written())
        cache = keeper_of(self.managers[by])._users._cache
        cache.write_blocking(lambda sql: sql.connection.execute(LOST[what], (self.user,)).fetchall())
        self.die(by, last_words=False)

    @rule(damage=st.sampled_from(DAMAGES), number=st.integers(0, 1000))
    def damage_the_cache(self, damage: Damage, number: int) -> None:
        """While nobody runs."""
        for manager in self.managers:
            self.run(manager.aclose())
        damage(CACHE_FILE, random.Random(number))
        for manager in self.managers:
            self.run(started(manager, self.bug))

    def written(self) -> None:
        """After an acknowledged write the version has risen."""
        version = self.run(self.outside.fetchval(STATE, self.user))
        assert version > self.version
        self.version = version

    @invariant()
    def both_show_the_model(self) -> None:
        for manager in self.managers:
            memory = self.run(manager.ensure_user_memories(self.user))
            assert shown(memory) == self.memories
            assert {
                (edge.from_node_id, edge.to_node_id, edge.relationship_type): edge.strength
                for edge in memory.get_all_edges()
            } == self.edges
            assert (memory.version, memory.stale) == (self.version, False)

    @invariant()
    def the_counters_are_the_counts(self) -> None:
        state = self.run(self.outside.fetch(STATE, self.user))
        entities = sum("data" in row for row in self.memories.values()) + len(self.stubs)
        expected = (self.version, len(self.memories) + len(self.stubs), len(self.edges), entities)
        assert [tuple(row) for row in state] == ([expected] if self.version else [])
        assert [tuple(row) for row in self.run(self.outside.fetch(ROWS, self.user))] == [expected[1:]]
        stats = self.run(self.managers[0].user_stats(self.user))
        seen = (self.version, len(self.memories), len(self.edges), entities - len(self.stubs))
        assert (stats.version, stats.node_count, stats.relationship_count, stats.entity_count) == seen


STATE = """
select version, node_count, relationship_count, entity_count from memory.user_metadata where user_id = $1
"""
ROWS = """
select (select count(*) from memory.nodes where user_id = $1),
       (select count(*) from memory.relationships where user_id = $1),
       (select count(*) from memory.nodes where user_id = $1 and context_type = 'domain_entity')
"""


def shown(memory: UserMemory) -> Model:
    """What a memory holds, in the words of the model."""
    found: Model = {}
    for node in memory.get_all_nodes():
        if node.context_type == "domain_entity":
            content = node.content
            row = {"data": content["entity_data"], "aliases": set(content["aliases"])}
            found[node.node_id] = row | {"updates": content["update_count"]}
        else:
            row = {"text": node.text, "tags": node.tags, "metadata": node.metadata, "importance": node.importance}
            found[node.node_id] = row | {"name": node.external_id}
    return found


def sessions_of(manager: HybridMemoryManager) -> Sessions:
    assert manager._parts is not None
    return manager._parts.sessions


def keeper_of(manager: HybridMemoryManager) -> Keeper:
    keeper = sessions_of(manager)._filling._keeper
    assert keeper is not None
    return keeper


def loader_of(sessions: Sessions) -> Loader:
    assert isinstance(sessions._filling._source, SourceAtHome)
    assert isinstance(sessions._filling._source.postgres, Loader)
    return sessions._filling._source.postgres


Bug = type[Loader | Sessions | CachedUsers]


async def started(manager: HybridMemoryManager, bug: Bug | None) -> None:
    """Start it, with a bug if one is planted."""
    await manager.start()
    sessions = sessions_of(manager)
    parts = {Sessions: sessions, Loader: loader_of(sessions), CachedUsers: keeper_of(manager)._users}
    for kind, part in parts.items():
        if bug is not None and issubclass(bug, kind):
            part.__class__ = bug


class DeletionsIgnored(Loader):
    """A bug: what another instance deleted stays."""

    async def changes(self, user_id: str, incarnation: str | None, since: int, *, counting: bool) -> Delta | None:
        delta = await super().changes(user_id, incarnation, since, counting=counting)
        if delta is None:
            return None
        return Delta(
            incarnation=delta.incarnation,
            version=delta.version,
            nodes=delta.nodes,
            relationships=delta.relationships,
            since=delta.since,
        )


class NeverOld(Sessions):
    """A bug: what was loaded once is taken for fresh."""

    async def opened(self, user_id: str, progress: Progress | None = None) -> UserMemory:
        session = self._session(user_id)
        return session.memory if session.graph.loaded else await super().opened(user_id, progress)


class CopiesKeepWhatWasDeleted(CachedUsers):
    """A bug: what was deleted stays in the copy that the next process begins with."""

    async def apply(self, standing: Standing, changes: Changes) -> bool:
        return await super().apply(standing, replace(changes, deleted=()))


@contextmanager
def two_managers(targets: Targets) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        TwoManagers.managers = [HybridMemoryManager(settings_for(targets)) for _ in range(2)]
        TwoManagers.outside = runner.run(asyncpg.connect(**targets.administration.asyncpg_arguments()))
        try:
            for manager in TwoManagers.managers:
                runner.run(started(manager, TwoManagers.bug))
            yield runner
        finally:
            for manager in TwoManagers.managers:
                runner.run(manager.aclose())
            runner.run(TwoManagers.outside.close())


@pytest.mark.parametrize(
    "length",
    [SHORT, pytest.param(CAMPAIGN, marks=[pytest.mark.campaign, pytest.mark.timeout(1800)])],
    ids=["short", "campaign"],
)
def test_two_managers_and_a_dictionary_agree(targets_outside: Targets, rng: random.Random, length: Length) -> None:
    with two_managers(targets_outside) as runner:
        check(TwoManagers, rng, length, runner)


@pytest.mark.parametrize("bug", [DeletionsIgnored, NeverOld, CopiesKeepWhatWasDeleted])
def test_a_planted_bug_is_found(
    targets_outside: Targets, rng: random.Random, bug: Bug, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TwoManagers, "bug", bug)
    with two_managers(targets_outside) as runner:
        assert finds(TwoManagers, rng, Length(histories=60, steps=20), runner)
