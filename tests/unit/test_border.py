"""The border refuses what a database would, names the field, and keeps the rest unchanged."""

import dataclasses
import enum
import json
import math
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel

from hybrid_memory import Settings
from hybrid_memory.errors import InvalidInput
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.extraction.bounded import Bounded
from hybrid_memory.memory.identity import entity_node_id, name_identity, node_id_of, store_node_id
from hybrid_memory.memory.namespaces import Namespaces
from hybrid_memory.memory.summaries import LONGEST, summary_of

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def border() -> Border:
    return Border(Settings(max_depth=5, max_content_bytes=1000))


class Colour(enum.Enum):
    RED = "red"


class Kind(str, enum.Enum):  # noqa: UP042 - whose text is its name, unlike that of a StrEnum
    FACT = "conversation_fact"


@dataclasses.dataclass
class Point:
    x: int
    when: date


class Account(BaseModel):
    name: str
    ids: tuple[UUID, ...]


def test_a_string_is_stored_as_text_and_data_as_data(border: Border) -> None:
    assert border.content("hello")[:2] == ({"text": "hello"}, "text")
    assert border.content({"text": "hello"})[:2] == ({"text": "hello"}, "json")
    assert border.content("hello")[2] != border.content({"text": "hello"})[2]


def test_what_is_data_becomes_json(border: Border) -> None:
    one = UUID(int=1)
    value = {
        "when": datetime(2026, 1, 2, 3, tzinfo=UTC),
        "colour": Colour.RED,
        "point": Point(1, date(2026, 1, 1)),
        "account": Account(name="a", ids=(one,)),
        "set": {"b", "a"},
        "tuple": (1, None, True),
    }
    assert border.content(value)[0] == {
        "when": "2026-01-02T03:00:00+00:00",
        "colour": "red",
        "point": {"x": 1, "when": "2026-01-01"},
        "account": {"name": "a", "ids": [str(one)]},
        "set": ["a", "b"],
        "tuple": [1, None, True],
    }


def test_of_a_member_of_an_enum_of_texts_its_text_counts(border: Border) -> None:
    assert border.user_id(Kind.FACT) == border.name(Kind.FACT, "role") == "conversation_fact"
    assert border.tags([Kind.FACT]) == ["conversation_fact"]
    assert border.item({"kind": Kind.FACT, Kind.FACT: 1})[0] == {"kind": "conversation_fact", "conversation_fact": 1}
    assert Bounded().plain({Kind.FACT: Kind.FACT}) == {"conversation_fact": "conversation_fact"}
    first, then = (Namespaces(border).address(("memories", text), text) for text in (Kind.FACT, Kind.FACT.value))
    assert first == then
    assert first.owner == "conversation_fact"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": [1, "x\x00y"]}, r"content\.a\[1\] holds a NUL character at position 1"),
        ({"a": "\ud800"}, r"content\.a holds a lone surrogate at position 0"),
        ({"a\x00": 1}, r"a key of content holds a NUL"),
        ({1: "a"}, r"content has the key 1, which is no string"),
        ({"a": math.nan}, r"content\.a is nan"),
        ({"a": [math.inf]}, r"content\.a\[0\] is inf"),
        ({"a": 2**2000}, r"content\.a is an integer of more than 1024 bits"),
        ({"a": datetime(2026, 1, 1)}, r"content\.a is a datetime without a time zone"),  # noqa: DTZ001 - that is the point
        ({"a": b"x"}, r"content\.a is bytes"),
        ({"a": object()}, r"content\.a is a object, which is not data"),
        ([[[[[[[1]]]]]]], r"nested too deeply"),
        (None, r"content must not be None"),
        ("x" * 1000, r"content is 1011 bytes of JSON, 1000 are allowed"),
    ],
)
def test_what_cannot_be_stored_is_named(border: Border, value: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        border.content(value)


def test_a_content_that_contains_itself_is_too_deep(border: Border) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidInput, match="nested too deeply"):
        border.content(loop)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_whatever_passes_survives_json_unchanged(value: Any) -> None:
    try:
        plain, _, _ = Border(Settings()).content([value])
    except InvalidInput:
        return
    text = json.dumps(plain)
    assert json.loads(text) == plain
    assert "\\u0000" not in text
    text.encode()


@pytest.mark.parametrize("user_id", ["", "x" * 257, "a\x00", "\udfff", "store:mine", 5, None, b"x"])
def test_user_ids_that_are_refused(border: Border, user_id: Any) -> None:
    with pytest.raises(InvalidInput, match="user_id"):
        border.user_id(user_id)


