"""Random transactions of several users against Postgres, held against a dictionary."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from hybrid_memory.errors import ConfigurationError
from hybrid_memory.observability import Events
from hybrid_memory.postgres.database import Database
from hybrid_memory.postgres.target import Targets
from hybrid_memory.queries import parse
from hybrid_memory.settings import Settings
from tests.support.histories import CAMPAIGN, DEFAULT, History, Length, check, finds

NAMES = ("nick", "Nick", "nick'", "{nick,anna}", "anna")
STATEMENTS = """
-- name: put
-- What a user's row holds.
insert into memory.user_metadata (user_id, version) values (:user_id, :version)
on conflict (user_id) do update set version = excluded.version;

-- name: delete
-- The row of a user.
delete from memory.user_metadata where user_id = :user_id;

-- name: all
-- Whatever the policies show.
select user_id, version from memory.user_metadata;
"""
names = st.sampled_from(NAMES)
groups = st.lists(names, min_size=1, max_size=3, unique=True)
versions = st.integers(0, 2**40)


class Abandoned(Exception):
    """The application changes its mind."""


class Users(History):
    """Every history has users of its own in the one database."""

    database: ClassVar[Database]

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, int] = {}

    def bound(self, users: Sequence[str]) -> list[str]:
        return [self.own(name) for name in users]

    def own(self, name: str) -> str:
        return f"{self.number}:{name}"

    async def change(self, users: Sequence[str], name: str, version: int | None, *, abandon: bool = False) -> None:
        async with self.database.transaction(self.bound(users)) as transaction:
            if version is None:
                await transaction.execute("history.delete", user_id=self.own(name))
            else:
                await transaction.execute("history.put", user_id=self.own(name), version=version)
            if abandon:
                raise Abandoned

    async def seen_by(self, users: Sequence[str]) -> dict[str, int]:
        async with self.database.transaction(self.bound(users)) as transaction:
            rows = await transaction.fetch("history.all")
        return {row["user_id"]: row["version"] for row in rows}

    @rule(name=names, version=versions)
    def put(self, name: str, version: int) -> None:
        self.run(self.change([name], name, version))
        self.model[name] = version

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.run(self.change([name], name, None))
        self.model.pop(name, None)

    @rule(name=names, version=versions | st.none())
    def abandon(self, name: str, version: int | None) -> None:
        with pytest.raises(Abandoned):
            self.run(self.change([name], name, version, abandon=True))

    @rule(users=groups, name=names, version=versions)
    def intrude(self, users: list[str], name: str, version: int) -> None:
        """A write to a user the transaction is not bound to is refused, a delete finds nothing."""
        if name in users:
            self.run(self.change(users, name, version))
            self.model[name] = version
            return
        self.run(self.change(users, name, None))
        try:
            self.run(self.change(users, name, version))
        except ConfigurationError:
            return
        raise AssertionError(f"bound to {users} and wrote to {name}")

    @rule(users=groups)
    def read(self, users: list[str]) -> None:
        expected = {self.own(name): self.model[name] for name in users if name in self.model}
        assert self.run(self.seen_by(users)) == expected

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        assert self.run(self.seen_by(NAMES)) == {self.own(name): version for name, version in self.model.items()}


class BoundToEverybody(Users):
    """A bug: the transaction is bound to all users, whoever it is for."""

    def bound(self, users: Sequence[str]) -> list[str]:
        del users
        return super().bound(NAMES)


class AbandonedIsKept(Users):
    """A bug: what was abandoned is committed."""

    async def change(self, users: Sequence[str], name: str, version: int | None, *, abandon: bool = False) -> None:
        await super().change(users, name, version)
        if abandon:
            raise Abandoned


@contextmanager
def opened(targets: Targets, settings: Settings) -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        Users.database = runner.run(Database.open(targets, settings, Events()))
        Users.database._queries = {**Users.database._queries, **parse("history", STATEMENTS, "postgres")}
        try:
            yield runner
        finally:
            runner.run(Users.database.close())


@pytest.mark.parametrize("length", [DEFAULT, pytest.param(CAMPAIGN, marks=pytest.mark.campaign)])
def test_users_see_and_write_their_own_rows(
    targets: Targets, settings: Settings, rng: random.Random, length: Length
) -> None:
    with opened(targets, settings) as runner:
        check(Users, rng, length, runner)


@pytest.mark.parametrize("bug", [BoundToEverybody, AbandonedIsKept])
def test_a_planted_bug_is_found(targets: Targets, settings: Settings, rng: random.Random, bug: type[Users]) -> None:
    with opened(targets, settings) as runner:
        assert finds(bug, rng, DEFAULT, runner)
