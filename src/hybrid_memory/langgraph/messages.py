"""Messages out of their bytes, sooner than LangGraph's serializer makes them: the same objects.

Chats consist of messages, and most of the time that a chat takes to be read goes into making them. The serializer looks
up the module and the class of each by name and calls its constructor, which hands everything on three times before it
is validated. Here what is left is the validation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ormsgpack
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

# The list of what is always restored has no public name.
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2

ExtensionHook = Callable[[int, bytes], Any]

_MESSAGES = (HumanMessage, AIMessage, ToolMessage, SystemMessage)
_ARRAY_OF_FOUR = b"\x94"


class _Kind(NamedTuple):
    """A class of messages: how the bytes of one begin, and the fields that each has."""

    beginning: bytes
    message: type[BaseMessage]
    fields: frozenset[str]

    @classmethod
    def of(cls, message: type[BaseMessage]) -> "_Kind":
        """What is to be known of a class."""
        name = ormsgpack.packb(message.__module__) + ormsgpack.packb(message.__name__)
        return cls(_ARRAY_OF_FOUR + name, message, frozenset(message.model_fields))

    def made(self, fields: dict[str, Any]) -> BaseMessage:
        """A message; one that is not valid, such as after a change in place, is made without validation."""
        try:
            if fields.keys() != self.fields:
                return self.message(**fields)
            # All that the constructor does with just these fields; a validator may change what it is given.
            validate = self.message.__pydantic_validator__.validate_python
            made: BaseMessage = validate(dict(fields), self_instance=self.message.__new__(self.message))
        except Exception:  # noqa: BLE001 - validators may raise anything
            return self.message.model_construct(**fields)
        return made


_KINDS = [_Kind.of(one) for one in _MESSAGES if (one.__module__, one.__name__) in SAFE_MSGPACK_TYPES]


def making_messages(otherwise: ExtensionHook) -> ExtensionHook:
    """What makes objects out of extensions of msgpack: messages here, `otherwise` everything else."""

    def hook(code: int, data: bytes) -> Any:
        if code == EXT_PYDANTIC_V2:
            for kind in _KINDS:
                if data.startswith(kind.beginning):
                    return made(kind, data)
        return otherwise(code, data)

    def made(kind: _Kind, data: bytes) -> Any:
        """A message; like the serializer, what there is of it where it cannot be made."""
        fields: Any = None
        try:
            _, _, fields, _ = ormsgpack.unpackb(data, ext_hook=hook, option=ormsgpack.OPT_NON_STR_KEYS)
            return kind.made(fields)
        except Exception:  # noqa: BLE001 - see above
            return fields

    return hook