def test_user_ids_are_kept_byte_by_byte(border: Border) -> None:
    for user_id in ("Nick", "nick ", "é", "é", "store", "%2E"):
        assert border.user_id(user_id) == user_id


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"importance": 1.1}, "importance"),
        ({"importance": True}, "importance"),
        ({"confidence": math.nan}, "confidence"),
        ({"confidence": "high"}, "confidence"),
        ({"tags": "sales"}, "tags"),
        ({"tags": ["ok", ""]}, r"tags\[1\]"),
        ({"metadata": [1]}, "metadata"),
        ({"metadata": {"a": math.inf}}, r"metadata\.a"),
        ({"summary": "a\x00"}, "summary"),
        ({"thread_id": ""}, "thread_id"),
        ({"context_type": ""}, "context_type"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": timedelta.max}, "expires_in"),
        ({"node_id": ""}, "node_id"),
        ({"relates_to": [""]}, "relates_to"),
        ({"embedding": []}, "embedding"),
        ({"embedding": [0.0, 0]}, "embedding is zero"),
        ({"embedding": [1, math.nan]}, r"embedding\[1\]"),
        ({"embedding": [1e39]}, r"embedding\[0\]"),
        ({"embedding": [1e5] * 2001}, r"embedding\[0\]"),
        ({"embedding": [1.0] * 4001}, "4001 dimensions"),
        ({"embedding": ["a"]}, "embedding"),
    ],
)
def test_a_bad_field_of_a_draft_is_named(border: Border, fields: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"content": "x", "context_type": "conversation_fact"} | fields
    with pytest.raises(InvalidInput, match=named):
        border.draft("nick", arguments.pop("content"), arguments.pop("context_type"), now=NOW, **arguments)


def test_a_draft_is_complete(border: Border) -> None:
    draft = border.draft(
        "nick",
        "a fact",
        "conversation_fact",
        now=NOW,
        tags=["b", "a", "b"],
        expires_in=60,
        node_id="my-name",
        relates_to=["other", UUID(int=7)],
        embedding=[1, 2],
    )
    assert draft.row["tags"] == ["b", "a"]
    assert draft.row["expires_at"] == "2026-05-01T00:01:00+00:00"
    assert draft.row["external_id"] == "my-name"
    assert draft.relates_to == (border.node_id("nick", "other"), str(UUID(int=7)))
    assert draft.embedding == (1.0, 2.0)
    assert draft.row["summary"] == "a fact"
    json.dumps(dict(draft.row))


def test_derived_ids_do_not_change() -> None:
    """They are in databases."""
    assert node_id_of("nick", "my-name", most_bytes=100) == ("2c14aa23-e57a-5f68-9e80-b28b27d3b798", "my-name")
    assert entity_node_id("nick", "salesforce", "001") == "0f3e8d86-1841-5b8a-82b8-f72fe2c1cf64"
    assert store_node_id("nick", ("memories", "nick"), "k") == "eb77fcbf-01a4-53f0-a560-5c2a61304a22"


@given(label=st.text(), key=st.text())
def test_derived_ids_are_uuids_of_version_5(label: str, key: str) -> None:
    items = UUID("51d4a7de-5c1b-5f1c-b1b8-6c6a1d0e9c33")
    name = json.dumps(["store:docs", ["docs", label], key], ensure_ascii=False, separators=(",", ":"))
    assert store_node_id("store:docs", ("docs", label), key) == str(uuid5(items, name))


def test_ids_of_users_and_parts_do_not_meet() -> None:
    assert node_id_of("a", "bc", most_bytes=9)[0] != node_id_of("ab", "c", most_bytes=9)[0]
    assert entity_node_id("a", "b", "c") != store_node_id("a", ("b",), "c")
    upper = str(UUID(int=0xABC)).upper()
    assert node_id_of("a", upper, most_bytes=99) == (upper.lower(), None)


def test_an_entity_without_an_id_is_known_by_its_name() -> None:
    assert (
        name_identity("Account", "  Gene  Point ")
        == name_identity("account", "gene point")
        == "name:account:gene point"
    )
    with pytest.raises(InvalidInput, match="entity_name"):
        name_identity("account", " ")


@pytest.mark.parametrize(
    ("content", "kind", "context_type", "line"),
    [
        ({"text": "two\n lines"}, "text", "conversation_fact", "two lines"),
        ({"entity_name": "GenePoint", "entity_type": "account", "entity_system": "salesforce"}, "json", "domain_entity",
         "GenePoint (account in salesforce)"),
        ({"entity_id": "1"}, "json", "domain_entity", "1"),
        ({"role": "user", "content": "Hi"}, "json", "conversation_message", "user: Hi"),
        ({"tool_name": "crm", "status": "ok", "x": 1}, "json", "tool_output", "crm, ok"),
        ({"title": "Report"}, "json", "anything", "Report"),
        ([1, 2], "json", "search_result", "search result: [1, 2]"),
        ({"text": "w " * 200}, "text", "conversation_fact", ("w " * 80)[: LONGEST - 1].rstrip() + "…"),
    ],
)  # fmt: skip
def test_one_line_about_it(content: Any, kind: str, context_type: str, line: str) -> None:
    assert summary_of(content, kind, context_type) == line


@pytest.mark.parametrize("again", [1, 2])
def test_an_address_is_checked_whatever_was_asked_for_before(border: Border, again: int) -> None:
    namespaces = Namespaces(border)
    for _ in range(again):
        assert namespaces.address(["docs", "1"], "2").node_id == store_node_id("store:docs", ("docs", "1"), "2")
        bad: list[tuple[Any, Any]] = [
            (("docs", 1), "2"), (("docs", ["1"]), "2"), (("docs", ""), "2"), (("docs", "1"), 2), (("docs", "1"), ["2"]),
        ]  # fmt: skip
        for labels, key in bad:
            with pytest.raises(InvalidInput):
                namespaces.address(labels, key)
