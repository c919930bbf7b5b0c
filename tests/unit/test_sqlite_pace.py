"""When an event loop commits by itself: on a quick disk, also of a busy machine."""

from collections.abc import Callable

import pytest

from hybrid_memory.sqlite.pace import Pace

QUICK, SLOW, STALLED, MUCH_LATER = 0.0003, 0.01, 0.5, 1000.0


class Clock:
    """The time, as far as it was let pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def repeat(times: int, took: Callable[[float], None], seconds: float) -> None:
    for _ in range(times):
        took(seconds)


def test_what_nobody_has_seen_is_slow_until_a_thread_has_found_it_quick(pace: Pace) -> None:
    assert not pace.is_quick()
    repeat(8, pace.in_thread, QUICK)
    assert pace.is_quick()


def test_some_that_took_long_are_no_slow_disk(pace: Pace) -> None:
    for _ in range(10):
        repeat(5, pace.in_loop, SLOW)
        repeat(3, pace.in_loop, QUICK)
        assert pace.is_quick()


def test_a_thread_that_waited_says_nothing_of_the_disk(pace: Pace) -> None:
    repeat(8, pace.in_loop, QUICK)
    repeat(100, pace.in_thread, SLOW)
    assert pace.is_quick()


def test_a_slow_disk_holds_a_loop_up_for_a_hundredth_of_the_time(pace: Pace, clock: Clock) -> None:
    repeat(8, pace.in_loop, QUICK)
    repeat(8, pace.in_loop, SLOW)
    held = 0.0
    for _ in range(10_000):
        clock.now += SLOW
        if pace.is_quick():
            clock.now += SLOW
            held += SLOW
            pace.in_loop(SLOW)
        else:
            pace.in_thread(SLOW)
    assert 0 < held <= clock.now / 100


def test_a_disk_that_stalls_holds_a_loop_up_once(pace: Pace) -> None:
    repeat(8, pace.in_loop, QUICK)
    pace.in_loop(STALLED)
    assert not pace.is_quick()
    repeat(3, pace.in_thread, QUICK)
    assert pace.is_quick()


def test_a_disk_that_is_quick_again_is_found_quick(pace: Pace, clock: Clock) -> None:
    repeat(8, pace.in_loop, SLOW)
    assert not pace.is_quick()
    clock.now += MUCH_LATER
    for _ in range(8):
        assert pace.is_quick()
        pace.in_loop(QUICK)
    pace.in_loop(SLOW)
    assert pace.is_quick()
