"""Named queries: parameters, schema names, and what must be left alone."""

import pytest
from hypothesis import given, strategies as st

from hybrid_memory import queries


def only(text: str, dialect: queries.Dialect = "postgres") -> queries.Query:
    (query,) = queries.parse("group", f"-- name: it\n-- A purpose.\n{text}", dialect).values()
    return query


def test_names_become_numbers_in_order_of_appearance() -> None:
    query = only("select :b, :a, :b from t where x = :a;")
    assert query.text == "select $1, $2, $1 from t where x = $2"
    assert query.parameters == ("b", "a")
    assert query.arguments({"a": 1, "b": 2}) == [2, 1]


@pytest.mark.parametrize(
    "text",
    [
        "select x::jsonb",
        "select '12:30', ':not', 'it''s :not'",
        'select ":not", """:not"',
        "select '{\"a\":b}'::jsonb",
        "select a[1:2]",
        "select 1 -- :not\n",
        "select /* :not\n :not */ 1",
    ],
)
def test_what_is_no_parameter_stays(text: str) -> None:
    query = only(text)
    assert query.parameters == ()
    assert query.text == text.strip()


def test_sqlite_keeps_its_names() -> None:
    query = only("select :b, :a", "sqlite")
    assert query.text == "select :b, :a"
    assert query.parameters == ("b", "a")


def test_missing_and_superfluous_parameters_are_refused() -> None:
    query = only("select :a")
    with pytest.raises(TypeError, match=r"group.it takes \['a'\], not \['a', 'b'\]"):
        query.arguments({"a": 1, "b": 2})
    with pytest.raises(TypeError):
        query.arguments({})


def test_the_schema_is_quoted_wherever_it_is_a_name_and_nowhere_else() -> None:
    text = (
        "create schema memory; select memory.bound() from memory.nodes -- memory.nodes\n"
        "where x = current_setting('memory.users') and \"memory.x\" = 'memory.x' and y operator(public.<=>) z"
    )
    assert queries.render(text, 'My"s', "ext") == (
        'create schema "My""s"; select "My""s".bound() from "My""s".nodes -- memory.nodes\n'
        "where x = current_setting('memory.users') and \"memory.x\" = 'memory.x' and y operator(\"ext\".<=>) z"
    )


@given(st.text(alphabet="ab:'\"-/*$ \nmemory.", max_size=60))
def test_strings_and_comments_survive_any_text(inside: str) -> None:
    quoted = "'" + inside.replace("'", "''") + "'"
    assert queries.render(f"select {quoted}", "other") == f"select {quoted}"
    assert only(f"select {quoted}").text == f"select {quoted}".strip()


def test_a_block_without_a_purpose_or_with_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"group\.it"):
        queries.parse("group", "-- name: it\nselect 1", "postgres")
    with pytest.raises(ValueError, match=r"group\.it"):
        queries.parse("group", "-- name: it\n-- One.\nselect 1;\n-- name: it\n-- Two.\nselect 2", "postgres")
