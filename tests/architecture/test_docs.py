"""README and docs say what is true: settings, events, commands and layers as they are in the code."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined
from typer.main import get_command

from hybrid_memory.cli import app
from hybrid_memory.settings import Settings, variable_of
from tests.support.servers import memory

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
DEVELOPING = (ROOT / "docs" / "developing.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCE = "\n".join(module.read_text() for module in (ROOT / "src" / "hybrid_memory").rglob("*.py"))


def table_after(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    section = REFERENCE.split(f"\n{heading}\n", 1)[1]
    found = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert found, heading
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[0].splitlines()]
    return [[cell.strip("| ") for cell in row] for row in rows[2:]]


def setting_rows() -> list[list[str]]:
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        assert default is not PydanticUndefined
        shown = "" if default is None or default == () else f"`{default}`"
        rows.append([f"`{variable_of(name)}`", shown, str(field.description)])
    return rows


def test_every_setting_is_in_the_table_and_nothing_else() -> None:
    expected = setting_rows()
    table = "\n".join("| " + " | ".join(row) + " |" for row in expected)
    assert table_after("## Settings") == expected, f"the table should read:\n{table}"


def test_every_event_is_in_the_table_with_its_level_and_nothing_else() -> None:
    calls = re.findall(r"events\.(debug|info|warning|error|timed)\(\s*\"(\w+)\"", SOURCE)
    emitted = {(f"`{name}`", "info" if level == "timed" else level) for level, name in calls}
    assert {(row[0], row[1]) for row in table_after("## Logs and events")} == emitted


@pytest.mark.parametrize("command", sorted(vars(get_command(app))["commands"]))
def test_every_command_is_in_the_table(command: str) -> None:
    assert any(row[0].startswith(f"`hybrid-memory {command}") for row in table_after("## The command"))


def test_the_two_commands_are_at_the_top() -> None:
    first_block = README.split("```")[1]
    assert "pip install uv" in first_block
    assert "uv run hybrid-memory demo" in first_block
    assert "uv run pytest" in first_block


def test_every_layer_is_named() -> None:
    layers = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL | re.MULTILINE)
    assert layers
    for module in re.findall(r"\w+", layers[1]):
        assert re.search(rf"\b{module}\b", DEVELOPING), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_place_of_the_authors_machine_is_named(page: Path) -> None:
    assert not re.search(r"/home/|/root/|/tmp/", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        assert (
            target[1:] in headings if target.startswith("#") else (page.parent / target.partition("#")[0]).exists()
        ), target


def test_every_page_is_named_in_the_readme() -> None:
    assert {page.name for page in PAGES[1:]} == set(re.findall(r"\]\(docs/([^)#]+)\)", README))


def test_the_code_in_the_readme_runs() -> None:
    """With the embedded server, in a place of its own, as a reader would paste it."""
    program = README.split("```python\n")[1].split("```")[0]
    with tempfile.TemporaryDirectory(prefix="hm-", dir=memory()) as place:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PATH": os.environ["PATH"]},
            cwd=place,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
