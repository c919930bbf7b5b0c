"""The write path: numbered operations of several users, or of several runs, applied exactly once in one round trip."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pgvector import HalfVector, Vector

from hybrid_memory.errors import StorageRejected
from hybrid_memory.postgres.access import Access
from hybrid_memory.postgres.echo import Written, written_of

if TYPE_CHECKING:
    import asyncpg

Kind = Literal["nodes", "entities", "edges", "counts", "deletes"]
# The column of an operation that is refused unless the row has this version, and the state it is refused with.
IF_VERSION = "if_version"
ANOTHER_VERSION = "23V01"
# Vectors of more dimensions are kept at half precision.
LARGEST_VECTOR = 2000


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector of a node that the same operation writes; the hash says of which content."""

    model: str
    values: Sequence[float] | npt.NDArray[np.float32]
    content_hash: str | None = None
    field: str = "content"


@dataclass(frozen=True, slots=True)
class Operation:
    """One numbered write. `row` holds the columns by name, JSON values only, with `written_at` and `written_by`.

    Of `counts`, `reports` and `reads` are added to what is counted of a memory; one that is gone is passed over.
    Numbers rise per user and instance and are never used again: what is at or below the last one applied is a repeat.
    """

    n: int
    kind: Kind
    row: Mapping[str, Any]
    embeddings: tuple[Embedding, ...] = ()


@dataclass(frozen=True, slots=True)
class Portion:
    """Operations that waited: of one run, for one incarnation of their user, as far as that is known."""

    instance_id: str
    incarnation: str | None
    operations: Sequence[Operation]


@dataclass(frozen=True, slots=True)
class Ready:
    """Vectors of all memories in a user's batch that are to get any, by the memory; made since that moment.

    `mark` is the name under which it is noted how far a user's memories have vectors of that kind.
    """

    mark: str
    vectors: Mapping[str, tuple[Embedding, ...]]
    since: float


class InTime(Protocol):
    """What makes vectors while a batch is about to leave."""

    async def ready(self, batches: Mapping[str, Sequence[Operation]]) -> Mapping[str, Ready]:
        """The vectors of those users' batches that have all of theirs by now; nobody waits for the others."""

    def kept(self, user_id: str, ready: Ready) -> None:
        """They are in Postgres, with the batch."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a user's operations: consumed up to `mark`, visible from `version` on.

    `same` names, for each memory that was to be stored only once and was there already, the one that is there.
    The incarnation is None when the user was erased in the meantime, and nothing was applied.
    `written` is all that is different between `version` and the one before, if it was asked for and anything is.
    `vectors` are those that came with the operations, by the memory they were sent for; None: nobody knows. With
    `complete` those are all there will be: nothing that was written waits for any.
    `place` is where they are durable.
    """

    user_id: str
    incarnation: str | None
    version: int
    mark: int
    numbers: tuple[int, ...]
    same: Mapping[str, str] = field(default_factory=dict)
    written: Written | None = None
    vectors: tuple[tuple[str, Embedding], ...] | None = None
    complete: bool = False
    place: Literal["postgres", "local"] = "postgres"


@dataclass(slots=True)
class _Vectors:
    """All vectors of a call, by their place in the two arrays."""

    whole: list[Vector] = field(default_factory=list)
    half: list[HalfVector] = field(default_factory=list)

    def place(self, values: Sequence[float] | npt.NDArray[np.float32]) -> int:
        """Append to the array for this size; places count from one, as in Postgres."""
        numbers = values if isinstance(values, np.ndarray) else list(values)
        if len(numbers) <= LARGEST_VECTOR:
            self.whole.append(Vector(numbers))
            return len(self.whole)
        self.half.append(HalfVector(numbers))
        return len(self.half)


class _Mark(NamedTuple):
    """How far a user's operations had been applied, in which life of the user, and when."""

    incarnation: UUID
    number: int
    at: float


class Batches:
    """Applies batches for one instance, which is one run of one process.

    Args:
        database: where.
        instance_id: for whom.
        changed: is told of each user who has a new version, and which.
        lost: is told when the database has forgotten what this instance wrote.
        remembered_seconds: for how long a user's watermark is kept for sure.
        in_time: what makes vectors that travel with a batch; without it only those do that operations have.
    """

    def __init__(  # noqa: PLR0913 - who hears of what happens
        self,
        database: Access,
        instance_id: str,
        *,
        changed: Callable[[str, int], None] = lambda _user, _version: None,
        lost: Callable[[str], None] = lambda _reason: None,
        remembered_seconds: float = math.inf,
        in_time: InTime | None = None,
    ) -> None:
        self._database = database
        self._instance = UUID(instance_id)
        self._changed = changed
        self._lost = lost
        self._remembered_seconds = remembered_seconds
        self._in_time = in_time
        self._marks: dict[str, _Mark] = {}

    async def apply(
        self,
        batches: Mapping[str, Sequence[Operation]],
        *,
        echo: Collection[str] = (),
        timeout: float | None = None,
    ) -> dict[str, Applied]:
        """Apply each user's operations, all or none of them, and say how far each user is.

        Within a user's batch a key appears once per kind, and a node that is deleted is not put again. For the users
        in `echo` it also says what was written, and for those whose vectors follow: they are made of it.

        Raises:
            StorageUnavailable: sending the same batches again is safe, whatever became of them.
            StorageRejected: an operation can never be applied; nothing of the call was.
        """
        ready: Mapping[str, Ready] = {}
        if self._in_time is not None:
            ready = await self._in_time.ready(batches)
            echo = {*echo, *(batches.keys() - ready.keys())}
        batches = {
            user_id: list(_with(ready[user_id], operations)) if user_id in ready else operations
            for user_id, operations in batches.items()
        }
        vectors = _Vectors()
        payloads = [
            json.dumps(_payload(user_id, ops, vectors, echo=user_id in echo, ready=ready.get(user_id)))
            for user_id, ops in batches.items()
        ]
        # Taking one user's batch out of an array of one would cost a tenth of the call.
        name, what = (
            ("batches.apply", {"user_id": next(iter(batches)), "ops": payloads[0]})
            if len(batches) == 1
            else ("batches.apply_to_several", {"users": list(batches), "ops": payloads})
        )
        with _naming_what_is_at_fault():
            rows = await self._database.call(
                name, timeout=timeout, **what, instance=self._instance, vectors=vectors.whole, halves=vectors.half
            )
        for row in rows:
            self._note(row)
        if self._in_time is not None:
            for user_id, one in ready.items():
                self._in_time.kept(user_id, one)
        return {
            row["user_id"]: _applied(row, batches[row["user_id"]], complete=row["user_id"] in ready) for row in rows
        }

    def _note(self, row: "asyncpg.Record") -> None:
        user_id, now = row["user_id"], time.monotonic()
        known = self._marks.get(user_id)
        self._marks[user_id] = _Mark(row["incarnation"], row["mark"], now)
        if (
            known is not None
            and known.incarnation == row["incarnation"]
            and row["before"] < known.number
            and now - known.at < self._remembered_seconds
        ):
            self._lost("a write that was committed is missing")
        if row["mark"] > row["before"]:
            self._changed(user_id, row["version"])


