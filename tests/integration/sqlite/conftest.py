"""Every test of the SQLite side runs under the watch for forbidden openings and leaves nothing behind."""

from collections.abc import Iterator

import pytest

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
    assert after.threads <= before.threads
