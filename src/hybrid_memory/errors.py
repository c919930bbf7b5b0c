"""Everything this library raises on purpose.

    HybridMemoryError
     +- ConfigurationError    the settings, the server or its rights do not fit; the text says what to do
     +- SchemaMismatch        the database's schema is not the one this version works with
     +- InvalidInput          a value from the caller cannot be stored (also a ValueError)
     +- UnknownMemory         there is no such memory for this user (also a KeyError)
     +- StorageUnavailable    the database did not answer in time; trying again can help
     +- StorageRejected       the database refused the data; trying again cannot help
     +- EmbeddingError        a text was not made a vector, or not one that can be compared with the others
     +- OutboxFull            Postgres does not answer and no more writes can be kept for it; this one was not kept
     +- StateDamaged          state.db is damaged; what could be read was saved, or will be at the next start
     +- CheckpointIncomplete  a part of a checkpoint was lost with a damaged state.db
     +- WrongThread           a blocking call would wait for its own thread (also an asyncio.InvalidStateError)

Catch the base class to catch them all. Driver exceptions never reach a caller; the cause is kept in `__cause__`.
"""

import asyncio


class HybridMemoryError(Exception):
    """Base of every error of this library."""


class ConfigurationError(HybridMemoryError):
    """The settings, the server or its rights do not fit; the text says what to do."""


class SchemaMismatch(HybridMemoryError):
    """The schema in the database is not the one this version works with."""


class InvalidInput(HybridMemoryError, ValueError):
    """A value from the caller cannot be stored; the text names the field."""


class UnknownMemory(HybridMemoryError, KeyError):
    """There is no such memory for this user."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class StorageUnavailable(HybridMemoryError):
    """The database did not answer in time.

    `outcome_unknown` is True when the statement may have taken effect although no answer came.
    """

    def __init__(self, message: str, *, outcome_unknown: bool = False, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown
        self.sqlstate = sqlstate


class StorageRejected(HybridMemoryError):
    """The database refused the data; sending it again cannot help.

    `operation` is the user and number of the write that is at fault, where that is known.
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.operation: tuple[str, int] | None = None


class EmbeddingError(HybridMemoryError):
    """The embedder gave no vector, or none that can be compared with the others of its model.

    `texts_at_fault` is True when it refused what it was asked, not when it is away or overloaded.
    """

    def __init__(self, message: str, *, texts_at_fault: bool = False) -> None:
        super().__init__(message)
        self.texts_at_fault = texts_at_fault


class OutboxFull(HybridMemoryError):
    """Postgres does not answer, and as many writes wait for it as may; nothing of this call was kept."""


class StateDamaged(HybridMemoryError):
    """`state.db` is damaged; the text says what was saved and where the damaged file is.

    Raised by the open that found the damage, after it had set the file aside and saved every intact row: opening again
    goes on with those. A process that meets the damage while it works gets it too, and the next start saves the rows.
    """


class CheckpointIncomplete(HybridMemoryError):
    """A part of a checkpoint was lost when state.db was damaged; earlier checkpoints of its thread may be whole."""


class WrongThread(HybridMemoryError, asyncio.InvalidStateError):
    """A blocking call would wait for the very thread that has to answer it."""
