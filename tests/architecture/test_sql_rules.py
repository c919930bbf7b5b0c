"""What must not appear in SQL: things that fail on Citus, and statements that forget whose rows they touch."""

import re

import pytest

from hybrid_memory import migrations, queries
from hybrid_memory.queries import sql_root

USER_TABLES = "user_metadata|nodes|relationships|embeddings|postings|tombstones|applied_watermarks|erasures|entities"
# What looks for the rows of several users at once; on Citus only the first does, on all nodes.
FOR_SEVERAL_USERS = {"versions_of", "apply_user_batches", "put_vectors"}
# Counting what is about to be dropped, for the owner with the maintenance scope set.
ACROSS_USERS = {"schema.row_counts"}
_OUTER_JOIN_OF_UNNEST = (
    r"(left|right|full)( outer)? join( lateral)? \(?(select )?(unnest|jsonb_)"
    r"|(unnest|jsonb_to_recordset)\s*\([^;]*?\)[^;]*?(left|right|full)( outer)? join"
)
FORBIDDEN = {
    "a trigger": r"\bcreate (constraint |or replace )*trigger\b",
    "a foreign key that sets null": r"on delete set (null|default)",
    "an int4 identity or sequence": r"\b(small|big)?serial\b|\bint(eger)? generated\b|\bnextval\b|as identity",
    "set_config": r"\bset_config\b",
    "an outer join of unnest or jsonb": _OUTER_JOIN_OF_UNNEST,
    "a function that is not immutable in ON CONFLICT DO UPDATE": r"do update\s+set[^;]*"
    r"\b(now|clock_timestamp|random|gen_random_uuid|to_jsonb)\s*\(",
    "merge": r"\bmerge into\b",
    "an unlogged or temporary table": r"\b(unlogged|temp|temporary) table\b",
    "an extension the embedded server lacks": r"\b(pg_trgm|unaccent|btree_gin|btree_gist|uuid-ossp|uuid_generate_v4)\b",
}


def without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text).lower()


def all_sql() -> list[tuple[str, str]]:
    found = [(f"migration {one.number}", one.text) for one in migrations.load("postgres")]
    found += [(name, query.text) for name, query in queries.load("postgres").items()]
    found.append(("embedded.sql", (sql_root() / "postgres" / "embedded.sql").read_text()))
    return [(name, without_comments(text)) for name, text in found]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_forbidden_is_used(what: str) -> None:
    assert [name for name, text in all_sql() if re.search(FORBIDDEN[what], text, re.DOTALL)] == []


@pytest.mark.parametrize(
    ("what", "planted"),
    [
        ("a trigger", "create trigger t after insert on memory.nodes"),
        ("a foreign key that sets null", "references t (a) on delete set null"),
        ("an int4 identity or sequence", "id integer generated always as identity"),
        ("set_config", "select set_config('memory.users', $1, true)"),
        ("an outer join of unnest or jsonb", "from unnest($1::text[]) u left join memory.nodes n on n.user_id = u"),
        (
            "a function that is not immutable in ON CONFLICT DO UPDATE",
            "on conflict (user_id) do update set updated_at = now()",
        ),
        ("an extension the embedded server lacks", "create extension pg_trgm"),
    ],
)
def test_the_scan_finds_what_is_planted(what: str, planted: str) -> None:
    assert re.search(FORBIDDEN[what], planted, re.DOTALL)


def tables() -> dict[str, str]:
    text = "\n".join(without_comments(one.text) for one in migrations.load("postgres"))
    return dict(re.findall(r"create table memory\.(\w+) \((.*?)\n\);", text, re.DOTALL))


def test_every_key_begins_with_the_user() -> None:
    exempt = {"deployment", "schema_migrations"}
    assert set(USER_TABLES.split("|")) - {"entities"} == tables().keys() - exempt
    for name, body in tables().items():
        if name in exempt:
            continue
        key = "user_hash" if name == "erasures" else "user_id"
        keys = re.findall(r"(?:primary key|unique(?: nulls not distinct)?|foreign key) \(([^)]*)\)", body)
        assert keys or re.search(rf"{key} text primary key", body), name
        assert all(columns.split(",")[0].strip() == key for columns in keys), name
    text = "\n".join(without_comments(one.text) for one in migrations.load("postgres"))
    for table, columns in re.findall(r"create (?:unique )?index \w+ on memory\.(\w+) (?:using \w+ )?\(([^)]*)\)", text):
        assert columns.split(",")[0].strip() in ("user_id", "user_hash"), f"an index of {table}"


def test_an_index_beside_a_key_is_for_what_names_its_second_column() -> None:
    """Or it looks as good as the key while a table is small, and plans are kept when it is not any more."""
    text = "\n".join(without_comments(one.text) for one in migrations.load("postgres"))
    found = re.findall(r"create index (\w+) on memory\.\w+ \(([^)]*)\)([^;]*);", text)
    assert found
    for name, columns, condition in found:
        assert condition.strip() == f"where {columns.split(',')[1].split()[0]} is not null", name


def test_every_statement_names_its_user_for_every_table() -> None:
    for name, query in queries.load("postgres").items():
        touched = re.findall(rf"(?:from|join|into|update)\s+memory\.({USER_TABLES})\b", without_comments(query.text))
        if not touched or name in ACROSS_USERS:
            continue
        assert "user_id" in query.parameters, name
        bound = query.text.count(f"user_id = ${query.parameters.index('user_id') + 1}")
        inserts = len(re.findall(r"insert into memory\.", query.text))
        assert bound + inserts >= len(touched), name


def test_functions_look_for_the_rows_of_one_user_whom_they_are_given() -> None:
    """Citus knows then on which node they are; whose rows are on several it mostly refuses to join with a list."""
    text = "\n".join(without_comments(one.text) for one in migrations.load("postgres"))
    functions = re.findall(r"create function memory\.(\w+)\s*\(.*?\$\$(.*?)\$\$", text, re.DOTALL)
    assert {name for name, body in functions if re.search(r"user_id = (?!p_user\b|\$1)", body)} == FOR_SEVERAL_USERS
    assert [name for name, body in functions if "memory.put_vectors(" in body] == ["apply_user_batches"]
