"""A mapping that is copied after every change and changed little in between: copies share what stayed the same."""

from collections.abc import Iterator, MutableMapping
from typing import Self, TypeVar, overload

Value = TypeVar("Value")
Other = TypeVar("Other")
# Copies share everything but changes, until these are so many, or such a part of everything.
_FEW = 64
_PART = 16


class Layered(MutableMapping[str, Value]):
    """Changes on top of what copies have in common. Values are not None.

    Whoever copies or changes one has it for himself meanwhile; one that nobody changes any more is read by any thread.
    """

    __slots__ = ("_base", "_changes", "_more", "_shared")

    def __init__(
        self, base: dict[str, Value] | None = None, changes: dict[str, Value | None] | None = None, more: int = 0
    ) -> None:
        self._base = {} if base is None else base
        self._shared = base is not None
        # None for what is gone; empty as long as the base is not shared. And how many more there are by them.
        self._changes = changes or {}
        self._more = more

    def copy(self) -> Self:
        """The same, which no longer changes with this one."""
        if len(self._changes) > max(_FEW, len(self._base) // _PART):
            self._base, self._changes, self._more = self.merged(), {}, 0
        self._shared = True
        return type(self)(self._base, self._changes.copy(), self._more)

    def merged(self) -> dict[str, Value]:
        """All of it in one, for who looks at everything. Not to be changed."""
        if not self._changes:
            return self._base
        merged = self._base.copy()
        for key, value in self._changes.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = value
        return merged

    @overload
    def get(self, key: str, default: None = None, /) -> Value | None: ...
    @overload
    def get(self, key: str, default: Other, /) -> Value | Other: ...
    def get(self, key: str, default: Other | None = None, /) -> Value | Other | None:
        """Without the detour over an error that the inherited one takes."""
        value = self._changes[key] if key in self._changes else self._base.get(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> Value:
        value = self._changes[key] if key in self._changes else self._base[key]
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Value) -> None:
        if self._shared:
            self._more += key not in self
            self._changes[key] = value
        else:
            self._base[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        if self._shared:
            self._more -= 1
            self._changes[key] = None
        else:
            del self._base[key]

    def __contains__(self, key: object) -> bool:
        return self._changes[key] is not None if key in self._changes else key in self._base

    def __iter__(self) -> Iterator[str]:
        return iter(self.merged())

    def __len__(self) -> int:
        return len(self._base) + self._more
