"""A checkpointer of its own for every test, which leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_memory import HybridCheckpointer
from hybrid_memory.settings import Settings
from tests.support.recording import Recorded
from tests.support.sqlite_files import Resources
from tests.support.sqlite_guard import watched


@pytest.fixture(autouse=True)
def one_library_per_file() -> Iterator[None]:
    with watched() as watch:
        yield
    assert watch.seen == []


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = Resources.now()
    yield
    after = Resources.now()
    assert after.connections == before.connections


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def checkpointer(directory: Path, events: Recorded) -> Iterator[HybridCheckpointer]:
    with HybridCheckpointer(directory, settings=Settings.without_environment(), events=events) as opened:
        yield opened
