"""The part of the checkpointer that is about itself: its file and its serializer."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.base import SerializerProtocol

from hybrid_memory.blocking import elsewhere
from hybrid_memory.langgraph.elements import KnownElements
from hybrid_memory.langgraph.serialisation import AllowedType, Serialisation, strict
from hybrid_memory.langgraph.turns import Turns
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.checkpoints.remembering import Memory
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.state import StateFile


class OnStateFile(BaseCheckpointSaver[str]):
    """A checkpointer's hold on `state.db`, which opens when it is first used.

    LangGraph works with shallow copies of a checkpointer that have another serializer; all else they share.
    """

    def __init__(  # noqa: PLR0913 - each has a default
        self,
        data_dir: Path | str | None = None,
        *,
        settings: Settings | None = None,
        serde: SerializerProtocol | None = None,
        allowed_types: Iterable[AllowedType] = (),
        durability: Literal["full", "normal"] | None = None,
        events: Events | None = None,
        state: StateFile | None = None,
    ) -> None:
        self._settings = settings or Settings()
        super().__init__(serde=strict(serde, (*self._settings.allowed_types, *allowed_types)))
        directory = self._settings.data_dir if data_dir is None else Path(data_dir)
        self._durable = (durability or self._settings.checkpoint_durability) == "full"
        self._events = events or Events()
        self._state = state or StateFile(directory.expanduser(), self._events)
        self._closes = state is None
        self._remembered: tuple[Database | None, Memory] = None, Memory()
        self._elements = KnownElements()
        self._turns = Turns()
        self._serialisation_made = Serialisation(self.serde)

    def close(self) -> None:
        """Commit what is queued and close the file; the next call opens it again.

        The file of a manager, which keeps more in it, is closed with the manager.
        """
        if self._closes:
            self._state.close()

    async def aclose(self) -> None:
        """The same without blocking the event loop."""
        await elsewhere(self.close)

    def __enter__(self) -> Self:
        self._state.database()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._database()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _database(self) -> Database:
        opened = self._state.opened
        return await asyncio.to_thread(self._state.database) if opened is None else opened

    @property
    def _serialisation(self) -> Serialisation:
        if self._serialisation_made.serde is not self.serde:
            self._remembered = None, Memory()
            self._elements = KnownElements()
            self._serialisation_made = Serialisation(self.serde)
        return self._serialisation_made

    def _memory_of(self, database: Database) -> Memory:
        """What is remembered of a file that is open: one that is opened again may be another, or an older one."""
        if self._remembered[0] is not database:
            self._remembered = database, Memory()
        return self._remembered[1]
