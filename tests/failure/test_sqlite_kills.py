"""SIGKILL: whatever was acknowledged is there, once, and the next process is ready at once."""

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.sqlite_campaign import Campaign
from tests.support.sqlite_files import integrity, state_in, stored_ids

CHILD = "tests.support.sqlite_kill_child"


@dataclass
class Findings:
    """What the checker says."""

    acknowledged: int
    lost: set[str]
    twice: set[str]
    unasked: set[str]
    integrity: str
    slowest_start: float


def check(campaign: Campaign) -> Findings:
    start = time.perf_counter()
    with state_in(campaign.directory) as (database, _):
        stored = Counter(database.read_blocking(stored_ids))
        took = time.perf_counter() - start
        found = database.read_blocking(integrity)
    acknowledged = set(campaign.words("ack"))
    return Findings(
        acknowledged=len(acknowledged),
        lost=acknowledged - stored.keys(),
        twice={name for name, count in stored.items() if count > 1},
        unasked=stored.keys() - set(campaign.words("intent")),
        integrity=found,
        slowest_start=max(took, *map(float, campaign.words("ready"))),
    )


@pytest.mark.parametrize("kills", [5, pytest.param(300, marks=[pytest.mark.campaign, pytest.mark.timeout(1200)])])
def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path, rng: random.Random, kills: int) -> None:
    campaign = Campaign(tmp_path / "data", rng, CHILD)
    campaign.run(kills)
    found = check(campaign)
    print(f"{kills} kills, {found.acknowledged} acknowledged, slowest start {found.slowest_start:.3f} s")
    assert found.acknowledged > kills
    assert (found.lost, found.twice, found.unasked) == (set(), set(), set())
    assert found.integrity == "ok"
    assert found.slowest_start < 2


def test_an_answer_before_the_commit_would_be_noticed(tmp_path: Path, rng: random.Random) -> None:
    """The planted bug: the campaign sees what a writer loses that answers too early."""
    campaign = Campaign(tmp_path / "data", rng, CHILD, plants=("answer-before-commit",))
    campaign.run(4)
    assert check(campaign).lost
