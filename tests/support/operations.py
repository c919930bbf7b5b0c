"""Operations as an instance numbers and stamps them, for tests that apply batches without a writer."""

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from hybrid_memory.postgres.batches import Embedding, Operation
from tests.support.rows import fact_row

START = datetime(2026, 5, 1, tzinfo=UTC)


class Instance:
    """Numbers its operations and stamps them with a clock that a test sets by `at`, in seconds."""

    def __init__(self) -> None:
        self.instance_id = str(uuid4())
        self._numbers = itertools.count(1)

    def node(
        self,
        node_id: str,
        text: str = "a fact",
        *,
        at: float = 0,
        embeddings: tuple[Embedding, ...] = (),
        **fields: Any,
    ) -> Operation:
        row = fact_row(node_id, text) | self._stamp(at) | fields
        return Operation(next(self._numbers), "nodes", row, embeddings)

    def entity(self, node_id: str, data: Mapping[str, Any], *, at: float = 0, **fields: Any) -> Operation:
        content = {"entity_id": "1", "entity_system": "s", "entity_type": "account", "entity_name": "GenePoint"}
        row = {
            "node_id": node_id,
            "content": content | {"entity_data": dict(data)} | fields.pop("content", {}),
            "summary": "GenePoint",
            "tags": [],
            "metadata": {},
            "importance": 0.5,
            "confidence": 0.7,
        }
        return Operation(next(self._numbers), "entities", row | self._stamp(at) | fields)

    def edge(self, from_id: str, to_id: str, *, at: float = 0, **fields: Any) -> Operation:
        ends = {"from_node_id": from_id, "to_node_id": to_id, "relationship_type": "led_to"}
        row = ends | {"strength": 1, "metadata": {}} | self._stamp(at)
        return Operation(next(self._numbers), "edges", row | fields)

    def delete(self, node_id: str, *, at: float = 0) -> Operation:
        return Operation(next(self._numbers), "deletes", {"node_id": node_id} | self._stamp(at))

    def _stamp(self, at: float) -> dict[str, str]:
        return {"written_at": (START + timedelta(seconds=at)).isoformat(), "written_by": self.instance_id}
