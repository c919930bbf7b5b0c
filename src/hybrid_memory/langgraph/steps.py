"""Work of several reads and writes, written once for threads and for event loops.

It is a generator: it yields a step, and is sent what the step gave.

    def counted_and_removed() -> Steps[int]:
        found = yield Read(lambda sql: sql.rows(...))
        yield Write(lambda sql: sql.run(...))
        return len(found)
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.database import Database

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Read:
    """A step that reads."""

    query: Callable[[Statements], Any]


@dataclass(frozen=True, slots=True)
class Write:
    """A step that writes, committed before the next one begins."""

    job: Callable[[Statements], Any]


Steps: TypeAlias = Generator[Read | Write, Any, Result]


def done_blocking(database: Database, steps: Steps[Result]) -> Result:
    """Do the work in this thread."""
    given: Any = None
    while True:
        try:
            step = steps.send(given)
        except StopIteration as end:
            result: Result = end.value
            return result
        given = database.read_blocking(step.query) if isinstance(step, Read) else database.write_blocking(step.job)


async def done(database: Database, steps: Steps[Result]) -> Result:
    """Do the work from an event loop."""
    given: Any = None
    while True:
        try:
            step = steps.send(given)
        except StopIteration as end:
            result: Result = end.value
            return result
        given = await (database.read(step.query) if isinstance(step, Read) else database.write(step.job))
