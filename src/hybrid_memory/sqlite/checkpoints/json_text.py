"""Values as compact JSON, by an encoder that is made once.

`JSONEncoder.encode` makes the same encoder anew for every value, which takes longer than the small values that a
checkpoint consists of take to be written.
"""

from collections.abc import Callable
from json.encoder import JSONEncoder, c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined] # not in stubs


def json_writer(*, sort_keys: bool = False) -> Callable[[object], str]:
    """What gives the text that `json.dumps` gives. A value that contains itself is a RecursionError."""
    chunks = c_make_encoder(
        None,  # no record of what is being written
        JSONEncoder().default,
        encode_basestring_ascii,
        None,  # no indentation
        ":",
        ",",
        sort_keys,
        False,  # noqa: FBT003 - takes no names; no key is left out
        True,  # noqa: FBT003 - takes no names; NaN is written
    )

    def written(value: object) -> str:
        return "".join(chunks(value, 0))

    return written
