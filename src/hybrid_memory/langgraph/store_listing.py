"""Which namespaces a store lists: conditions on their labels, their depth, and a page of them."""

from collections.abc import Iterable
from itertools import islice

from langgraph.store.base import ListNamespacesOp, MatchCondition

from hybrid_memory.errors import InvalidInput
from hybrid_memory.memory.namespaces import Namespace

_ANY = "*"


def fixed_prefix(op: ListNamespacesOp) -> Namespace:
    """The labels that every namespace which is asked for begins with."""
    longest: Namespace = ()
    for condition in op.match_conditions or ():
        if condition.match_type == "prefix":
            path = tuple(condition.path)
            fixed = path[: path.index(_ANY)] if _ANY in path else path
            longest = max(longest, fixed, key=len)
    return longest


def listed(namespaces: Iterable[Namespace], op: ListNamespacesOp) -> list[Namespace]:
    """The page that is asked for, in order."""
    conditions = op.match_conditions or ()
    fitting = {one for one in namespaces if all(_fits(condition, one) for condition in conditions)}
    if op.max_depth is not None:
        fitting = {one[: op.max_depth] for one in fitting}
    return list(islice(sorted(fitting), op.offset, op.offset + op.limit))


def _fits(condition: MatchCondition, namespace: Namespace) -> bool:
    path = tuple(condition.path)
    if condition.match_type not in ("prefix", "suffix"):
        raise InvalidInput(f"{condition.match_type!r} is no way to match a namespace; there are prefix and suffix")
    if len(path) > len(namespace):
        return False
    labels = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in (_ANY, label) for wanted, label in zip(path, labels, strict=True))
