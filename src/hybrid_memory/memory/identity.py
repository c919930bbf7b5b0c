"""Ids: made here, the same on every instance, and the same before and after a write reaches Postgres."""

import hashlib
import json
import re
from uuid import UUID

from langchain_core.utils.uuid import uuid7

from hybrid_memory.errors import InvalidInput
from hybrid_memory.memory.content import text_of

# The roots of derived ids; never to be changed, ids in databases are made from them.
_CALLER = UUID("8e0e2b0a-7c39-5b0f-9d9e-2f7a6c1f4b11")
_ENTITY = UUID("c6f2f6f4-0c80-5a6a-8a53-0a3b7e6f8d22")
_STORE_ITEM = UUID("51d4a7de-5c1b-5f1c-b1b8-6c6a1d0e9c33")

_as_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def new_id() -> str:
    """A new id; later ones sort after earlier ones."""
    return str(uuid7())


def node_id_of(user_id: str, given: str | UUID, *, most_bytes: int | None = None) -> tuple[str, str | None]:
    """The id of a memory from either form a caller may use, and the caller's own name for it, if that was given.

    Raises:
        InvalidInput: it is neither an id nor a name.
    """
    if isinstance(given, UUID):
        return str(given), None
    name = text_of(given, "node_id", most_bytes=most_bytes)
    if _UUID_TEXT.fullmatch(name):
        return name.lower(), None
    return _derived(_CALLER, user_id, name), name


def entity_node_id(user_id: str, entity_system: str, entity_id: str) -> str:
    """The id of an entity, from its identity in its own system."""
    return _derived(_ENTITY, user_id, entity_system, entity_id)


def store_node_id(owner: str, namespace: tuple[str, ...], key: str) -> str:
    """The id of a store item, from its address."""
    return _derived(_STORE_ITEM, owner, namespace, key)


def name_identity(entity_type: str, entity_name: str) -> str:
    """The identity of an entity that has no id of its own: its type and name, without case and extra spaces."""
    kind, name = (" ".join(text.casefold().split()) for text in (entity_type, entity_name))
    if not name:
        raise InvalidInput("an entity needs an entity_id or an entity_name")
    return f"name:{kind}:{name}"


def _derived(root: UUID, *parts: object) -> str:
    # JSON keeps the parts apart: ("a", "bc") and ("ab", "c") are different names.
    name = _as_text(parts).encode()
    # The text of `uuid5`, which takes three times as long by way of a number; every item that is met needs its id.
    text = hashlib.sha1(root.bytes + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(text[16], 16) % 4]
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"
