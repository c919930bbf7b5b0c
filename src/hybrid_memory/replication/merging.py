"""What becomes of an entity that is reported again: the same as the merge functions in Postgres make of it.

Every key has a clock of its own and the later one wins, so that reports may come in any order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hybrid_memory.models import MemoryNode
from hybrid_memory.stamped import Stamp, StampedNode

Json = Mapping[str, Any]
Clocks = Mapping[str, str]


def clock_of(stamp: Stamp) -> str:
    """A stamp as text of fixed width, which compares as the stamp does."""
    return f"{stamp[0].astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} {stamp[1]}"


def is_stub(metadata: Json) -> bool:
    """Whether it only holds the place of an entity that is spoken of and not there yet."""
    return metadata.get("stub") is True


def clocks_of(content: Json, metadata: Json, clock: str) -> dict[str, str]:
    """The clock of one report for all that it reports."""
    return {
        **{f"content.{key}": clock for key in content},
        **{f"data.{key}": clock for key in content.get("entity_data") or {}},
        **{f"metadata.{key}": clock for key in metadata},
        "row": clock,
    }


def reported_content(content: Json, confidence: float) -> dict[str, Any]:
    """The content of an entity that was reported once."""
    return {"update_count": 1, "base_confidence": _json_number(confidence), **content}


def merged_entity(known: StampedNode, report: StampedNode) -> StampedNode:
    """The entity that is known after a report of it."""
    old, new = known.node, report.node
    later_row = _later(report.clocks.get("row"), known.clocks.get("row"))
    later_name = _later(_named_at(report.clocks), _named_at(known.clocks))
    metadata = _merged(old.metadata, known.clocks, new.metadata, report.clocks, "metadata.")
    latest = report if known.stamp < report.stamp else known
    node = replace(
        old,
        content=_merged_content(old.content, known.clocks, new.content, report.clocks),
        metadata={key: value for key, value in metadata.items() if key != "stub"},
        tags=tuple(_merged_set(old.tags, new.tags)),
        summary=new.summary if later_name else old.summary,
        importance=new.importance if later_row else old.importance,
        expires_at=new.expires_at if later_row else old.expires_at,
        confidence=_raised_confidence(old.content, new.content),
        version=new.version,
        created_at=new.created_at if is_stub(old.metadata) else old.created_at,
        updated_at=max(filter(None, (old.updated_at, new.updated_at)), default=None),
        written_at=latest.node.written_at,
        written_by=latest.node.written_by,
    )
    clocks = {
        key: report.clocks[key] if _later(report.clocks.get(key), known.clocks.get(key)) else known.clocks[key]
        for key in known.clocks.keys() | report.clocks.keys()
    }
    return StampedNode(node, None, clocks)


def counted(node: MemoryNode, reports: int, reads: int, last_read: datetime) -> MemoryNode:
    """A memory that was read so many more times or, as an entity, reported with nothing new."""
    if reports and node.context_type == "domain_entity":
        content = {**node.content, "update_count": _updates(node.content) + reports}
        confidence = _raised_confidence(node.content, {"update_count": reports})
        node = replace(node, content=content, confidence=confidence)
    latest = last_read if node.last_accessed_at is None else max(last_read, node.last_accessed_at)
    return replace(node, access_count=node.access_count + reads, last_accessed_at=latest)


def _merged_content(old: Json, old_clocks: Clocks, new: Json, new_clocks: Clocks) -> dict[str, Any]:
    """`entity_data` key by key, `other_ids` as a set, `update_count` as a sum, `base_confidence` as the greatest.

    It is called by the later name; every other name it ever had is an alias.
    """
    content = _merged(old, old_clocks, new, new_clocks, "content.")
    names = _merged_set(_names_of(old), _names_of(new))
    return content | {
        "entity_data": _merged(
            old.get("entity_data") or {}, old_clocks, new.get("entity_data") or {}, new_clocks, "data."
        ),
        "aliases": [name for name in names if name != content.get("entity_name")],
        "other_ids": _merged_set(old.get("other_ids") or (), new.get("other_ids") or ()),
        "update_count": _updates(old) + _updates(new),
        "base_confidence": _best_confidence(old, new),
    }


def _merged(old: Json, old_clocks: Clocks, new: Json, new_clocks: Clocks, prefix: str) -> dict[str, Any]:
    merged = {**old, **new}
    for key in old.keys() & new.keys():
        old_clock, new_clock = old_clocks.get(prefix + key), new_clocks.get(prefix + key)
        if _later(old_clock, new_clock):
            merged[key] = old[key]
        elif not _later(new_clock, old_clock):
            # Equal clocks are decided by the values, so that the result does not depend on the order of arrival.
            merged[key] = max(old[key], new[key], key=_rank_alone)
    return merged


def _later(one: str | None, other: str | None) -> bool:
    """A missing clock is older than any."""
    return (one or "") > (other or "")


def _merged_set(one: Iterable[str], other: Iterable[str]) -> list[str]:
    return sorted({*one, *other})


def _names_of(content: Json) -> list[str]:
    return [name for name in (*(content.get("aliases") or ()), content.get("entity_name")) if name is not None]


def _named_at(clocks: Clocks) -> str:
    """When an entity got its name, which its summary repeats; a report without a name is older than any with one."""
    return clocks.get("content.entity_name", "0") + clocks.get("row", "")


def _updates(content: Json) -> int:
    return int(content.get("update_count") or 0)


def _best_confidence(old: Json, new: Json) -> float | None:
    known = [one["base_confidence"] for one in (old, new) if one.get("base_confidence") is not None]
    return _json_number(max(known)) if known else None


def _raised_confidence(old: Json, new: Json) -> float:
    """Every report of an entity raises its confidence a little above the best single one."""
    best = _best_confidence(old, new)
    # A twentieth, exactly: 0.05 times a number would be off by a bit from what Postgres computes.
    return min(1.0, (1.0 if best is None else best) + max(0, _updates(old) + _updates(new) - 1) / 20)


def _json_number(value: float) -> float:
    """Postgres writes a whole number without a fraction."""
    return int(value) if float(value).is_integer() else value


def _rank_alone(value: Any) -> tuple[Any, ...]:
    """The same for a value that is not inside another: there Postgres puts an empty array before everything."""
    return (-1,) if value == [] else _rank(value)


def _rank(value: Any) -> tuple[Any, ...]:
    """The order that Postgres has for JSON values."""
    if value is None:
        return (0,)
    if isinstance(value, str):
        return (1, value)
    if isinstance(value, bool):
        return (3, value)
    if isinstance(value, (int, float)):
        return (2, value)
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return (5, len(keys), [(_rank(key), _rank(value[key])) for key in keys])
    return (4, len(value), [_rank(item) for item in value])
