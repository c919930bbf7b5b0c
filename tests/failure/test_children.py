"""Child processes stop where they are told to, and die there."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from hybrid_memory.observability import Events
from tests.support.children import Child, ChildFailed, together


def count_up(events: Events, path: str, last: int) -> int:
    for number in range(1, last + 1):
        events.info("counted", number=number)
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - the least that can be killed in the middle
            file.write(f"{number}\n")
    return last


def fail(events: Events) -> NoReturn:
    del events
    raise ValueError("as it should")


def who(events: Events, index: int) -> list[int]:
    del events
    return [index, os.getpid()]


def test_killed_at_a_named_point(tmp_path: Path) -> None:
    path = f"{tmp_path}/numbers"
    with Child(count_up, {"path": path, "last": 5}, stop_at="counted", fields={"number": 3}) as child:
        assert child.reached() == {"number": 3}
        child.kill()
        assert not child.alive
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        assert file.read().split() == ["1", "2"]


def test_going_on_after_a_point(tmp_path: Path) -> None:
    path = f"{tmp_path}/numbers"
    with Child(count_up, {"path": path, "last": 5}, stop_at="counted", fields={"number": 3}) as child:
        child.reached()
        child.go_on()
        assert child.result() == 5


def test_an_error_comes_back() -> None:
    with Child(fail, {}) as child, pytest.raises(ChildFailed, match="ValueError: as it should"):
        child.result()


def test_processes_started_together_are_processes() -> None:
    answers = together(who, 4)
    assert sorted(index for index, _ in answers) == [0, 1, 2, 3]
    assert len({pid for _, pid in answers} | {os.getpid()}) == 5
