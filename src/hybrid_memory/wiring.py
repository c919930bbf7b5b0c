"""What a manager is made of: opened in order, wired to each other, closed in the opposite order."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from hybrid_memory.background import Background
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.conversations import Conversations
from hybrid_memory.memory.entities import Entities
from hybrid_memory.memory.housekeeping import Housekeeping
from hybrid_memory.memory.identity import new_id
from hybrid_memory.memory.keeping import opened_keeper
from hybrid_memory.memory.loading import Loader
from hybrid_memory.memory.memories import Memories
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.statistics import Figures
from hybrid_memory.memory.tool_outputs import ToolOutputs
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Batches
from hybrid_memory.postgres.housekeeping import Upkeep
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.statistics import Statistics
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.writer import Writer
from hybrid_memory.settings import Settings, misspelled


@dataclass(frozen=True)
class Parts:
    """Everything that exists between start and close, on one event loop."""

    link: Link
    writer: Writer
    sessions: Sessions
    memories: Memories
    entities: Entities
    tool_outputs: ToolOutputs
    conversations: Conversations
    figures: Figures
    housekeeping: Housekeeping
    background: Background
    instance_id: str
    closing: AsyncExitStack
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    @property
    def on_this_loop(self) -> bool:
        """Whether the running loop is the one the connections belong to."""
        return self.loop is asyncio.get_running_loop()

    @property
    def answering(self) -> bool:
        """Whether Postgres answers, as far as is known."""
        return self.link.answering

    async def close(self, timeout: float, events: Events) -> None:
        """End the background work, write what was taken, within `timeout`, then close and leave the embedded server."""
        await self.background.close()
        try:
            async with asyncio.timeout(timeout):
                await self.writer.close()
                if self.answering:
                    await self.housekeeping.farewell(self.instance_id, self.writer.users)
        except TimeoutError:
            events.warning("closed_before_all_was_written", operations=self.writer.waiting)
        finally:
            await self.closing.aclose()


async def opened(settings: Settings, border: Border, events: Events) -> Parts:
    """Reach Postgres, bring the schema up to date and wire the parts; nothing stays open when that fails."""
    if settings.memory_type == "sqlite":
        raise ConfigurationError("MEMORY_TYPE=sqlite is not available yet: configure a server, or leave it out")
    for text in misspelled():
        events.warning("unknown_setting", text=text)
    async with AsyncExitStack() as stack:
        link = Link(settings, events)
        await link.start()
        stack.push_async_callback(link.close)
        instance, clock = new_id(), HybridClock()
        keeper = await stack.enter_async_context(opened_keeper(settings, link, clock, events))
        upkeep = Upkeep(link)
        accesses = Accesses(upkeep)
        sessions = Sessions(Loader(link, clock), keeper, accesses, settings, events)
        writer = Writer(Batches(link, instance), instance, clock, shown=sessions.holds)
        stack.push_async_callback(sessions.close)
        memories = Memories(border, clock, link, writer, sessions, accesses, events)
        entities = Entities(border, memories, sessions, events)
        conversations = Conversations(border, memories, sessions)
        figures = Figures(Statistics(link), accesses, events)
        housekeeping = Housekeeping(border, upkeep, figures, sessions, accesses, settings, events)
        return Parts(
            link=link,
            writer=writer,
            sessions=sessions,
            memories=memories,
            entities=entities,
            tool_outputs=ToolOutputs(border, memories, entities, events),
            conversations=conversations,
            figures=figures,
            housekeeping=housekeeping,
            background=Background(events),
            instance_id=instance,
            closing=stack.pop_all(),
        )
    raise AssertionError("an exit stack of ours swallows nothing")
