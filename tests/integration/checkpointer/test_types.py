"""What comes back from a checkpoint is what was put, or it was refused: never something else, and no code runs."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict
from uuid import UUID

import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph

from hybrid_memory import HybridCheckpointer
from hybrid_memory.errors import ConfigurationError, InvalidInput
from hybrid_memory.langgraph.serialisation import AllowedType, Serialisation, nothing_blocked, strict
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.checkpoints.rows import Encoded
from tests.support.agents_state import CALLED, Address, Colour, Order, Trap
from tests.support.checkpoints import Thread, config_of
from tests.support.ciphers import XorCipher

ROOT = Path(__file__).parents[3]
OWN: list[AllowedType] = [Order, Address, Colour]


def with_types(
    checkpointer: HybridCheckpointer, *types: AllowedType, serde: Any = None, **keywords: Any
) -> HybridCheckpointer:
    return HybridCheckpointer(
        settings=Settings.without_environment(**keywords), allowed_types=types, serde=serde, state=checkpointer._state
    )


SAFE: dict[str, Any] = {
    "messages": [
        HumanMessage("hello", id="1"),
        AIMessage("hi", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c"}]),
        ToolMessage("done", tool_call_id="c"),
        SystemMessage("be kind"),
    ],
    "document": Document("text", metadata={"a": 1}),
    "when": datetime(2025, 1, 2, tzinfo=UTC),
    "id": UUID(int=7),
    "set": {1, 2, 3},
    "deep": {"a": [{"b": (1, 2)}], "bytes": b"x" * 300},
    "nothing": None,
    "text": "long " * 100,
}
OTHERS: dict[str, Any] = {
    "order": Order(number=1, lines=["a"]),
    "address": Address("High Street"),
    "colour": Colour.RED,
    "many": [Order(number=2), Address("Low Street", 5)],
    "inside": {"deep": [{"order": Order(number=3)}]},
}


def test_safe_types_come_back_without_being_allowed(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put(SAFE)
    assert thread.state() == {**SAFE, "deep": {"a": [{"b": [1, 2]}], "bytes": b"x" * 300}}


@pytest.mark.parametrize("name", OTHERS)
def test_a_type_that_is_not_allowed_fails_when_it_is_put(checkpointer: HybridCheckpointer, name: str) -> None:
    thread = Thread(checkpointer)
    with pytest.raises(InvalidInput) as told:
        thread.put({name: OTHERS[name]})
    assert f"channel '{name}'" in str(told.value)
    assert "HYBRID_MEMORY_ALLOWED_TYPES=tests.support.agents_state:" in str(told.value)
    assert "allowed_types=[...]" in str(told.value)
    with pytest.raises(InvalidInput, match=f"channel '{name}'.*allowed_types"):
        checkpointer.put_writes({"configurable": {"thread_id": "t", "checkpoint_id": "1"}}, [(name, OTHERS[name])], "t")
    assert thread.all() == []


def test_allowed_types_come_back_as_they_were(checkpointer: HybridCheckpointer) -> None:
    by_setting = ",".join(f"{one.__module__}:{one.__name__}" for one in (Order, Address, Colour))
    for number, own in enumerate(
        [
            with_types(checkpointer, *OWN),
            with_types(checkpointer, allowed_types=by_setting),
            with_types(checkpointer, *OWN, serde=EncryptedSerializer(XorCipher())),
            with_types(checkpointer, Address, Colour, serde=JsonPlusSerializer(allowed_msgpack_modules=[Order])),
        ]
    ):
        thread = Thread(own, str(number))
        thread.put(OTHERS)
        thread.write([("order", OTHERS["order"])])
        assert thread.state() == OTHERS
        assert [type(one) for one in thread.state()["many"]] == [Order, Address]


def test_a_type_that_is_not_allowed_any_more_is_named_when_it_is_read(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(with_types(checkpointer, *OWN))
    thread.put({"order": Order(number=1)})
    thread.checkpointer = checkpointer
    with pytest.raises(ConfigurationError, match=r"holds a tests\.support\.agents_state:Order.*ALLOWED_TYPES"):
        thread.state()
    with pytest.raises(ConfigurationError, match="agents_state:Order"):
        thread.all()


@dataclass
class _Outer:
    class Inner(Order):
        pass


def test_a_type_that_could_not_be_found_again_is_refused(checkpointer: HybridCheckpointer) -> None:
    class Local(Order):
        pass

    for one in (Local(number=1), _Outer.Inner(number=1)):
        thread = Thread(with_types(checkpointer, type(one)))
        with pytest.raises(InvalidInput, match="at the top of its module"):
            thread.put({"order": one})


def test_what_no_serializer_takes_is_named(checkpointer: HybridCheckpointer) -> None:
    with pytest.raises(InvalidInput, match="channel 'lock'"):
        Thread(checkpointer).put({"lock": object()})
    with pytest.raises(InvalidInput, match="metadata"):
        Thread(checkpointer).put({"a": 1}, {"odd": object()})


def test_what_contains_itself_is_refused(checkpointer: HybridCheckpointer) -> None:
    endless: dict[str, Any] = {}
    endless[""] = (endless,)
    with pytest.raises(InvalidInput, match="channel 'a'"):
        Thread(checkpointer).put({"a": endless})
    with pytest.raises(InvalidInput, match="metadata"):
        Thread(checkpointer).put({"a": 1}, {"odd": endless})


def test_pickle_is_refused_and_a_permissive_serializer_made_strict(checkpointer: HybridCheckpointer) -> None:
    with pytest.raises(ConfigurationError, match="pickle"):
        with_types(checkpointer, serde=JsonPlusSerializer(pickle_fallback=True))
    with pytest.raises(ConfigurationError, match="pickle"):
        with_types(checkpointer, serde=EncryptedSerializer(XorCipher(), JsonPlusSerializer(pickle_fallback=True)))
    with pytest.raises(ConfigurationError, match="module:Name"):
        with_types(checkpointer, "Order")
    for serde in (JsonPlusSerializer(allowed_msgpack_modules=True), EncryptedSerializer(XorCipher())):
        with pytest.raises(InvalidInput, match="agents_state:Order"):
            Thread(with_types(checkpointer, serde=serde)).put({"order": Order(number=1)})


class Json:
    """A serializer of somebody's own, which finds no text in what another one stored."""

    def dumps_typed(self, value: object) -> tuple[str, bytes]:
        return "json", json.dumps(value).encode()

    def loads_typed(self, stored: tuple[str, bytes]) -> object:
        return json.loads(stored[1])


