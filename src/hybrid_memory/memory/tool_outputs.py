"""What tools return: remembered as it is, and as the entities it tells of.

Nothing a tool returns is refused, and nothing that goes wrong while entities are looked for loses the memory.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hybrid_memory.errors import InvalidInput, StorageUnavailable
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.memory.border import Border, Draft
from hybrid_memory.memory.content import JSON
from hybrid_memory.memory.entities import Entities, Gathered
from hybrid_memory.memory.extraction.bounded import MOST_DEPTH, Bounded, cut_to
from hybrid_memory.memory.extraction.records import FoundEntity, Recogniser
from hybrid_memory.memory.extraction.search import Findings, Search
from hybrid_memory.memory.memories import Memories, writes_of
from hybrid_memory.memory.model_extraction import ModelExtractor
from hybrid_memory.models import EntityRef, RememberedOutput
from hybrid_memory.observability import Events

TOOL_OUTPUT = "tool_output"
MOST_RELATIONS = 2_000
_MOST_NAMED = 5
# What a recogniser or a model made wrongly: no text, no pair, no reference.
_WRONG_SHAPE = (InvalidInput, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True)
class Finders:
    """Who finds entities besides the recognisers that are built in, which come after these."""

    recognisers: tuple[Recogniser, ...] = ()
    extractor: ModelExtractor | None = None


class ToolOutputs:
    """Remembers results of tools."""

    def __init__(self, border: Border, memories: Memories, entities: Entities, events: Events) -> None:
        self._border = border
        self._memories = memories
        self._entities = entities
        self._events = events

    async def remember(
        self,
        user_id: str,
        tool_name: str,
        arguments: object,
        result: object,
        *,
        thread_id: str | None,
        finders: Finders,
    ) -> RememberedOutput:
        """Store a result with the entities found in it; when this returns, Postgres has committed them."""
        owner, tool = self._border.user_id(user_id), self._border.name(tool_name, "tool_name")
        with self._events.timed("tool_output_remembered", user_id=owner) as report:
            # A large result takes long enough to be felt by others on the loop.
            asked, answer, findings = await asyncio.to_thread(
                _searched, finders.recognisers, tool, arguments, result, self._border.most_depth - 2
            )
            for failure in findings.failures.values():
                self._failed(owner, failure)
            draft = self._draft(owner, tool, asked, answer, findings, thread_id)
            stored = await self._stored(draft, findings)
            if finders.extractor is not None:
                more = await self._of_model(finders.extractor, owner, stored.node_id, tool, asked, answer)
                ids = tuple(dict.fromkeys((*stored.entity_ids, *more)))
                stored = RememberedOutput(node_id=stored.node_id, entity_ids=ids, left_out=stored.left_out)
            report |= {"node_id": stored.node_id, "entities": len(stored.entity_ids), "left_out": stored.left_out}
        return stored

    def _draft(
        self, owner: str, tool: str, asked: JSON, answer: JSON, findings: Findings, thread_id: str | None
    ) -> Draft:
        most = self._border.most_content_bytes
        asked, asked_was_cut = cut_to(asked, most // 4)
        answer, answer_was_cut = cut_to(answer, most // 2)
        about = [found.entity_name or found.entity_id for found in findings.produced[:_MOST_NAMED]]
        whole = not (asked_was_cut or answer_was_cut or findings.left_out)
        return self._border.draft(
            owner,
            {"tool_name": tool, "arguments": asked, "result": answer},
            TOOL_OUTPUT,
            now=utc_now(),
            summary=f"{tool}: {', '.join(filter(None, about))}" if about else None,
            tags=[tool],
            metadata=None if whole else {"left_out": findings.left_out, "cut": asked_was_cut or answer_was_cut},
            confidence=0.9,
            thread_id=thread_id,
        )

    async def _stored(self, draft: Draft, findings: Findings) -> RememberedOutput:
        """The memory and its entities in one batch; the memory alone, should the entities be refused."""
        try:
            gathered = await self._entities.gathered(draft.user_id)
            refused = _take_in(gathered, draft.node_id, findings)
            ids = gathered.ids
            answer = await self._memories.write(draft.user_id, [*writes_of(draft), *gathered.writes()])
        except StorageUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the memory is worth more than what is found in it
            self._failed(draft.user_id, error)
            ids, refused = (), len(findings.produced) + len(findings.mentioned)
            answer = await self._memories.write(draft.user_id, writes_of(draft))
        node_id = self._memories.acknowledged(answer, draft.node_id)
        return RememberedOutput(node_id=node_id, entity_ids=ids, left_out=findings.left_out + refused)

    async def _of_model(
        self, extractor: ModelExtractor, owner: str, node_id: str, tool: str, asked: JSON, answer: JSON
    ) -> tuple[str, ...]:
        """What a language model finds besides, in a batch of its own: the memory is stored already."""
        try:
            found = await extractor.entities(tool, asked, answer)
            gathered = await self._entities.gathered(owner)
            _take_in(gathered, node_id, Findings(mentioned=[gathered.supposed(one) for one in found]))
            if gathered.ids:
                await self._memories.write(owner, gathered.writes())
        except Exception as error:  # noqa: BLE001 - a model and its client raise whatever they like
            self._failed(owner, error)
            return ()
        return gathered.ids

    def _failed(self, owner: str, error: Exception) -> None:
        # The text of the error may hold what the tool returned.
        self._events.warning("entity_extraction_failed", user_id=owner, error=type(error).__name__)


def _searched(
    recognisers: Sequence[Recogniser], tool: str, arguments: object, result: object, most_depth: int
) -> tuple[JSON, JSON, Findings]:
    """Arguments and result as JSON, and what is found in the result."""
    bounded = Bounded(most_depth=min(MOST_DEPTH, most_depth))
    asked, answer = bounded.plain(arguments), bounded.plain(result)
    findings = Search(recognisers).findings(answer, tool, asked)
    findings.left_out += bounded.left_out
    return asked, answer, findings


def _take_in(gathered: Gathered, node_id: str, findings: Findings) -> int:
    """Gather what was found, and that this memory produced or mentions it; how much of it could not be."""
    refused = 0
    produced, taken = set(), []
    for entities, are_produced in ((findings.produced, True), (findings.mentioned, False)):
        for found in entities:
            try:
                entity = gathered.add(found)
            except _WRONG_SHAPE:
                refused += 1
                continue
            taken.append((entity, found))
            if are_produced:
                produced.add(entity)
    for start, kind, end in _relations(taken, findings):
        if gathered.edge_count >= MOST_RELATIONS:
            refused += 1
            continue
        try:
            ends = (gathered.refer(one) if isinstance(one, EntityRef) else one for one in (start, end))
            gathered.join_both_ways(next(ends), kind, next(ends))
        except _WRONG_SHAPE:
            refused += 1
    for entity in gathered.ids:
        gathered.join(node_id, "produces" if entity in produced else "mentions", entity)
    return refused


def _relations(
    taken: Sequence[tuple[str, FoundEntity]], findings: Findings
) -> Iterator[tuple[str | EntityRef, str, EntityRef]]:
    for entity, found in taken:
        yield from ((entity, kind, ref) for kind, ref in found.relations)
    yield from ((link.start, link.relationship_type, link.end) for link in findings.links)
