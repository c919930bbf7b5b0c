"""What users' caches are missing since their versions: one statement tells it of all who are asked about together."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid_memory.errors import HybridMemoryError, StorageRejected, StorageUnavailable
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.echo import NOTHING_WRITTEN, Written
from hybrid_memory.postgres.nodes import node_from_json
from hybrid_memory.postgres.relationships import relationship_from_json
from hybrid_memory.postgres.users import UserState

if TYPE_CHECKING:
    import asyncpg

_MOST_CALLS = 2
_MOST_USERS = 64
_NOT_ASKED = "what is new was not asked to the end"


@dataclass(frozen=True, slots=True)
class News:
    """Where a user stands, if he ever wrote, and what is different since."""

    state: UserState | None
    changes: Written


@dataclass(frozen=True, slots=True)
class _Question:
    user_id: str
    version: int
    answer: "asyncio.Future[asyncpg.Record | None]"


class Newsroom:
    """Asks for news. Belongs to one event loop.

    While calls are under way the next questions gather, so the busier it is, the more share a round trip.
    """

    def __init__(self, database: Access) -> None:
        self._database = database
        self._waiting: list[_Question] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._awake = 0

    async def since(self, user_id: str, version: int) -> News | None:
        """What is new of a user since a version, as one statement sees it that begins after this call.

        None when it is too much to be told in one piece, or when somebody was asked about of whom it is.

        Raises:
            StorageUnavailable: Postgres does not answer.
        """
        question = _Question(user_id, version, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._awake < _MOST_CALLS:
            self._awake += 1
            task = asyncio.create_task(self._ask())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        try:
            row = await question.answer
        except StorageRejected:
            return None
        return News(None, NOTHING_WRITTEN) if row is None else _news(user_id, row)

    async def close(self) -> None:
        """Wait for no answer any more."""
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        _fail(self._waiting, StorageUnavailable(_NOT_ASKED))

    async def _ask(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:_MOST_USERS], self._waiting[_MOST_USERS:]
                await self._asked(asked)
        finally:
            # At the same moment as nobody was waiting any more: who comes then has it asked.
            self._awake -= 1

    async def _asked(self, asked: Sequence[_Question]) -> None:
        error: HybridMemoryError = StorageUnavailable(_NOT_ASKED)
        try:
            rows = await self._database.call(
                "users.news", users=[one.user_id for one in asked], versions=[one.version for one in asked]
            )
        except HybridMemoryError as failed:
            error = failed
        else:
            _answer(asked, rows)
        finally:
            _fail(asked, error)


def _answer(asked: Sequence[_Question], rows: "Iterable[asyncpg.Record]") -> None:
    found = {row["place"]: row for row in rows}
    for place, one in enumerate(asked, start=1):
        if not one.answer.done():
            one.answer.set_result(found.get(place))


def _fail(asked: Iterable[_Question], error: HybridMemoryError) -> None:
    """Whoever has no answer will not get one."""
    for one in asked:
        if not one.answer.done():
            one.answer.set_exception(error)


def _news(user_id: str, row: "asyncpg.Record") -> News | None:
    if row["changes"] is None:
        return None
    changes = json.loads(row["changes"])
    nodes = [node_from_json(user_id, one) for one in changes["nodes"]]
    edges = [relationship_from_json(user_id, one) for one in changes["edges"]]
    return News(UserState.of(row), Written(nodes, edges, frozenset(changes["deleted"])))
