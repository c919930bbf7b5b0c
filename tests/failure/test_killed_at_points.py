"""SIGKILL before and after every commit that a write goes through: the next process goes on without a violation."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings
from hybrid_memory.observability import Events
from hybrid_memory.postgres.target import Targets
from hybrid_memory.replication.replay import Replay
from tests.support.children import Child
from tests.support.managers import as_json, reached_by, settings_for
from tests.support.points import POINTS, Point
from tests.support.proxy import proxy_for
from tests.support.repeats import recognise_no_repeat
from tests.support.scribes import Notes, Scribe, Verdict, noted, verdict
from tests.support.waiting import until

USERS = 2
PASSAGES = (1, 1, 2, 4)


async def write_until_dead(events: Events, settings: Mapping[str, Any], log: str, fate: Mapping[str, Any]) -> None:
    """Write with and without Postgres in turn, so that every point is passed again and again."""
    plant(fate["bug"])
    notes = Notes(log)
    Point(fate["point"], fate["passages"], notes)
    targets = reached_by(settings)
    async with proxy_for(targets) as proxy:
        through = settings_in(proxy.targets(targets), settings["data_dir"])
        async with HybridMemoryManager(through, events=events) as manager:
            keeper = (await manager._ready()).sessions._filling._keeper
            assert keeper is not None
            names = [f"{fate['user']} {number}" for number in range(USERS)]
            scribes = [Scribe(manager, notes, user, Path(log).stem) for user in names]
            while True:
                await asyncio.gather(*map(manager.ensure_user_memories, names))
                await asyncio.gather(*(scribe.step() for scribe in scribes))
                await keeper.written()
                proxy.reset()
                await asyncio.gather(*(scribe.step() for scribe in scribes))
                proxy.heal()
                await until(lambda: manager.health().breaker == "closed", "the breaker closes")
                assert await manager.flush(20)


def settings_in(targets: Targets, directory: Path) -> Settings:
    return settings_for(targets, data_dir=directory, max_staleness_seconds=60, stats_interval_seconds=0)


def plant(bug: str | None) -> None:
    if bug == "done before it is sent":
        honest: Callable[..., Any] = Replay._send

        async def send(replay: Replay, operations: Sequence[Any]) -> bool:
            await replay.outbox.done(operations[0].user_id, {one.instance_id: one.n for one in operations})
            answer: bool = await honest(replay, operations)
            return answer

        setattr(Replay, "_send", send)  # noqa: B010 - mypy does not take a function for a method
    elif bug == "the watermark is skipped":
        recognise_no_repeat()


class Dying:
    """Processes that follow each other in one data directory, each of which dies at a point."""

    def __init__(self, targets: Targets, directory: Path, rng: random.Random) -> None:
        self._targets = targets
        self._directory = directory
        self._rng = rng
        self._logs: list[Path] = []
        self._settings = settings_in(targets, directory / "data")

    async def die(self, point: str, *, passages: int = 0, bug: str | None = None) -> None:
        log = self._directory / f"p{len(self._logs)}.log"
        self._logs.append(log)
        fate = {"point": point, "user": point, "bug": bug, "passages": passages or self._rng.choice(PASSAGES)}
        arguments = {"settings": as_json(self._settings), "log": str(log), "fate": fate}
        with Child(write_until_dead, arguments) as child:
            await until(lambda: not child.alive, f"it dies {point}", seconds=60)
            assert [said["died"] for said in noted(log) if "died" in said] == [point], child.result(1)

    async def judged(self) -> Verdict:
        return await verdict(self._targets, self._settings, self._logs)


@pytest.fixture
def dying(targets: Targets, tmp_path: Path, rng: random.Random) -> Dying:
    return Dying(targets, tmp_path, rng)


async def test_a_process_dies_at_some_points(dying: Dying, rng: random.Random) -> None:
    for point in rng.sample(POINTS, 4):
        await dying.die(point, passages=1)
    found = await dying.judged()
    assert found.acknowledged
    assert not found.wrong


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", POINTS)
async def test_twenty_processes_die_at_every_point(dying: Dying, point: str) -> None:
    for _ in range(20):
        await dying.die(point)
    found = await dying.judged()
    print(
        f"20 kills {point}: {found.acknowledged} acknowledged, {len(found.lost)} lost, {len(found.twice)} twice, "
        f"{found.wrong or 'nothing else wrong'}"
    )
    assert not found.wrong


@pytest.mark.parametrize(
    ("bug", "point", "noticed"),
    [
        ("done before it is sent", "after mark done", "lost"),
        ("the watermark is skipped", "before mark done", "twice"),
    ],
)
async def test_planted_bugs_are_caught(dying: Dying, bug: str, point: str, noticed: str) -> None:
    await dying.die(point, passages=1, bug=bug)
    assert getattr(await dying.judged(), noticed)
