"""Processes on one directory that are killed again and again, and what they said before.

The child is a module that is started as `python -m CHILD DIRECTORY LOG NAME [PLANT]`. It writes lines `ready SECONDS`,
`intent WHAT` and `ack WHAT`, and what else its checker wants to know.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.sqlite_files import ROOT
from tests.support.waiting import until_blocking

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
    """Two processes on one directory, killed again and again, each after as many acknowledgements as its life has."""

    directory: Path
    rng: random.Random
    child: str
    plants: tuple[str, ...] = ()
    lives: tuple[int, ...] = (0, 0, 1, 5, 20, 100, 300)
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
            self.kill_all()

    def run_until(self, condition: Callable[[], object], what: str, processes: int) -> None:
        """Let some processes work until `condition` holds, then kill them."""
        try:
            self.workers = [self.start() for _ in range(processes)]
            until_blocking(condition, what, seconds=DEADLINE)
        finally:
            self.kill_all()

    def kill_all(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.finished += self.workers
        self.workers = []

    def start(self) -> Worker:
        name = f"p{len(self.workers) + len(self.finished)}-{self.rng.randrange(10**9)}"
        log = self.directory.with_name(f"{name}.log")
        command = [sys.executable, "-m", self.child, str(self.directory), str(log), name]
        process = subprocess.Popen([*command, *self.plants], cwd=ROOT)
        return Worker(process, log, self.rng.choice(self.lives))

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
