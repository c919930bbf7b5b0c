"""The fixtures of the suite, and the report of who passed what."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_memory.testing.subject import Subject, factory_of

_COUNTS: pytest.StashKey[dict[str, dict[str, int]]] = pytest.StashKey()


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """The store that `--store` names."""
    name = request.config.getoption("--store")
    if not name:
        pytest.skip("no --store module:factory is given")
    try:
        tested = Subject(factory_of(name))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    yield tested
    tested.close()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count what a test came to, once."""
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        group = Path(report.nodeid.partition("::")[0]).stem.removeprefix("test_")
        _tally[group][report.outcome] += 1
        if report.outcome == "failed":
            _failed.append(report.nodeid.rpartition("::")[2])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report."""
    file = session.config.getoption("--store-report")
    if file is not None:
        Path(file).write_text(json.dumps({"groups": _tally, "failed": sorted(_failed)}, indent=2), encoding="utf-8")


_tally: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
_failed: list[str] = []