class TextCipher(XorCipher):
    """A cipher that takes what it gets for text."""

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "xor"
        return ciphertext.decode().encode()


@pytest.mark.parametrize("own", [Json(), EncryptedSerializer(TextCipher())], ids=["serializer", "cipher"])
def test_a_serializer_that_cannot_read_a_value_is_not_taken_for_a_damaged_file(
    checkpointer: HybridCheckpointer, own: SerializerProtocol
) -> None:
    Thread(with_types(checkpointer, serde=EncryptedSerializer(XorCipher()))).put({"a": b"\xff" * 1000})
    with pytest.raises(ConfigurationError, match="serde"):
        with_types(checkpointer, serde=own).get_tuple(config_of("t"))
    another = Thread(checkpointer, "another")
    another.put({"a": 1})
    assert another.state() == {"a": 1}


def test_a_list_of_which_a_cipher_cannot_read_the_last_state_is_not_taken_for_damage(
    checkpointer: HybridCheckpointer,
) -> None:
    """What a list had before is read where the file is written."""
    thread = Thread(with_types(checkpointer, serde=EncryptedSerializer(XorCipher())))
    thread.put({"texts": ["\xff" * 1000, "b" * 1000]})
    thread.checkpointer = with_types(checkpointer, serde=EncryptedSerializer(TextCipher()))
    with pytest.raises(ConfigurationError, match="serde"):
        thread.put({"texts": ["\xff" * 1000, "c" * 1000]})
    another = Thread(checkpointer, "another")
    another.put({"a": 1})
    assert another.state() == {"a": 1}


