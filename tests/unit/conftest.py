"""One user's graph with a clock of the test's own."""

import pytest

from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.user_memory import UserMemory
from tests.support.graphs import USER, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def graph(clock: Clock) -> UserGraph:
    return UserGraph(USER, clock=clock)


@pytest.fixture
def memory(graph: UserGraph) -> UserMemory:
    return UserMemory(graph)
