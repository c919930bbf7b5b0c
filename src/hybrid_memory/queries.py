"""SQL from files: named queries with `:name` parameters, for Postgres, our SQLite files and those of LangGraph.

A query file holds blocks headed `-- name: of_user`, and a line that says what the query is for. In Postgres files
the word `memory` stands for the schema and `public` for the schema of the vector extension, so that every file can be
pasted into psql as it is; `render` puts the real names in, quoted. This is the only place where SQL text is changed,
and nothing but those two names ever goes into it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

Dialect = Literal["postgres", "sqlite", "stock", "langgraph"]

_HEAD = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)
# Strings, quoted identifiers and comments are passed over, so that what is inside them stays as it is. Dollar quotes
# are not: the names inside function bodies are names like any other.
_PASSED_OVER = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/"
_PARAMETER = re.compile(rf"{_PASSED_OVER}|::|(?<![\w:]):([a-z_]\w*)", re.DOTALL)
_SCHEMA = re.compile(rf"{_PASSED_OVER}|\b(memory|public)(?=\.)|(?<=\bschema )(memory)\b", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """One statement, ready for its driver; `parameters` in the order of Postgres' `$1, $2, ...`."""

    name: str
    purpose: str
    text: str
    parameters: tuple[str, ...]

    def arguments(self, values: Mapping[str, object]) -> list[object]:
        """The values in the order of `parameters`; a misspelled name would be stored as NULL."""
        found = [values[name] for name in self.parameters if name in values]
        if not len(found) == len(values) == len(self.parameters):
            raise TypeError(f"{self.name} takes {sorted(self.parameters)}, not {sorted(values)}")
        return found


def sql_root() -> Traversable:
    """The folder of all SQL: inside the installed package, or the checkout's `sql/`."""
    packaged = resources.files("hybrid_memory") / "_sql"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "sql"


def quote(identifier: str) -> str:
    """An identifier as SQL text."""
    return '"' + identifier.replace('"', '""') + '"'


def render(text: str, schema: str, vector_schema: str = "public") -> str:
    """Put the real schema names into SQL written for `memory` and `public`."""
    names = {"memory": schema, "public": vector_schema}

    def replace(match: re.Match[str]) -> str:
        word = match[1] or match[2]
        return quote(names[word]) if word and names[word] != word else match[0]

    return _SCHEMA.sub(replace, text)


def parse(group: str, text: str, dialect: Dialect) -> dict[str, Query]:
    """The queries of one file, by `group.name`."""
    parts = _HEAD.split(text)
    queries = {}
    for name, block in zip(parts[1::2], parts[2::2], strict=True):
        purpose, _, statement = block.strip().partition("\n")
        if not purpose.startswith("-- ") or f"{group}.{name}" in queries:
            raise ValueError(f"{group}.{name}: one block per name, and a line below it that says what it is for")
        query = Query(f"{group}.{name}", purpose.removeprefix("-- "), statement.strip().rstrip(";"), ())
        queries[query.name] = _numbered(query) if dialect in ("postgres", "langgraph") else _named(query)
    return queries


@cache
def load(dialect: Dialect, schema: str = "memory", vector_schema: str = "public") -> Mapping[str, Query]:
    """Every named query of a dialect."""
    queries: dict[str, Query] = {}
    for file in sorted((sql_root() / dialect / "queries").iterdir(), key=lambda one: one.name):
        text = file.read_text(encoding="utf-8")
        if dialect == "postgres":
            text = render(text, schema, vector_schema)
        queries |= parse(file.name.removesuffix(".sql"), text, dialect)
    return queries


def _numbered(query: Query) -> Query:
    order: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if not match[1]:
            return match[0]
        if match[1] not in order:
            order.append(match[1])
        return f"${order.index(match[1]) + 1}"

    text = _PARAMETER.sub(replace, query.text)
    return Query(query.name, query.purpose, text, tuple(order))


def _named(query: Query) -> Query:
    found = dict.fromkeys(match[1] for match in _PARAMETER.finditer(query.text) if match[1])
    return Query(query.name, query.purpose, query.text, tuple(found))
