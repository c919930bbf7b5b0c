"""The options of `pytest --pyargs hybrid_memory.testing`. Alone, so that other runs load no library."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which store is tested."""
    group = parser.getgroup("hybrid_memory.testing", "conformance of LangGraph's stores")
    group.addoption("--store", metavar="MODULE:FACTORY", help="makes the store to be tested")
    group.addoption("--store-report", metavar="FILE", help="write who passed what there, as JSON")
