"""The store suite on LangGraph's stores and ours, and the table in the README, which says what it showed."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybrid_memory.observability import Events
from hybrid_memory.postgres.target import Target
from tests.support.children import Child
from tests.support.servers import Server

ROOT = Path(__file__).parents[3]
STORES = {
    "in_memory": "`InMemoryStore`",
    "upstream_postgres": "`AsyncPostgresStore`",
    "hybrid": "`HybridStore`",
    "hybrid_by_vectors": "`HybridStore`, `STORE_SEARCH=vector`",
}
GROUPS = {
    "items": "put, get, delete, and what comes back",
    "batches": "several operations at once, raw ones among them",
    "calls": "with and without `await`, from threads, cancelled",
    "namespaces": "listing, prefixes, labels",
    "filters": "operators, numbers, nested fields, what is missing",
    "pages": "order and pages",
    "expiry": "TTL: hidden, put off by reading",
    "vectors": "questions: pages, changes, `index`",
    "scores": "scores are cosines",
}
# Four processes, and none is quick on a busy machine.
pytestmark = pytest.mark.timeout(300)
REPORT = "report.json"
# What other packages bring for pytest costs each process half a second.
WITHOUT_PLUGINS = ("-p", "no:langsmith_plugin")
HEADING = "## What a store may be relied on"


@dataclass(frozen=True)
class Report:
    """What one store made of the suite."""

    groups: dict[str, dict[str, int]]
    failed: list[str]
    output: str

    def told(self, group: str) -> str:
        counts = self.groups.get(group, {})
        passed, skipped = counts.get("passed", 0), counts.get("skipped", 0)
        total = passed + counts.get("failed", 0)
        return "not offered" if skipped and not total else f"{passed} of {total}"


def dsn(target: Target) -> str:
    return f"postgresql://{target.user}@/{target.database}?host={target.hosts[0]}"


async def suite_on(name: str, server: Server) -> Report:
    """Run the suite as whoever has a store of their own does: in a place and a process of its own."""
    async with server.migrated_database() as targets:
        with tempfile.TemporaryDirectory() as place:
            own = targets.administration if name == "upstream_postgres" else targets.runtime
            with Child(run_suite, {"name": name, "place": place, "dsn": dsn(own)}) as child:
                said = await asyncio.to_thread(child.result, 250)
            report = Path(place) / REPORT
            assert report.exists(), said
            told = json.loads(report.read_text())
            return Report(told["groups"], told["failed"], said)


def run_suite(events: Events, name: str, place: str, dsn: str) -> str:
    """In the process of its own; what pytest said."""
    del events
    os.chdir(place)
    os.environ["STORE_DSN"] = dsn
    arguments = ["--pyargs", "hybrid_memory.testing", "-q", "--tb=native", "--capture=sys", *WITHOUT_PLUGINS]
    with redirect_stdout(io.StringIO()) as said:
        pytest.main([*arguments, "--store", f"tests.support.stores:{name}", "--store-report", REPORT])
    return said.getvalue()


async def suite_on_all(server: Server) -> dict[str, Report]:
    # The first database of a server makes the template of the others.
    async with server.migrated_database():
        pass
    return dict(zip(STORES, await asyncio.gather(*(suite_on(name, server) for name in STORES)), strict=True))


@pytest.fixture(scope="module")
def reports(server_of: Callable[[int], Server]) -> dict[str, Report]:
    return asyncio.run(suite_on_all(server_of(18)))


def table(reports: dict[str, Report]) -> str:
    rows = [["", *STORES.values()], ["---"] * (len(STORES) + 1)]
    rows += [[GROUPS[group], *(report.told(group) for report in reports.values())] for group in GROUPS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def test_ours_passes_all(reports: dict[str, Report]) -> None:
    """Scores of words and vectors together are no cosines."""
    of_scores = ["test_of_several_texts_the_nearest_counts", "test_the_score_is_the_cosine"]
    assert reports["hybrid_by_vectors"].failed == [], reports["hybrid_by_vectors"].output
    assert reports["hybrid"].failed == of_scores, reports["hybrid"].output


@pytest.mark.campaign
async def test_ours_without_postgres_passes_all(server: Server) -> None:
    report = await suite_on("local_only", server)
    assert report.failed == [], report.output


def test_the_suite_finds_what_is_known_of_others(reports: dict[str, Report]) -> None:
    """What was found by hand on real stores; a suite that all pass would show nothing."""
    assert "test_numbers_are_compared_as_numbers" in reports["upstream_postgres"].failed
    assert "test_pages_are_parts_of_one_list" in reports["upstream_postgres"].failed
    assert "test_a_missing_field_is_neither_greater_nor_less" in reports["in_memory"].failed


def test_every_group_has_its_row(reports: dict[str, Report]) -> None:
    assert all(report.groups.keys() == GROUPS.keys() for report in reports.values())


def test_the_table_in_the_readme_is_the_one_that_comes_out(reports: dict[str, Report]) -> None:
    section = (ROOT / "README.md").read_text().split(f"\n{HEADING}\n", 1)[1]
    shown = section[section.index("|") :].split("\n\n", 1)[0]
    assert shown == table(reports), f"the table should read:\n{table(reports)}"


def test_a_store_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "hybrid_memory.testing", "-q", "--store", "no.such:thing"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tempfile.gettempdir(),
    )
    assert done.returncode != 0
    assert "there is no such factory" in done.stdout + done.stderr
