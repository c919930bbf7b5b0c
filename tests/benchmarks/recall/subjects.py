"""Conversations as a user of the library has them: every turn added as a message, then read from the process."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from hybrid_memory import HybridMemoryManager
from hybrid_memory.graph.view import GraphView
from hybrid_memory.memory.texts import CONTENT, texts_of
from hybrid_memory.postgres.target import Target
from hybrid_memory.recall.engine import Recall
from hybrid_memory.recall.entity_index import EntityIndex
from hybrid_memory.recall.fusion import Weights, Whatever
from hybrid_memory.recall.lexical import Bm25
from hybrid_memory.recall.question import Question, Similarities
from tests.benchmarks.recall.conversations import Asked, Conversation
from tests.benchmarks.recall.measures import PAGES, Answer
from tests.benchmarks.recall.minilm import Vectors
from tests.support.managers import settings_for
from tests.support.servers import running_server


@dataclass(frozen=True, slots=True)
class Subject:
    """One conversation in the memory of one user; with an embedder the neighbours of each of its questions."""

    conversation: Conversation
    view: GraphView
    near: dict[str, Similarities]
    recall: Recall = field(default_factory=lambda: Recall(EntityIndex()))

    def answers(self, weights: Weights, *, vectors: bool, graph: bool = True) -> list[Answer]:
        """What is found for each of its questions."""
        bm25 = Bm25(weights.saturation, weights.length_share, weights.lending)
        self.recall._kept = replace(self.recall._kept, bm25=bm25, whatever=Whatever(weights))
        now = datetime.now(UTC)

        def found(asked: Asked) -> list[str]:
            near = self.near[asked.text] if vectors else None
            question = Question(text=asked.text, similarities=near, limit=max(PAGES), graph=graph)
            return [str(hit.node.content["message_id"]) for hit in self.recall.ranked(self.view, question, now)]

        return self.each(found)

    def each(self, found: Callable[[Asked], list[str]]) -> list[Answer]:
        """Answers by any other way of finding."""
        return [Answer(one.category, found(one), one.evidence) for one in self.conversation.questions]


@contextlib.asynccontextmanager
async def remembered(
    conversations: list[Conversation], vectors: Vectors | None
) -> AsyncIterator[tuple[list[Subject], Target]]:
    """All of them, and the database they are in."""
    with running_server(18) as server:
        async with server.migrated_database() as targets:
            with tempfile.TemporaryDirectory(prefix="hm-") as directory:
                async with HybridMemoryManager(settings_for(targets, data_dir=directory)) as manager:
                    subjects = [await _subject(manager, one, vectors) for one in conversations]
            yield subjects, targets.administration


async def _subject(manager: HybridMemoryManager, conversation: Conversation, vectors: Vectors | None) -> Subject:
    user = conversation.name
    sessions: dict[str, list[int]] = {}
    for place, turn in enumerate(conversation.turns):
        sessions.setdefault(turn.thread_id, []).append(place)

    async def told(places: list[int]) -> None:
        for place in places:
            turn = conversation.turns[place]
            await manager.add_message(
                user, turn.thread_id, "user", turn.content, name=turn.name, at=turn.at, message_id=turn.message_id
            )

    await asyncio.gather(*(told(places) for places in sessions.values()))
    memory = await manager.ensure_user_memories(user)
    view = memory._graph.view()
    if vectors is None:
        return Subject(conversation, view, {})
    nodes = memory.get_all_nodes()
    ids = tuple(node.node_id for node in nodes)
    turns = vectors.of([texts_of(node)[CONTENT] for node in nodes])
    questions = vectors.of([one.text for one in conversation.questions])
    near = {
        one.text: Similarities(ids, turns @ asked) for one, asked in zip(conversation.questions, questions, strict=True)
    }
    return Subject(conversation, view, near)
