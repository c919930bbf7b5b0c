"""Messages out of their bytes: down to the last attribute what LangGraph's own serializer makes of them."""

from typing import Any

import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2, JsonPlusSerializer
from pydantic import BaseModel

from hybrid_memory.langgraph.messages import making_messages
from hybrid_memory.langgraph.serialisation import Serialisation
from hybrid_memory.sqlite.checkpoints.rows import Encoded
from tests.support.agents_state import Address, Colour, Order

OWN = [Order, Address, Colour]
STOCK = JsonPlusSerializer(allowed_msgpack_modules=OWN)
OURS = Serialisation(JsonPlusSerializer(allowed_msgpack_modules=OWN))

WORDS = st.text(max_size=6)
NUMBERS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
OBJECTS = st.sampled_from([Colour.RED, Order(number=1, lines=["a"]), Address("High Street", 5), frozenset({1})]) | (
    st.uuids() | st.datetimes() | st.decimals(allow_nan=False)
)
DATA = st.recursive(
    NUMBERS | WORDS | st.binary(max_size=6) | OBJECTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
KEYWORDS = st.dictionaries(WORDS, DATA, max_size=3)
PLAIN = st.recursive(
    NUMBERS | WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=4
)
CONTENTS = WORDS | st.lists(WORDS | KEYWORDS, max_size=3)
CALLS = st.fixed_dictionaries({"name": WORDS, "args": KEYWORDS, "id": st.none() | WORDS})
INVALID_CALLS = st.fixed_dictionaries({name: st.none() | WORDS for name in ("name", "args", "id", "error")})
RAW_CALLS = st.fixed_dictionaries(
    {"id": WORDS, "function": st.fixed_dictionaries({"name": WORDS, "arguments": st.sampled_from(['{"a": 1}', "{"])})}
)
DETAILS = st.dictionaries(st.sampled_from(["audio", "cache_read", "reasoning", "other"]), st.integers(0, 9))
USAGE = st.fixed_dictionaries(
    {name: st.integers(0, 9) for name in ("input_tokens", "output_tokens", "total_tokens")},
    optional={"input_token_details": DETAILS, "output_token_details": DETAILS, "other": st.integers(0, 9)},
)
COMMON = {
    "additional_kwargs": KEYWORDS | st.fixed_dictionaries({"tool_calls": st.lists(RAW_CALLS, max_size=2)}),
    "response_metadata": KEYWORDS,
    "name": st.none() | WORDS,
    "id": st.none() | WORDS | st.integers(0, 9),
}
OF_AI = {
    "tool_calls": st.lists(CALLS, max_size=2),
    "invalid_tool_calls": st.lists(INVALID_CALLS, max_size=2),
    "usage_metadata": st.none() | USAGE,
}


def messages(kind: type[BaseMessage], required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Messages made by their constructor, some with extra attributes."""
    fields = st.fixed_dictionaries({"content": CONTENTS, **required}, optional={**COMMON, **optional, "other": DATA})
    return fields.map(lambda these: kind(**these))


TOOL = messages(
    ToolMessage,
    {"tool_call_id": WORDS | st.uuids()},
    {"artifact": DATA | st.builds(HumanMessage, WORDS), "status": st.sampled_from(["success", "error"])},
)
MESSAGES = (
    messages(HumanMessage, {}, {})
    | messages(SystemMessage, {}, {})
    | messages(AIMessage, {}, OF_AI)
    | messages(AIMessageChunk, {}, {"usage_metadata": OF_AI["usage_metadata"]})
    | TOOL
)
FIELDS = ("content", "additional_kwargs", "response_metadata", "type", "name", "id", "tool_calls", "usage_metadata")


def anatomy(value: Any) -> Any:
    """All that a value consists of: what `==` passes over too, such as types and the order of fields."""
    kind = type(value)
    if isinstance(value, BaseModel):
        hidden = (value.__pydantic_fields_set__, value.__pydantic_extra__, value.__pydantic_private__)
        return kind, anatomy(dict(value.__dict__)), hidden[0], anatomy(hidden[1]), anatomy(hidden[2])
    if isinstance(value, dict):
        return kind, [(anatomy(name), anatomy(one)) for name, one in value.items()]
    if isinstance(value, (list, tuple)):
        return kind, [anatomy(one) for one in value]
    return kind, repr(value)


def a_message(kind: type[BaseMessage]) -> BaseMessage:
    return kind(content="a", **({"tool_call_id": "1"} if kind is ToolMessage else {}))


def assert_alike(content: bytes) -> None:
    stored = Encoded("msgpack", content)
    assert anatomy(OURS.value(stored)) == anatomy(STOCK.loads_typed(stored))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MESSAGES | DATA, max_size=3))
def test_what_was_put_is_made_as_the_serializer_makes_it(values: list[Any]) -> None:
    assert_alike(STOCK.dumps_typed({"values": values})[1])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.sampled_from(FIELDS), DATA)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_message_that_was_changed_in_place_comes_back_as_it_was_left(
    message: BaseMessage, field: str, value: object
) -> None:
    message.__dict__[field] = value
    assert_alike(STOCK.dumps_typed(message)[1])


def assert_alike_of(kind: type[BaseMessage], fields: object) -> None:
    inside = (kind.__module__, kind.__name__, fields, "model_validate_json")
    extension = ormsgpack.Ext(EXT_PYDANTIC_V2, ormsgpack.packb(inside, option=ormsgpack.OPT_NON_STR_KEYS))
    assert_alike(ormsgpack.packb(extension))


KINDS = [HumanMessage, SystemMessage, AIMessage, ToolMessage]
NAMES = st.sampled_from([*FIELDS, "content_blocks", "self", "other", 1])


@settings(max_examples=100)
@given(st.sampled_from(KINDS), PLAIN | st.dictionaries(NAMES, PLAIN))
def test_what_is_no_message_gives_what_the_serializer_gives(kind: type[BaseMessage], fields: object) -> None:
    assert_alike_of(kind, fields)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_with_too_little_or_too_much_gives_what_the_serializer_gives(kind: type[BaseMessage]) -> None:
    whole: dict[Any, Any] = a_message(kind).model_dump()
    for name in whole:
        assert_alike_of(kind, {field: value for field, value in whole.items() if field != name})
    for more in ("content_blocks", "self", "other", 1):
        assert_alike_of(kind, {**whole, more: [{"type": "text", "text": "b"}]})


@pytest.mark.parametrize("changed", [{}, {"name": 5}, {"content": 5}, {"usage_metadata": {"input_tokens": "many"}}])
def test_calls_as_a_provider_wrote_them_are_read_where_the_serializer_reads_them(changed: dict[str, Any]) -> None:
    raw = [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    assert_alike_of(AIMessage, {**AIMessage("a").model_dump(), "additional_kwargs": {"tool_calls": raw}, **changed})


@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_a_chat_are_made_without_asking_the_serializer(kind: type[BaseMessage]) -> None:
    asked: list[int] = []
    hook = making_messages(lambda code, _: asked.append(code))
    kept = STOCK.dumps_typed(a_message(kind))[1]
    assert anatomy(ormsgpack.unpackb(kept, ext_hook=hook)) == anatomy(STOCK.loads_typed(("msgpack", kept)))
    assert asked == []


def test_a_hook_of_somebody_else_is_asked_for_messages_too() -> None:
    serde = JsonPlusSerializer(allowed_msgpack_modules=OWN, __unpack_ext_hook__=lambda code, _: code)
    assert Serialisation(serde).value(Serialisation(serde).plain(HumanMessage("a"), "x")) == EXT_PYDANTIC_V2
