"""What the library offers by name, and that naming it does not load all of it."""

import subprocess
import sys

import pytest

import hybrid_memory


def test_every_name_is_there_and_is_listed() -> None:
    lazily = {name for names in hybrid_memory._HOMES.values() for name in names}
    assert lazily == set(hybrid_memory.__all__)
    for module, names in hybrid_memory._HOMES.items():
        for name in names:
            given = getattr(hybrid_memory, name)
            assert given is getattr(sys.modules[f"hybrid_memory.{module}"], name)
    assert lazily | {"__version__"} <= set(dir(hybrid_memory))


def test_an_unknown_name_is_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="module 'hybrid_memory' has no attribute 'HybridMemory'"):
        _ = hybrid_memory.HybridMemory  # type: ignore[attr-defined]  # it is unknown


def test_nobody_waits_for_what_is_not_used() -> None:
    program = """
import sys, hybrid_memory
print({"asyncpg", "langchain_core", "numpy", "pydantic"} & set(sys.modules))
import hybrid_memory.sqlite.database
print({"asyncpg", "langchain_core", "numpy"} & set(sys.modules))
from hybrid_memory import *
print({"networkx", "openai", "scipy"} & set(sys.modules))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.splitlines() == ["set()"] * 3
