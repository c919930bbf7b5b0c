"""Values as bytes and back: what may not come back is not stored."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, NamedTuple, cast

import ormsgpack

# The list of what is always restored has no public name.
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.base import CipherProtocol, SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import (
    EXT_DELTA_SNAPSHOT,
    EXT_METHOD_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
    JsonPlusSerializer,
)

from hybrid_memory.errors import ConfigurationError, InvalidInput
from hybrid_memory.langgraph.messages import ExtensionHook, making_messages
from hybrid_memory.sqlite.checkpoints.rows import Encoded

AllowedType = type | str

_MSGPACK = "msgpack"
# The first bytes of the extensions of msgpack, which is how types are written; in other values they are rare.
_EXTENSIONS = bytes((*range(0xC7, 0xCA), *range(0xD4, 0xD9)))
_DATA = frozenset((str, int, float, bool, bytes, type(None)))
_MOST_LOOKED_AT = 100
_HOW_TO_ALLOW = (
    "HYBRID_MEMORY_ALLOWED_TYPES={name}, or allowed_types=[...] where the checkpointer or the manager is made"
)


class _Named(NamedTuple):
    """What a serialised object names: its type, and the method that makes it where it is not the constructor."""

    module: str
    name: str
    method: str | None = None

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def strict(serde: SerializerProtocol | None, allowed: Iterable[AllowedType]) -> SerializerProtocol:
    """A serializer that restores no type but the safe and the allowed ones.

    LangGraph's own serializer is made strict, inside an `EncryptedSerializer` too. Another one is taken as it is.

    Raises:
        ConfigurationError: the serializer falls back to pickle.
    """
    names = tuple(_name_of(one) for one in allowed)
    if type(serde) is EncryptedSerializer:
        return EncryptedSerializer(serde.cipher, strict(serde.serde, allowed))
    if isinstance(serde, JsonPlusSerializer) and serde.pickle_fallback:
        raise ConfigurationError("serde: pickle_fallback is on, and whoever can write to a pickle can run code")
    if serde is None or (type(serde) is JsonPlusSerializer and _restores(serde, _Named("", ""))):
        return JsonPlusSerializer(allowed_msgpack_modules=names or None)
    return serde.with_msgpack_allowlist(names) if isinstance(serde, JsonPlusSerializer) else serde


def unrestorable(names: Iterable[tuple[str, str]], allowed: Iterable[AllowedType]) -> list[str]:
    """Which of these types, as module and name, come back from no checkpoint unless they are allowed as well."""
    serde = strict(None, allowed)
    assert isinstance(serde, JsonPlusSerializer)  # noqa: S101 - for the type checker; it was made from None
    named = [_Named(*name) for name in sorted(names)]
    return [str(one) for one in named if not _restores(serde, one)]


class Serialisation:
    """How the values of one checkpointer become bytes and values again."""

    def __init__(self, serde: SerializerProtocol) -> None:
        self.serde = serde
        self._cipher: CipherProtocol | None = None
        self._plain = serde
        if type(serde) is EncryptedSerializer:
            self._cipher, self._plain = serde.cipher, serde.serde
        self._restorable: set[_Named] = set()
        self._hook: ExtensionHook | None = None
        # Neither has a public name. Its own hook knows which types are allowed; what somebody else's does is unknown.
        if type(self._plain) is JsonPlusSerializer and not self._plain._custom_unpack_ext_hook:  # noqa: SLF001
            self._hook = making_messages(self._plain._unpack_ext_hook)  # noqa: SLF001

    def plain(self, value: object, where: str) -> Encoded:
        """A value before it is encrypted: equal values give equal bytes. `where` names it in an error.

        Raises:
            InvalidInput: it cannot be stored, or a type in it may not be restored.
        """
        try:
            kind, content = self._plain.dumps_typed(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"{where}: {error}") from error
        if kind == _MSGPACK and isinstance(self._plain, JsonPlusSerializer) and _may_name_types(content, value):
            for named in _named_in(content) - self._restorable:
                _require_restorable(self._plain, named, where)
                self._restorable.add(named)
        return Encoded(kind, bytes(content))

    def sealed(self, plain: Encoded) -> Encoded:
        """A value as it is stored: encrypted, where the serializer encrypts."""
        if self._cipher is None:
            return plain
        name, content = self._cipher.encrypt(plain.content)
        return Encoded(f"{plain.kind}+{name}", content)

    def opened(self, stored: Encoded) -> Encoded:
        """The other way."""
        if self._cipher is None or "+" not in stored.kind:
            return stored
        kind, name = stored.kind.split("+", 1)
        with _not_taken_for_damage(stored):
            return Encoded(kind, self._cipher.decrypt(name, stored.content))

    def stored(self, value: object, where: str) -> Encoded:
        """A value as it is stored."""
        return self.sealed(self.plain(value, where))

    def value(self, stored: Encoded) -> Any:
        """A stored value.

        Raises:
            ConfigurationError: the serializer cannot read it as text.
        """
        kind, content = self.opened(stored)
        if kind == _MSGPACK and self._hook is not None:
            return ormsgpack.unpackb(content, ext_hook=self._hook, option=ormsgpack.OPT_NON_STR_KEYS)
        with _not_taken_for_damage(stored):
            return self._plain.loads_typed((kind, content))


@contextmanager
def nothing_blocked() -> Iterator[None]:
    """See to it that what is restored in the block, in this thread, is what was stored.

    Raises:
        ConfigurationError: a type in it is not allowed; LangGraph's serializer gave something else instead.
    """
    blocked: list[_Named] = []
    thread = get_ident()

    def listen(event: SerdeEvent) -> None:
        if get_ident() == thread and event["kind"] != "msgpack_unregistered_allowed":
            blocked.append(_Named(event["module"], event["name"]))

    stop_listening = register_serde_event_listener(listen)
    try:
        yield
    finally:
        stop_listening()
    if blocked:
        raise ConfigurationError(
            f"a checkpoint holds a {blocked[0]}, which may not be restored. If it should be: "
            + _HOW_TO_ALLOW.format(name=blocked[0])
        )


@contextmanager
def _not_taken_for_damage(stored: Encoded) -> Iterator[None]:
    """Tell an error of somebody's serializer from that of a database whose texts are none any more."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"serde: it cannot read a value of the kind {stored.kind!r}, which another one may have stored: {error}"
        ) from error


