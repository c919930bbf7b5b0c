"""The body of a checkpoint, which is stored with each: what is said twice in it is said once.

A checkpoint names the version of a channel once for the channel and once for each node that has seen it. Versions are
long and few, so they are kept in a list, and their places stand for them.
"""

from collections.abc import Mapping
from typing import Any, cast

from langgraph.checkpoint.base import Checkpoint

_VERSIONS = "versions"


def shortened(checkpoint: Checkpoint, values: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a checkpoint, with those of its values that lie inside it and without its id."""
    places: dict[Any, int] = {}
    place = places.setdefault
    body: dict[str, Any] = dict(checkpoint)
    del body["id"]
    body["channel_values"] = values
    body["channel_versions"] = {name: place(one, len(places)) for name, one in checkpoint["channel_versions"].items()}
    body["versions_seen"] = {
        node: seen and {name: place(one, len(places)) for name, one in seen.items()}
        for node, seen in checkpoint["versions_seen"].items()
    }
    body[_VERSIONS] = list(places)
    return body


def lengthened(body: dict[str, Any], checkpoint_id: str) -> Checkpoint:
    """The checkpoint of a body; its values are those inside."""
    versions = body.pop(_VERSIONS)

    def named(places: Mapping[str, int]) -> dict[str, Any]:
        return {name: versions[place] for name, place in places.items()}

    body["id"] = checkpoint_id
    body["channel_versions"] = named(body["channel_versions"])
    body["versions_seen"] = {node: named(seen) for node, seen in body["versions_seen"].items()}
    return cast("Checkpoint", body)
