"""SIGKILL: whatever was acknowledged is there, once, and the next process is ready at once."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.sqlite_files import ROOT, integrity, state_in, stored_ids

DEADLINE = 60.0


@dataclass
class Worker:
    """A process that writes; `log` is what it said."""

    process: subprocess.Popen[bytes]
    log: Path
    killed_at: int

    def said(self, word: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split(" ", 1)[1] for line in lines if line.startswith(f"{word} ")]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE)


@dataclass
class Campaign:
    """Two processes on one directory, killed again and again."""

    directory: Path
    rng: random.Random
    plants: tuple[str, ...] = ()
    workers: list[Worker] = field(default_factory=list)
    finished: list[Worker] = field(default_factory=list)

    def run(self, kills: int) -> None:
        try:
            self.workers = [self.start(), self.start()]
            for _ in range(kills):
                victim = self.rng.choice(self.workers)
                self.wait_for(victim)
                victim.kill()
                self.workers.remove(victim)
                self.finished.append(victim)
                self.workers.append(self.start())
        finally:
            for worker in self.workers:
                worker.kill()
            self.finished += self.workers

    def start(self) -> Worker:
        name = f"p{len(self.workers) + len(self.finished)}-{self.rng.randrange(10**9)}"
        log = self.directory.with_name(f"{name}.log")
        command = [sys.executable, "-m", "tests.support.sqlite_kill_child", str(self.directory), str(log), name]
        process = subprocess.Popen([*command, *self.plants], cwd=ROOT)
        return Worker(process, log, self.rng.choice([0, 0, 1, 5, 20, 100, 300]))

    def wait_for(self, worker: Worker) -> None:
        """Let the victim come as far as its fate says: some are killed while they open the file."""
        deadline = time.monotonic() + DEADLINE
        word = "ready" if self.rng.random() < 0.1 else "ack"
        while len(worker.said(word)) < (1 if word == "ready" else worker.killed_at):
            assert worker.process.poll() is None, "a worker ended by itself"
            assert time.monotonic() < deadline, "a worker does not write"
            time.sleep(0.002)

    def words(self, word: str) -> list[str]:
        return [said for worker in self.finished for said in worker.said(word)]


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
    campaign = Campaign(tmp_path / "data", rng)
    campaign.run(kills)
    found = check(campaign)
    print(f"{kills} kills, {found.acknowledged} acknowledged, slowest start {found.slowest_start:.3f} s")
    assert found.acknowledged > kills
    assert (found.lost, found.twice, found.unasked) == (set(), set(), set())
    assert found.integrity == "ok"
    assert found.slowest_start < 2


def test_an_answer_before_the_commit_would_be_noticed(tmp_path: Path, rng: random.Random) -> None:
    """The planted bug: the campaign sees what a writer loses that answers too early."""
    campaign = Campaign(tmp_path / "data", rng, plants=("answer-before-commit",))
    campaign.run(4)
    assert check(campaign).lost
