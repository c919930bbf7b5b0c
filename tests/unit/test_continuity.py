"""A database that does not go on where it was is noticed, once, and gets a new epoch."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from hybrid_memory.errors import SchemaMismatch, StorageUnavailable
from hybrid_memory.postgres.continuity import Continuity, Standing
from tests.support.recording import Recorded

START = Standing(uuid4(), "system-1-5-100", 1_000)


class Place:
    """A database as far as a continuity sees it."""

    def __init__(self, events: Recorded) -> None:
        self.standing = START
        self.away = False
        self.continuity = Continuity(self.renew, events)
        self.replaced = 0
        self.continuity.on_replaced(self._count)

    async def renew(self, seen: UUID) -> UUID:
        await asyncio.sleep(0)
        if self.away:
            raise StorageUnavailable("away")
        if self.standing.epoch == seen:
            self.standing = replace(self.standing, epoch=uuid4())
        return self.standing.epoch

    async def look(self, *, at: Standing | None = None, after: Awaitable[object] | None = None) -> None:
        async def look() -> Any:
            found = asdict(at or self.standing)
            if after is not None:
                await after
            return found

        await self.continuity.check(cast("Callable[[], Awaitable[Any]]", look))

    def _count(self) -> None:
        self.replaced += 1


@pytest.fixture
def place(events: Recorded) -> Place:
    return Place(events)


async def test_going_on_is_nothing_to_tell(place: Place) -> None:
    assert await place.continuity.identity() is None
    for position in (1_000, 1_000, 5_000):
        place.standing = replace(place.standing, position=position)
        await place.look()
    assert place.replaced == 0
    assert place.continuity.standing == place.standing


@pytest.mark.parametrize("change", [{"epoch": uuid4()}, {"server": "system-2-5-100"}])
async def test_another_epoch_or_server_is_another_database(place: Place, change: dict[str, Any]) -> None:
    await place.look()
    before = await place.continuity.identity()
    place.standing = replace(place.standing, **change)
    await place.look()
    assert place.replaced == 1
    assert await place.continuity.identity() == place.standing.identity != before
    await place.look()
    assert place.replaced == 1


async def test_one_that_is_not_as_far_gets_a_new_epoch(place: Place, events: Recorded) -> None:
    await place.look()
    place.standing = replace(START, position=999)
    await place.look()
    assert place.replaced == 1
    assert await place.continuity.identity() == place.standing.identity
    assert place.standing.epoch != START.epoch
    await place.look()
    assert place.replaced == 1
    assert len(events.named("database_replaced")) == 1


async def test_what_somebody_misses_is_told_once(place: Place) -> None:
    place.continuity.broken("before it has answered there is nothing to miss")
    await place.look()
    place.continuity.broken("a write is missing")
    place.continuity.broken("and another one")
    assert place.replaced == 1
    assert await place.continuity.identity() == place.standing.identity
    assert place.standing.epoch != START.epoch


async def test_until_it_has_its_epoch_nothing_is_kept_of_it(place: Place) -> None:
    await place.look()
    place.away = True
    place.continuity.broken("a write is missing")
    with pytest.raises(StorageUnavailable):
        await place.continuity.identity()
    place.away = False
    await place.look()
    assert await place.continuity.identity() == place.standing.identity
    assert place.replaced == 1


async def test_the_epoch_that_another_process_gave_is_the_one_awaited(place: Place) -> None:
    await place.look()
    place.away = True
    place.continuity.broken("a write is missing")
    with pytest.raises(StorageUnavailable):
        await place.continuity.identity()
    place.standing = replace(place.standing, epoch=uuid4())
    await place.look()
    assert await place.continuity.identity() == place.standing.identity
    assert place.replaced == 1, "it was told already"


async def test_an_answer_that_comes_late_is_no_step_back(place: Place) -> None:
    await place.look()
    later = asyncio.Event()
    late = asyncio.create_task(place.look(at=place.standing, after=later.wait()))
    await asyncio.sleep(0)
    place.standing = replace(place.standing, position=9_000)
    await place.look()
    later.set()
    await late
    assert place.replaced == 0
    assert place.continuity.standing is not None
    assert place.continuity.standing.position == 9_000


async def test_an_answer_of_the_database_before_is_passed_over(place: Place) -> None:
    await place.look()
    later, old = asyncio.Event(), place.standing
    late = asyncio.create_task(place.look(at=old, after=later.wait()))
    await asyncio.sleep(0)
    place.standing = replace(old, server="another")
    await place.look()
    later.set()
    await late
    assert place.replaced == 1
    assert await place.continuity.identity() == place.standing.identity


async def test_an_earlier_process_knew_it_further(place: Place) -> None:
    await place.look()
    place.continuity.resume("another", 10**9)
    place.continuity.resume(START.identity, 1_000)
    assert place.replaced == 0
    place.continuity.resume(START.identity, 1_001)
    assert place.replaced == 1
    assert await place.continuity.identity() != START.identity


async def test_an_emptied_table_is_an_error(place: Place) -> None:
    async def nothing() -> None:
        return None

    with pytest.raises(SchemaMismatch, match="deployment is empty"):
        await place.continuity.check(nothing)
