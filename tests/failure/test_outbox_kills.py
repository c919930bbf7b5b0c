"""SIGKILL while operations are queued and drained: none is lost, none is out of order, one process drains at a time."""

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.outboxes import outbox_in, wrong_in
from tests.support.sqlite_campaign import Campaign, Worker
from tests.support.sqlite_files import integrity

CHILD = "tests.support.outbox_kill_child"

Name = tuple[str, str, int]


@dataclass
class Findings:
    """What the checker says."""

    acknowledged: int
    sent: int
    again: int
    lost: set[Name]
    unasked: set[Name]
    out_of_order: list[Name]
    side_by_side: int
    wrong: list[str]
    slowest_start: float


def check(campaign: Campaign) -> Findings:
    queued, wrong, took = asyncio.run(left_in(campaign.directory))
    sent = [name for _, name in sorted(map(sending, campaign.words("sent")))]
    acknowledged = set(map(named, campaign.words("ack")))
    return Findings(
        acknowledged=len(acknowledged),
        sent=len(sent),
        again=len(sent) - len(set(sent)),
        lost=acknowledged - set(sent) - queued,
        unasked=(set(sent) | queued) - set(map(named, campaign.words("intent"))),
        out_of_order=gaps(sent),
        side_by_side=overlaps(campaign.finished),
        wrong=wrong,
        slowest_start=max(took, *map(float, campaign.words("ready"))),
    )


async def left_in(directory: Path) -> tuple[set[Name], list[str], float]:
    """What still waits, what does not fit together, and how long it took until the outbox could be used."""
    start = time.perf_counter()
    async with outbox_in(directory) as (state, outbox):
        took = time.perf_counter() - start
        queued = {(one.user_id, one.instance_id, one.n) async for one in outbox.everything()}
        wrong = await state.read(wrong_in)
        found = await state.read(integrity)
    return queued, wrong + ([] if found == "ok" else [found]), took


def named(words: str) -> Name:
    user_id, run, number = words.split(" ")
    return user_id, run, int(number)


def sending(words: str) -> tuple[int, Name]:
    moment, what = words.split(" ", 1)
    return int(moment), named(what)


def gaps(sent: list[Name]) -> list[Name]:
    """What was sent before the one before it: again is allowed, earlier is not."""
    last: dict[tuple[str, str], int] = defaultdict(int)
    found = []
    for user_id, run, number in sent:
        if number > last[user_id, run] + 1:
            found.append((user_id, run, number))
        last[user_id, run] = max(last[user_id, run], number)
    return found


def overlaps(workers: Sequence[Worker]) -> int:
    """How often two processes drained at the same time."""
    rounds = sorted(
        (*map(int, said.split(" ")), number) for number, worker in enumerate(workers) for said in worker.said("drained")
    )
    return sum(following < end and one != other for (_, end, one), (following, _, other) in itertools.pairwise(rounds))


@pytest.mark.parametrize(
    ("kills", "lives"),
    [
        (4, (0, 1, 20, 50)),
        pytest.param(300, (0, 0, 1, 5, 20, 100, 300), marks=[pytest.mark.campaign, pytest.mark.timeout(1800)]),
    ],
    ids=["4", "300"],
)
def test_nothing_queued_is_lost_or_out_of_order(
    tmp_path: Path, rng: random.Random, kills: int, lives: tuple[int, ...]
) -> None:
    campaign = Campaign(tmp_path / "data", rng, CHILD, lives=lives)
    campaign.run(kills)
    found = check(campaign)
    print(
        f"{kills} kills, {found.acknowledged} acknowledged, {found.sent} sent, {found.again} of them again, "
        f"slowest start {found.slowest_start:.3f} s"
    )
    assert found.acknowledged > kills
    assert (found.lost, found.unasked, found.out_of_order, found.wrong) == (set(), set(), [], [])
    assert found.side_by_side == 0
    assert found.slowest_start < 2


def test_a_drain_that_forgets_before_it_sends_would_be_noticed(tmp_path: Path, rng: random.Random) -> None:
    campaign = Campaign(tmp_path / "data", rng, CHILD, plants=("done-before-sent",))
    campaign.run_until(lambda: campaign.workers[0].said("forgotten"), "it forgets", processes=1)
    assert check(campaign).lost


def test_a_drain_without_the_lease_would_be_noticed(tmp_path: Path, rng: random.Random) -> None:
    campaign = Campaign(tmp_path / "data", rng, CHILD, plants=("no-lease",))
    campaign.run_until(lambda: overlaps(campaign.workers), "both drain", processes=2)
    assert check(campaign).side_by_side
