"""Several processes race on the same users: nothing is lost or doubled, and each soon shows what the others write."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory.postgres.target import Targets
from tests.support.children import Child
from tests.support.managers import as_json, listens_elsewhere, settings_for
from tests.support.racers import Promised, Race, percentile, racing
from tests.support.servers import administration

SECONDS = 1800.0


def plan(targets: Targets, folder: Path, **keywords: Any) -> Race:
    more = {"max_staleness_seconds": 60} | keywords.pop("settings", {})
    settings = settings_for(targets, data_dir=folder / "data-{index}", **more)
    hears = {"hears": listens_elsewhere(targets) or not targets.pooled}
    return Race(as_json(settings), str(folder), **(hears | keywords))


def started(told: Race) -> list[dict[str, Any]]:
    """Run all processes to their end; what each has seen."""
    with Child(racing, {"plan": dataclasses.asdict(told)}, copies=told.racers) as parent:
        return [parent.result(SECONDS) for _ in range(told.racers)]


async def compared(targets: Targets, folder: Path) -> list[str]:
    async with administration(targets) as connection:
        return await Promised.in_diaries(folder).differences(connection)


def seen_after(found: list[dict[str, Any]]) -> list[float]:
    """How long after they were acknowledged writes showed in the other processes; what showed before took no time."""
    stored = {(one["index"], at): acknowledged for one in found for at, acknowledged in one["stored"]}
    seen = ((stored.get((other, at)), now) for one in found for other, at, now in one["sightings"])
    return [max(0.0, now - acknowledged) for acknowledged, now in seen if acknowledged is not None]


def told_of(found: list[dict[str, Any]], what: str) -> str:
    delays, after = [delay for one in found for delay in one["delays"]], seen_after(found)
    done, looks = (sum(one[key] for one in found) for key in ("operations", "looks"))
    slowest = max(one["seconds"] for one in found)
    return (
        f"{what}: {len(found)} processes, {done} operations in {slowest:.0f} s, {looks} looks; "
        f"{len(delays)} times seen elsewhere after p50 {percentile(delays, 0.5) * 1000:.0f} ms, "
        f"p99 {percentile(delays, 0.99) * 1000:.0f} ms, at most {max(delays, default=0) * 1000:.0f} ms; "
        f"after they were acknowledged p50 {percentile(after, 0.5) * 1000:.0f} ms, "
        f"p99 {percentile(after, 0.99) * 1000:.0f} ms; "
        f"{dict(sum((Counter(one['events']) for one in found), Counter()))}"
    )


@pytest.mark.parametrize(
    ("racers", "operations", "within"),
    [
        (3, 150, SECONDS),
        pytest.param(8, 12_500, 0.25, marks=[pytest.mark.campaign, pytest.mark.hears, pytest.mark.timeout(0)]),
    ],
)
async def test_nothing_is_lost_or_doubled_and_nobody_stays_behind(
    targets: Targets, tmp_path: Path, racers: int, operations: int, within: float
) -> None:
    found = started(plan(targets, tmp_path, racers=racers, operations=operations))
    print(told_of(found, "as fast as they can"))
    assert await compared(targets, tmp_path) == []
    assert [one["stale"] for one in found] == [0] * racers
    assert [one["refused"] for one in found] == [0] * racers
    assert percentile(seen_after(found), 0.99) < within


HEARD: dict[str, Any] = {"hears": True}
ASKED: dict[str, Any] = {"hears": False, "settings": {"listen": False, "poll_interval_seconds": 2}}


@pytest.mark.campaign
@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("how", "within"),
    [pytest.param(HEARD, 0.25, id="heard", marks=pytest.mark.hears), pytest.param(ASKED, 3.0, id="asked every 2 s")],
)
async def test_how_soon_others_see_it(targets: Targets, tmp_path: Path, how: dict[str, Any], within: float) -> None:
    """Eight processes at about 150 operations a second together, as agents are."""
    told = plan(targets, tmp_path, racers=8, seconds=60, pause=0.4, **how)
    found = started(told)
    print(told_of(found, str(how)))
    assert await compared(targets, tmp_path) == []
    assert [one["stale"] for one in found] == [0] * told.racers
    assert percentile([delay for one in found for delay in one["delays"]], 0.99) < within