def _may_name_types(content: bytes, value: object) -> bool:
    """Whether these bytes of a value have to be read for types. Most have no byte that an extension begins with."""
    # Looking for one after the other is many times as fast as looking for any of them.
    return any(map(content.__contains__, _EXTENSIONS)) and not _is_data(value)


def _is_data(value: object) -> bool:
    """Whether there is nothing but plain data in a value; False also when that takes longer to find out."""
    stack, looked_at = [value], 0
    while stack:
        one = stack.pop()
        kind = type(one)
        looked_at += 1
        if kind is dict:
            stack.extend(cast("dict[object, object]", one))
            stack.extend(cast("dict[object, object]", one).values())
        elif kind in (list, tuple):
            stack.extend(cast("list[object]", one))
        elif kind not in _DATA:
            return False
        if len(stack) + looked_at > _MOST_LOOKED_AT:
            return False
    return True


def _require_restorable(serde: JsonPlusSerializer, named: _Named, where: str) -> None:
    if not _restores(serde, named):
        advice = "convert it first" if named.method else f"allow it: {_HOW_TO_ALLOW.format(name=named)}"
        raise InvalidInput(f"{where}: {named} may not be restored from a checkpoint, so it is not stored; {advice}")
    if named[:2] not in SAFE_MSGPACK_TYPES and not hasattr(sys.modules.get(named.module), named.name):
        raise InvalidInput(
            f"{where}: {named} could not be restored, because {named.module} has no {named.name}; define the type at "
            "the top of its module"
        )


def _restores(serde: JsonPlusSerializer, named: _Named) -> bool:
    """Whether the serializer makes these objects: allowing them once more would change nothing then."""
    if named.method is not None:
        return named in SAFE_MSGPACK_METHODS
    return named[:2] in SAFE_MSGPACK_TYPES or serde.with_msgpack_allowlist([named[:2]]) is serde


def _named_in(content: bytes) -> set[_Named]:
    """What restoring this would call."""
    found: set[_Named] = set()

    def look(code: int, data: bytes) -> None:
        inside = ormsgpack.unpackb(data, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
        if code not in (EXT_DELTA_SNAPSHOT, EXT_NUMPY_ARRAY):
            found.add(_Named(inside[0], inside[1], inside[3] if code == EXT_METHOD_SINGLE_ARG else None))

    ormsgpack.unpackb(content, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
    return found


def _name_of(allowed: AllowedType) -> tuple[str, str]:
    if isinstance(allowed, type):
        return allowed.__module__, allowed.__name__
    module, separator, name = allowed.partition(":")
    if not (module and separator and name):
        raise ConfigurationError(f"allowed_types: {allowed!r} is neither a type nor written module:Name")
    return module, name
