"""The README says what is true: settings, events, commands and layers as they are in the code."""

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
SOURCE = "\n".join(module.read_text() for module in (ROOT / "src" / "hybrid_memory").rglob("*.py"))


def table_after(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    section = README.split(f"\n{heading}\n", 1)[1]
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
        assert re.search(rf"\b{module}\b", README.split("## Developing", 1)[1]), module


def test_no_place_of_the_authors_machine_is_named() -> None:
    assert not re.search(r"/home/|/root/|/tmp/", README)


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
