"""What the fault tests share."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from hybrid_memory.postgres.target import Targets
from tests.support.servers import Server


@pytest.fixture(scope="module")
def lasting_targets(server_of: Callable[[int], Server]) -> Iterator[Targets]:
    """One migrated database for a whole module, where a fresh one per test costs more than the tests."""
    with asyncio.Runner() as runner:
        fresh = server_of(18).migrated_database()
        yield runner.run(fresh.__aenter__())
        runner.run(fresh.__aexit__(None, None, None))
