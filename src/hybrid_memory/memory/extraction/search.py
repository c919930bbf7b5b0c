"""Going through what a tool returned, record by record, and asking recognisers which entities they describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybrid_memory.memory.content import JSON
from hybrid_memory.memory.extraction import generic, jira, salesforce, servicenow
from hybrid_memory.memory.extraction.bounded import Bounded, parsed
from hybrid_memory.memory.extraction.fields import WRAPPERS, nested_relation
from hybrid_memory.memory.extraction.records import FoundEntity, Recogniser, RecordContext
from hybrid_memory.models import EntityRef

BUILT_IN: tuple[Recogniser, ...] = (
    salesforce.recognise,
    servicenow.recognise,
    jira.recognise,
    generic.recognise,
)
MOST_ENTITIES = 500
_MOST_TEXTS_IN_TEXTS = 3


@dataclass(frozen=True, slots=True)
class Link:
    """A relation that follows from where two records stand."""

    start: EntityRef
    relationship_type: str
    end: EntityRef


@dataclass(slots=True)
class Findings:
    """What was found in one result: entities on their own, entities within others, and how those belong together."""

    produced: list[FoundEntity] = field(default_factory=list)
    mentioned: list[FoundEntity] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    left_out: int = 0
    failures: dict[int, Exception] = field(default_factory=dict)
    """The first error of each recogniser that raised, by its place."""


class Search:
    """The search of one result."""

    def __init__(self, recognisers: Sequence[Recogniser]) -> None:
        self._recognisers = (*recognisers, *BUILT_IN)
        self._bounded = Bounded()
        self._findings = Findings()

    def findings(self, result: JSON, tool_name: str, arguments: JSON) -> Findings:
        """All entities of a result that is plain JSON."""
        self._visit(result, RecordContext(tool_name, arguments), _MOST_TEXTS_IN_TEXTS)
        self._findings.left_out += self._bounded.left_out
        return self._findings

    def _visit(self, value: JSON, context: RecordContext, texts: int) -> None:
        if isinstance(value, dict):
            self._visit_record(value, context, texts)
        elif isinstance(value, list):
            for one in value:
                self._visit(one, context.listed(), texts)
        elif isinstance(value, str) and texts:
            inner = parsed(value)
            if inner is not None:
                self._visit(self._bounded.plain(inner), context, texts - 1)

    def _visit_record(self, record: dict[str, Any], context: RecordContext, texts: int) -> None:
        entity = self._recognised(record, context)
        if entity is not None:
            self._note(entity, context)
        for name, value in record.items():
            if isinstance(value, (dict, list, str)):
                self._visit(value, _within(name, entity, context), texts)

    def _recognised(self, record: Mapping[str, Any], context: RecordContext) -> FoundEntity | None:
        for place, recogniser in enumerate(self._recognisers):
            try:
                entity = recogniser(record, context)
                if entity is not None:
                    return _well_formed(entity)
            except Exception as error:  # noqa: BLE001 - the recognisers are the caller's own
                self._findings.failures.setdefault(place, error)
        return None

    def _note(self, entity: FoundEntity, context: RecordContext) -> None:
        findings, parent = self._findings, context.parent
        if len(findings.produced) + len(findings.mentioned) >= MOST_ENTITIES:
            findings.left_out += 1
            return
        (findings.mentioned if context.nested else findings.produced).append(entity)
        if parent is None or _are_related(parent, entity):
            return
        kind, nested_leads = nested_relation(context.field, in_list=context.in_list)
        start, end = (entity, parent) if nested_leads else (parent, entity)
        findings.links.append(Link(start.ref, kind, end.ref))


def _well_formed(entity: FoundEntity) -> FoundEntity:
    """The entity, with its relations and other ids as tuples of what they are to be.

    Raises:
        TypeError: they are something else.
    """
    relations = tuple((kind, ref) for kind, ref in entity.relations)
    texts = (*entity.other_ids, *entity.aliases, *(kind for kind, _ in relations))
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(ref, EntityRef) for _, ref in relations):
        raise TypeError("relations are pairs of a type and an EntityRef; other ids and aliases are strings")
    return replace(entity, relations=relations, other_ids=tuple(entity.other_ids))


def _within(name: str, entity: FoundEntity | None, context: RecordContext) -> RecordContext:
    """The context of a field of a record, which is an entity, the body of one, or something in between."""
    if entity is not None:
        return context.below(None if name in WRAPPERS else name, entity)
    if name in WRAPPERS:
        return context
    return context.below(name, context.parent if context.field is None else None)


def _are_related(parent: FoundEntity, entity: FoundEntity) -> bool:
    """Whether the fields of one of them name the other."""
    return _names(parent, entity) or _names(entity, parent)


def _names(one: FoundEntity, other: FoundEntity) -> bool:
    known = {other.entity_id, *other.other_ids} - {None}
    return any(ref.entity_system == other.entity_system and ref.entity_id in known for _, ref in one.relations)
