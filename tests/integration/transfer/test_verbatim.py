"""Values that are moved without being made."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import ormsgpack
import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.jsonplus import EXT_CONSTRUCTOR_SINGLE_ARG, JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Interrupt, Send

from hybrid_memory.errors import InvalidInput
from hybrid_memory.transfer.verbatim import VerbatimSerializer
from tests.conformance.graphs.test_states import VALUES

made: list[str] = []


@dataclass
class Made:
    """Remembers that it was made."""

    name: str

    def __post_init__(self) -> None:
        made.append(self.name)


MORE: list[Any] = [
    {"channel_values": {"messages": [HumanMessage("hi", id="1")], "deep": [{"a": (Send("n", {1, 2}),)}]}},
    _DeltaSnapshot([HumanMessage("hi", id="1"), 1]),
    Interrupt(value={"question": [Made("inside")]}),
    np.arange(6).reshape(2, 3),
    float("nan"),
    {(1, "tuple"): "key"},
    bytearray(b"x"),
]


@pytest.mark.parametrize("value", [*VALUES, *MORE], ids=lambda value: type(value).__name__)
def test_what_is_written_is_what_was_read(value: Any) -> None:
    stock, verbatim = JsonPlusSerializer(), VerbatimSerializer()
    stored = stock.dumps_typed(value)
    assert verbatim.dumps_typed(verbatim.loads_typed(stored)) == stored


def test_nothing_is_made() -> None:
    verbatim = VerbatimSerializer()
    stored = JsonPlusSerializer().dumps_typed({"one": [Made("a")], "other": {"k": Made("b")}})
    made.clear()
    verbatim.dumps_typed(verbatim.loads_typed(stored))
    assert made == []
    assert verbatim.types == {(Made.__module__, "Made")}
    assert JsonPlusSerializer(allowed_msgpack_modules=True).loads_typed(stored)["one"] == [Made("a")]


def test_nothing_is_run() -> None:
    content = ormsgpack.packb(("os", "abort", "anything"))
    hostile = ormsgpack.packb({"v": ormsgpack.Ext(EXT_CONSTRUCTOR_SINGLE_ARG, content)})
    verbatim = VerbatimSerializer()
    assert verbatim.dumps_typed(verbatim.loads_typed(("msgpack", hostile))) == ("msgpack", hostile)


def test_a_snapshot_of_a_delta_channel_is_one() -> None:
    stored = JsonPlusSerializer().dumps_typed({"channel_values": {"words": _DeltaSnapshot(["a"])}})
    assert VerbatimSerializer().loads_typed(stored)["channel_values"]["words"] == _DeltaSnapshot(["a"])


def test_what_was_json_becomes_msgpack() -> None:
    old = (
        b'{"messages": [{"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "HumanMessage"],'
        b' "kwargs": {"content": "hi", "id": "1"}}]}'
    )
    verbatim = VerbatimSerializer()
    kind, content = verbatim.dumps_typed(verbatim.loads_typed(("json", old)))
    restored = JsonPlusSerializer(allowed_msgpack_modules=None).loads_typed((kind, content))
    assert restored == {"messages": [HumanMessage("hi", id="1")]}


@pytest.mark.parametrize(
    ("kind", "said"), [("pickle", "pickled"), ("msgpack+aes", "encrypted"), ("yaml", "kind 'yaml', which is unknown")]
)
def test_what_cannot_be_moved_is_named(kind: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        VerbatimSerializer().loads_typed((kind, b""))
