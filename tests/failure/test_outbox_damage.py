"""The outbox in a damaged state.db: what is saved fits together, what was lost is missed, nothing wrong is sent."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid_memory.errors import StateDamaged
from hybrid_memory.sqlite.outbox import DAMAGED, Outbox
from hybrid_memory.sqlite.queued import QueuedOperation
from tests.support.outboxes import NOW, RUN, drained, operation, outbox_in, wrong_in
from tests.support.sqlite_damage import PAGE, flipped_in_a_value, zeroed_pages

USERS = ("nick", "eve", "ann")
PER_USER = 120

Damage = Callable[[Path, random.Random], object]


@pytest.fixture
async def template(tmp_path: Path) -> Path:
    """A closed file with three queues, and an operation of each user in quarantine."""
    directory = tmp_path / "template"
    async with outbox_in(directory) as (_, outbox):
        for start in range(1, PER_USER + 1, 10):
            await outbox.put([operation(user, n) for n in range(start, start + 10) for user in USERS])
        for user in USERS:
            await outbox.quarantine(user, RUN, 5, "poison", NOW)
    return directory


def content_of_the_first(file: Path, _: random.Random) -> None:
    content = file.read_bytes()
    changed = re.sub(rb'("nick-1-1".{0,40})value-00000001', rb"\1value-99999999", content, flags=re.DOTALL)
    assert changed != content
    file.write_bytes(changed)


def head_of_a_queue(file: Path, _: random.Random) -> None:
    """The row of the first operation, which alone says when its user is to be served."""
    content = bytearray(file.read_bytes())
    pages = range(0, len(content), PAGE)
    leaf = next(page for page in pages if content[page] == 0x0D and b"nick" + RUN.encode() in content[page:][:PAGE])
    place = content.rindex(b"nick" + RUN.encode(), leaf, leaf + PAGE)
    content[place : place + 4] = b"nicl"
    file.write_bytes(content)


async def saved(template: Path, to: Path, damage: Damage, rng: random.Random) -> tuple[Path, bool]:
    """A damaged copy, opened until it is good; whether it had to be rescued."""
    directory = shutil.copytree(template, to)
    damage(directory / "state.db", rng)
    try:
        async with outbox_in(directory) as (_, outbox):
            assert [one async for one in outbox.everything()]
    except StateDamaged:
        return directory, True
    return directory, False


async def everything_by_user(outbox: Outbox) -> dict[str, list[QueuedOperation]]:
    found: dict[str, list[QueuedOperation]] = {user: [] for user in USERS}
    async for one in outbox.everything():
        found[one.user_id].append(one)
    return found


async def test_an_operation_with_damaged_content_is_missed_after_a_rescue(
    template: Path, tmp_path: Path, rng: random.Random
) -> None:
    directory, rescued = await saved(template, tmp_path / "copy", content_of_the_first, rng)
    assert rescued
    async with outbox_in(directory) as (state, outbox):
        assert await outbox.depth() == 3 * (PER_USER - 1)
        rounds = await drained(outbox)
        sent = [n for operations in rounds for user, _, n in operations if user == "nick"]
        assert sent == [n for n in range(2, PER_USER + 1) if n != 5]
        missed = await outbox.quarantined("nick")
        assert [(one.n, one.reason) for one in missed] == [(1, DAMAGED), (5, "poison")]
        assert state.read_blocking(wrong_in) == []


async def test_a_queue_that_lost_its_head_goes_on(template: Path, tmp_path: Path, rng: random.Random) -> None:
    directory, rescued = await saved(template, tmp_path / "copy", head_of_a_queue, rng)
    assert rescued
    async with outbox_in(directory) as (state, outbox):
        assert state.read_blocking(wrong_in) == []
        assert await outbox.depth() == 3 * (PER_USER - 1) - 1
        rounds = await drained(outbox)
        sent = [n for operations in rounds for user, _, n in operations if user == "nick"]
        assert sent == [n for n in range(2, PER_USER + 1) if n != 5]


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.campaign)])
async def test_after_any_damage_it_fits_together_and_sends_nothing_wrong(
    template: Path, tmp_path: Path, rng: random.Random, count: int
) -> None:
    rescued = sent = missed = 0
    for number in range(count):
        damage = (flipped_in_a_value, zeroed_pages)[number % 2]
        directory, was_damaged = await saved(template, tmp_path / f"copy {number}", damage, rng)
        rescued += was_damaged
        async with outbox_in(directory) as (state, outbox):
            assert state.read_blocking(wrong_in) == []
            kept = await everything_by_user(outbox)
            for user, operations in kept.items():
                for one in operations:
                    assert one.row in ({}, operation(user, one.n).row), "something else than was stored"
            for batch in await drained(outbox, most_users=3, most_operations=500):
                for user in USERS:
                    order = [n for name, _, n in batch if name == user]
                    assert order == sorted(order)
                sent += len(batch)
            missed += sum(one.reason == DAMAGED for one in await outbox.quarantined(limit=1000))
            assert await outbox.depth() == 0, "every queue has a head"
            assert state.read_blocking(wrong_in) == []
        shutil.rmtree(directory)
    print(f"{count} damaged, {rescued} rescued, {sent} sent, {missed} without their content in quarantine")
    assert rescued