class QueuedBatches:
    """Applies what waited, of whatever runs.

    Args:
        database: where.
        changed: is told of each user who has a new version, and which.
    """

    def __init__(self, database: Access, *, changed: Callable[[str, int], None] = lambda _user, _version: None) -> None:
        self._database = database
        self._changed = changed

    async def apply(self, user_id: str, portions: Sequence[Portion], *, echo: bool = False) -> list[Applied]:
        """Apply portions of one user one after the other, all or none of them, and say how far each run is.

        Each portion is one that `Batches.apply` would take, and makes a version of its own. Operations are dropped
        that what happened while they waited has made void.

        Raises:
            StorageUnavailable: sending the same portions again is safe, whatever became of them.
            StorageRejected: an operation can never be applied; nothing of the call was.
        """
        vectors = _Vectors()
        payloads = [
            _payload(user_id, one.operations, vectors, echo=echo) | {"incarnation": one.incarnation, "replayed": True}
            for one in portions
        ]
        with _naming_what_is_at_fault():
            rows = await self._database.call(
                "batches.apply_in_turn",
                user_id=user_id,
                instances=[UUID(one.instance_id) for one in portions],
                ops=list(map(json.dumps, payloads)),
                vectors=vectors.whole,
                halves=vectors.half,
            )
        # Repeats are told, too: who sent them first did not hear that they took effect, and told nobody.
        self._changed(user_id, rows[-1]["version"])
        return [_applied(row, one.operations) for row, one in zip(rows, portions, strict=True)]


@contextmanager
def _naming_what_is_at_fault() -> Iterator[None]:
    try:
        yield
    except StorageRejected as error:
        error.operation = _operation_at_fault(error)
        raise


def _with(ready: Ready, operations: Iterable[Operation]) -> Iterator[Operation]:
    for one in operations:
        vectors = ready.vectors.get(one.row["node_id"]) if one.kind == "nodes" else None
        yield replace(one, embeddings=one.embeddings + vectors) if vectors else one


def _applied(row: "asyncpg.Record", operations: Iterable[Operation], *, complete: bool = False) -> Applied:
    user_id, echo = row["user_id"], row["echo"]
    fresh = [operation for operation in operations if operation.n > row["before"]]
    return Applied(
        user_id,
        None if row["incarnation"] is None else str(row["incarnation"]),
        row["version"],
        row["mark"],
        tuple(operation.n for operation in fresh),
        json.loads(row["same"]),
        None if echo is None else written_of(user_id, row["version"], json.loads(echo), _rows_of_memories(fresh)),
        tuple((operation.row["node_id"], one) for operation in fresh for one in operation.embeddings),
        complete,
    )


def _rows_of_memories(operations: Iterable[Operation]) -> list[Mapping[str, Any]]:
    return [operation.row for operation in operations if operation.kind == "nodes"]


def _operation_at_fault(error: StorageRejected) -> tuple[str, int] | None:
    """What the function says in DETAIL; the server's own details are no JSON of that form."""
    try:
        detail = json.loads(getattr(error.__cause__, "detail", None) or "")
        return detail["user_id"], detail["n"]
    except (ValueError, TypeError, KeyError):
        return None


def _payload(
    user_id: str, operations: Sequence[Operation], vectors: _Vectors, *, echo: bool, ready: Ready | None = None
) -> dict[str, object]:
    lists: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for operation in operations:
        lists[operation.kind].append({"n": operation.n, **operation.row})
        for embedding in operation.embeddings:
            lists["vectors"].append(
                {
                    "n": operation.n,
                    "node_id": operation.row["node_id"],
                    "field": embedding.field,
                    "model": embedding.model,
                    "dimensions": len(embedding.values),
                    "place": vectors.place(embedding.values),
                    "content_hash": embedding.content_hash,
                }
            )
    return lists | {
        "guarded": any(IF_VERSION in operation.row for operation in operations),
        "user_id": user_id,
        "last": operations[-1].n,
        "oldest": min(operation.row["written_at"] for operation in operations),
        "echo": echo,
        "embedded": None if ready is None else ready.mark,
    }
