"""The wheel, also when made from the source archive, holds the SQL and works without the checkout."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hybrid_memory
from hybrid_memory import migrations as shipped
from hybrid_memory.queries import sql_root

ROOT = Path(__file__).parents[2]
PROGRAM = """
import hybrid_memory, hybrid_memory.queries as queries, hybrid_memory.migrations as migrations
from hybrid_memory.cli import main
print(hybrid_memory.__file__, queries.sql_root(), len(queries.load("postgres")), len(migrations.load("postgres")))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source archive, which is built from the checkout."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the path")
    place = tmp_path_factory.mktemp("dist")
    subprocess.run([uv, "build", "--quiet", "--out-dir", place, ROOT], check=True, timeout=110)
    (archive,) = place.glob("*.tar.gz")
    assert archive.stat().st_size < 1_000_000
    (built,) = place.glob("*.whl")
    return built


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM],
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path / "installed"), *site.getsitepackages()])},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    file, sql, queries, migrations = done.stdout.split()
    assert Path(file) == tmp_path / "installed" / "hybrid_memory" / "__init__.py"
    assert Path(sql) == tmp_path / "installed" / "hybrid_memory" / "_sql"
    assert int(queries) > 10
    assert int(migrations) == len(shipped.load("postgres"))


def test_the_wheel_holds_types_and_licence_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "hybrid_memory/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {
        "hybrid_memory",
        "pytest_hybrid_memory.py",
        f"langgraph_hybrid_memory-{hybrid_memory.__version__}.dist-info",
    }


def test_the_checkout_reads_the_files_one_edits() -> None:
    assert str(sql_root()) == str(ROOT / "sql")
