"""Whose an item of a store is: read from the labels of its namespace."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from hybrid_memory.errors import InvalidInput
from hybrid_memory.memory.border import STORE_OWNERS, Border
from hybrid_memory.memory.content import text_of
from hybrid_memory.memory.identity import store_node_id

# Below these the second label names a user.
USERS_ROOTS = ("memories", "users")
_LABELS_OF_A_USER = 2
# Addresses that were checked are remembered, so many: programs come back to theirs.
_ADDRESSES = 20_000

Namespace = tuple[str, ...]


class UnfitNamespace(InvalidInput):
    """A namespace cannot be one."""


class ItemAddress(NamedTuple):
    """Where an item is; `node_id` is the id of the memory it is, the same on every instance."""

    owner: str
    namespace: Namespace
    key: str
    node_id: str


class Namespaces:
    """Owners and addresses, with the limits of the border."""

    def __init__(self, border: Border) -> None:
        self._border = border
        self._known_address = lru_cache(maxsize=_ADDRESSES)(self._checked_address)
        self._known_owner = lru_cache(maxsize=_ADDRESSES)(self._checked_owner)

    def address(self, namespace: Sequence[str], key: str) -> ItemAddress:
        """The address of an item.

        Raises:
            UnfitNamespace: the namespace cannot be one.
            InvalidInput: the key cannot be one.
        """
        labels = tuple(namespace)
        try:
            return self._known_address(labels, key)
        except TypeError:
            # A list as a label, say: nothing to be remembered, and refused.
            return self._checked_address(labels, key)

    def owner_of(self, namespace: Namespace) -> str:
        """Whose the items of exactly this namespace are.

        Raises:
            UnfitNamespace: it cannot be one.
        """
        try:
            return self._known_owner(namespace)
        except TypeError:
            # A list as a label, say: nothing to be remembered, and refused.
            return self._checked_owner(namespace)

    def owner_below(self, prefix: Namespace) -> str | None:
        """Whose all items below are; None when they are of several owners."""
        if is_of_a_user(prefix) or (prefix and prefix[0] not in USERS_ROOTS):
            return self.owner_of(prefix)
        return None

    def namespace_of(self, user_id: str, *rest: str) -> Namespace:
        """A namespace whose items are a user's memories."""
        user = self._border.user_id(user_id)
        return (USERS_ROOTS[0], user.replace("%", "%25").replace(".", "%2E"), *rest)

    def _checked_owner(self, namespace: Namespace) -> str:
        try:
            for label in namespace:
                text_of(label, "a label of the namespace")
            if is_of_a_user(namespace):
                return self._user(namespace[1])
        except InvalidInput as error:
            raise UnfitNamespace(str(error)) from None
        return STORE_OWNERS + (namespace[0] if namespace else "")

    def _checked_address(self, labels: Namespace, key: str) -> ItemAddress:
        owner = self.owner_of(labels)
        self._border.address(text_of(key, "key", empty=True) + "".join(labels))
        return ItemAddress(owner, labels, key, store_node_id(owner, labels, key))

    def _user(self, label: str) -> str:
        try:
            decoded = unquote(label, errors="strict")
        except UnicodeDecodeError:
            decoded = label
        try:
            return self._border.user_id(decoded)
        except InvalidInput as error:
            raise InvalidInput(f"the label {label!r} of a namespace names no user: {error}") from None


def is_of_a_user(namespace: Namespace) -> bool:
    """Whether its second label names a user."""
    return len(namespace) >= _LABELS_OF_A_USER and namespace[0] in USERS_ROOTS


def may_own(owner: str, prefix: Namespace) -> bool:
    """Whether an owner can have items below a prefix that several owners share."""
    return not prefix or not owner.startswith(STORE_OWNERS) or owner == STORE_OWNERS + prefix[0]