def test_a_copy_that_allows_more_shares_the_file(checkpointer: HybridCheckpointer) -> None:
    """LangGraph works on such a copy when it was told to be strict."""
    copy = checkpointer.with_allowlist([(Order.__module__, "Order")])
    assert isinstance(copy, HybridCheckpointer)
    assert copy is not checkpointer
    thread = Thread(copy)
    thread.put({"order": Order(number=1)})
    assert thread.state() == {"order": Order(number=1)}
    with pytest.raises(InvalidInput):
        Thread(checkpointer).put({"order": Order(number=1)})


class State(TypedDict):
    order: Order
    address: Address


def test_a_graph_with_such_a_state_works_or_says_what_to_do(checkpointer: HybridCheckpointer) -> None:
    def graph_on(saver: HybridCheckpointer) -> Any:
        builder = StateGraph(State)
        builder.add_node("more", lambda state: {"order": Order(number=state["order"].number + 1)})
        builder.add_edge(START, "more")
        builder.add_edge("more", END)
        return builder.compile(checkpointer=saver)

    config = {"configurable": {"thread_id": "1"}}
    given_state = {"order": Order(number=1), "address": Address("High Street")}
    graph = graph_on(with_types(checkpointer, Order, Address))
    graph.invoke(given_state, config)
    assert graph.get_state(config).values == {**given_state, "order": Order(number=2)}
    with pytest.raises(InvalidInput, match="may not be restored"):
        graph_on(checkpointer).invoke(given_state, {"configurable": {"thread_id": "2"}})


def test_langgraph_hands_its_types_over_when_it_was_told_to_be_strict(tmp_path: Path) -> None:
    """Then a pydantic state needs no allowing; LangGraph reads the variable when it is imported."""
    program = """
import sys
from typing import TypedDict
from langgraph.graph import END, START, StateGraph
from hybrid_memory import HybridCheckpointer
from tests.support.agents_state import Order

class State(TypedDict):
    order: Order

builder = StateGraph(State)
builder.add_node("more", lambda state: {"order": Order(number=state["order"].number + 1)})
builder.add_edge(START, "more")
builder.add_edge("more", END)
with HybridCheckpointer(sys.argv[1]) as checkpointer:
    graph = builder.compile(checkpointer=checkpointer)
    config = {"configurable": {"thread_id": "1"}}
    graph.invoke({"order": Order(number=1)}, config)
    assert graph.get_state(config).values == {"order": Order(number=2)}, graph.get_state(config)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        env={"PATH": os.environ["PATH"], "LANGGRAPH_STRICT_MSGPACK": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# Payloads of somebody who can write to the file


def hostile(code: int, *parts: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(parts)))


@pytest.mark.parametrize("code", range(8))
@pytest.mark.parametrize(
    "named", [(Trap.__module__, "Trap"), ("os", "system"), ("builtins", "eval"), ("subprocess", "Popen")]
)
def test_a_payload_that_names_something_else_runs_nothing(code: int, named: tuple[str, str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    serialisation = Serialisation(strict(None, OWN))
    for argument in (f"touch {trace}", [f"touch {trace}"], {"command": f"touch {trace}"}):
        payload = hostile(code, *named, argument, "__call__")
        refused = pytest.raises(ConfigurationError) if code < 6 else nullcontext()
        with refused, nothing_blocked():
            serialisation.value(Encoded("msgpack", payload))
    assert CALLED == []
    assert not trace.exists()


GOOD = [Serialisation(strict(None, OWN)).plain(value, "x").content for value in (*SAFE.values(), *OTHERS.values())]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(GOOD) | st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.sampled_from(["msgpack", "json", "null", "bytes", "pickle", "msgpack+aes", ""]),
)
def test_a_damaged_payload_gives_a_value_or_an_error(good: bytes, changes: list[tuple[int, int]], kind: str) -> None:
    payload = bytearray(good)
    for place, value in changes:
        if payload:
            payload[place % len(payload)] = value
    try:
        with nothing_blocked():
            Serialisation(strict(None, OWN)).value(Encoded(kind, bytes(payload)))
    except Exception as error:  # noqa: BLE001 - which one is LangGraph's business; what matters is that it is one
        assert not isinstance(error, (SystemError, MemoryError))  # noqa: PT017 - there may be none
    assert CALLED == []
