"""JSON by an encoder that is kept: the text that the standard library writes."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from hybrid_memory.sqlite.checkpoints.json_text import json_writer

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
names = st.text(max_size=4) | st.integers() | st.none()
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


@given(values)
def test_the_text_is_that_of_the_standard_library(value: Any) -> None:
    assert json_writer()(value) == json.dumps(value, separators=(",", ":"))


@given(st.dictionaries(st.text(max_size=4), values | st.dictionaries(st.text(max_size=4), plain), max_size=4))
def test_keys_are_sorted_where_that_is_asked_for(value: dict[str, Any]) -> None:
    try:
        wanted = json.dumps(value, separators=(",", ":"), sort_keys=True)
    except TypeError:  # keys of different types have no order
        with pytest.raises(TypeError):
            json_writer(sort_keys=True)(value)
    else:
        assert json_writer(sort_keys=True)(value) == wanted


def test_what_is_no_json_is_an_error_and_leaves_nothing_behind() -> None:
    endless: list[Any] = []
    endless.append(endless)
    written = json_writer()
    for odd, error in ((endless, RecursionError), ([object()], TypeError), ({(1, 2): 3}, TypeError)):
        with pytest.raises(error):
            written(odd)
    assert written([1]) == "[1]"
