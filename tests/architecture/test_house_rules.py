"""What keeps the house easy to see through."""

import ast
import re
from pathlib import Path

import hybrid_memory
from hybrid_memory import queries
from hybrid_memory.postgres.script import schema_script

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "hybrid_memory"
MODULES = sorted(SOURCE.rglob("*.py"))


def test_modules_are_short_and_say_what_they_are_for() -> None:
    for module in MODULES:
        text = module.read_text()
        assert len(text.splitlines()) <= 400, module
        assert ast.get_docstring(ast.parse(text)), module


def test_no_module_is_named_after_nothing() -> None:
    assert not {module.stem for module in MODULES} & {"utils", "util", "helpers", "common", "base", "misc"}


def test_only_settings_and_child_environments_read_the_environment() -> None:
    reading = {
        module.relative_to(SOURCE).as_posix()
        for module in MODULES
        if re.search(r"os\.(environ|getenv)|load_dotenv", module.read_text())
    }
    assert reading == {"settings.py", "postgres/permissions.py"}


def test_sql_lives_in_files() -> None:
    """Statements in code are the words of a transaction and nothing else."""
    begins_like_sql = re.compile(
        r"\s*(select|insert|update|delete|create|drop|alter|with|truncate|grant)\s", re.IGNORECASE
    )
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr not in ("execute", "fetch", "fetchrow", "fetchval", "prepare", "executemany"):
                    continue
                for argument in node.args:
                    assert not isinstance(argument, ast.JoinedStr), f"{module}:{node.lineno} builds SQL"
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        assert not begins_like_sql.match(argument.value), f"{module}:{node.lineno} holds SQL"


def test_the_queries_in_files_are_the_queries_in_use() -> None:
    code = "\n".join(module.read_text() for module in MODULES)
    known = set(queries.load("postgres"))
    called = set(re.findall(r'(?:known\[|fetch\(|fetchrow\(|fetchval\(|execute\(|call\()\s*"(\w+\.\w+)"', code))
    assert called <= known
    assert {name for name in known if f'"{name}"' in code} == known


def test_the_schema_script_is_current() -> None:
    written = (ROOT / "sql" / "postgres" / "schema.sql").read_text()
    assert written == schema_script(), "run: uv run hybrid-memory schema > sql/postgres/schema.sql"


def test_public_names_are_sorted_and_there() -> None:
    assert hybrid_memory.__all__ == sorted(hybrid_memory.__all__)
    for name in hybrid_memory.__all__:
        assert getattr(hybrid_memory, name).__doc__, name
