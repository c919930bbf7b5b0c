"""Random histories of operations, run against a real system and a plain model of it.

A history is a Hypothesis state machine whose rules call the system through `self.run(...)` and change the model beside
it; a difference fails, and Hypothesis shows the shortest history that shows it. The run's printed seed repeats it:

    class Notes(History):
        def __init__(self) -> None:
            super().__init__()
            self.model = {}

        @rule(key=keys, text=texts)
        def put(self, key, text):
            self.run(SYSTEM.put(key, text))
            self.model[key] = text

    def test_notes(rng): check(Notes, rng, DEFAULT)
"""

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

T = TypeVar("T")


@dataclass(frozen=True)
class Length:
    """How many histories, and of how many steps at most."""

    histories: int
    steps: int


DEFAULT = Length(histories=15, steps=20)
CAMPAIGN = Length(histories=500, steps=50)


class History(RuleBasedStateMachine):
    """One history; all of a test share an event loop, so that pools and tasks stay alive between the steps."""

    runner: ClassVar[asyncio.Runner]
    number: ClassVar[int] = 0
    """Counts the histories of a test, so that each can use names of its own."""

    def __init__(self) -> None:
        super().__init__()
        type(self).number += 1

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await it on the loop of the test."""
        return self.runner.run(work)


def check(
    history: type[History],
    rng: random.Random,
    length: Length,
    runner: asyncio.Runner,
    *,
    phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink),
) -> None:
    """Run random histories; raises what the shortest failing one raises."""
    history.runner = runner
    chosen = settings(
        max_examples=length.histories,
        stateful_step_count=length.steps,
        database=None,
        phases=phases,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(rng.randrange(2**32))(history), settings=chosen)


def finds(history: type[History], rng: random.Random, length: Length, runner: asyncio.Runner) -> bool:
    """Whether a difference shows up: for planting a bug and seeing it caught."""
    with suppress(AssertionError):
        check(history, rng, length, runner, phases=(Phase.generate,))
        return False
    return True
