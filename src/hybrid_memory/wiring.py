"""What a manager is made of: opened in order, wired to each other, closed in the opposite order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from hybrid_memory.background import Background
from hybrid_memory.blocking import elsewhere
from hybrid_memory.embeddings.embedder import Embedder
from hybrid_memory.graph.user_graph import utc_now
from hybrid_memory.memory.accesses import Accesses
from hybrid_memory.memory.at_home import CountingAtHome, ItemsAtHome, SourceAtHome, TidyingAtHome, WriterAtHome
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.conversations import Conversations
from hybrid_memory.memory.delivery import Delivery, oldest_sent
from hybrid_memory.memory.embedding import Embedding
from hybrid_memory.memory.entities import Entities
from hybrid_memory.memory.fetching import Fetching
from hybrid_memory.memory.finding import Finding
from hybrid_memory.memory.freshness import Freshness
from hybrid_memory.memory.homes import Homes, Persists
from hybrid_memory.memory.housekeeping import Housekeeping
from hybrid_memory.memory.identity import new_id
from hybrid_memory.memory.item_search import ItemSearch
from hybrid_memory.memory.keeping import Keeper, opened_keeper
from hybrid_memory.memory.large_users import LargeUsers
from hybrid_memory.memory.loading import Loader
from hybrid_memory.memory.local_place import LocalCounting, LocalItems, LocalSource, LocalTidying
from hybrid_memory.memory.local_vectors import LocalVectors
from hybrid_memory.memory.memories import Memories
from hybrid_memory.memory.moving import Moving
from hybrid_memory.memory.namespaces import Namespaces
from hybrid_memory.memory.sessions import Sessions
from hybrid_memory.memory.statistics import Figures
from hybrid_memory.memory.store_items import Items
from hybrid_memory.memory.texts import texts_of
from hybrid_memory.memory.tool_outputs import ToolOutputs
from hybrid_memory.memory.vector_parts import vectors_and_pipeline
from hybrid_memory.memory.vectors_at_home import VectorsAtHome
from hybrid_memory.observability import Events
from hybrid_memory.postgres.batches import Batches, QueuedBatches
from hybrid_memory.postgres.embeddings import Embeddings
from hybrid_memory.postgres.housekeeping import Upkeep
from hybrid_memory.postgres.items import ItemRows
from hybrid_memory.postgres.large_owners import LargeOwners
from hybrid_memory.postgres.link import Link
from hybrid_memory.postgres.listener import channel_of
from hybrid_memory.postgres.statistics import Statistics
from hybrid_memory.replication.clock import HybridClock
from hybrid_memory.replication.invalidation import Invalidation
from hybrid_memory.replication.local_batches import LocalBatches, take_in_queue
from hybrid_memory.replication.queue import Queue
from hybrid_memory.replication.replay import Replay
from hybrid_memory.replication.writer import Writer
from hybrid_memory.settings import Settings, misspelled
from hybrid_memory.sqlite.leases import Leases
from hybrid_memory.sqlite.outbox import Outbox
from hybrid_memory.sqlite.state import StateFile


@dataclass(frozen=True)
class Parts:
    """Everything that exists between start and close, on one event loop."""

    link: Link
    writer: WriterAtHome
    moving: Moving
    fetching: Fetching
    sessions: Sessions
    memories: Memories
    entities: Entities
    tool_outputs: ToolOutputs
    conversations: Conversations
    finding: Finding
    large_users: LargeUsers | None
    embedding: Embedding | None
    items: Items
    item_search: ItemSearch
    figures: Figures
    delivery: Delivery
    housekeeping: Housekeeping
    freshness: Freshness
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
                await self.delivery.close(timeout / 2)
                users = [*self.writer.local.users, *(self.delivery.delivered_users() if self.answering else ())]
                await self.housekeeping.farewell(self.instance_id, users)
        except TimeoutError:
            events.warning("closed_before_all_was_written", operations=self.writer.waiting)
        finally:
            await self.closing.aclose()


async def opened(  # noqa: PLR0913, PLR0917 - what the manager was made of
    settings: Settings,
    border: Border,
    state: StateFile,
    events: Events,
    embedder: Embedder | None,
    persists: Persists,
) -> Parts:
    """Reach Postgres, bring the schema up to date and wire the parts; nothing stays open when that fails.

    With `MEMORY_TYPE=sqlite` there is no Postgres, and everybody is at home in `state.db`.
    """
    for text in misspelled():
        events.warning("unknown_setting", text=text)
    async with AsyncExitStack() as stack:
        instance, clock = new_id(), HybridClock()
        link, keeper = await stack.enter_async_context(_reached(settings, clock, events))
        database = await elsewhere(state.database)
        outbox = Outbox(
            database, events, most_operations=settings.max_outbox_operations, most_bytes=settings.max_outbox_bytes
        )
        queue = Queue(outbox, instance, answering=lambda: link.answering, now=utc_now)
        await queue.open()
        invalidation = Invalidation(link, link.continuity, channel_of(settings.schema_name), instance)
        stack.push_async_callback(invalidation.close)
        loader = Loader(link, clock, link.continuity)
        stack.push_async_callback(loader.close)
        homes = Homes(
            database,
            persists,
            in_postgres=loader.knows,
            settling=lambda user_id: take_in_queue(database, queue, user_id),
            everybody_is_local=link.is_absent,
        )
        await homes.open()
        postgres_upkeep = None if link.is_absent else Upkeep(link, changed=invalidation.changed)
        upkeep = TidyingAtHome(homes, LocalTidying(database), postgres_upkeep)
        accesses = Accesses(upkeep)
        source = SourceAtHome(homes, LocalSource(database, clock), loader)
        sessions = Sessions(homes, source, keeper, accesses, queue, settings, events)
        embeddings = Embeddings(link, changed=invalidation.changed)
        storage = VectorsAtHome(homes, LocalVectors(database), embeddings)
        vectors, embedding = vectors_and_pipeline(
            storage,
            embedder,
            sessions,
            sessions.is_undelivered,
            None if keeper is None else keeper.vectors,
            texts_of,
            settings,
            events,
        )
        own = Batches(
            link,
            instance,
            changed=invalidation.changed,
            lost=link.continuity.broken,
            remembered_seconds=oldest_sent(settings.retention_days).total_seconds(),
            in_time=vectors.in_time,
        )
        writer = Writer(own, instance, clock, queue=queue, shown=sessions.holds)
        here = LocalBatches(database, instance, may_begin=homes.may_begin)
        at_home = WriterAtHome(
            homes, Writer(here, instance, clock, shown=_shown(sessions, embedder)), writer, sessions.moved
        )
        stack.push_async_callback(sessions.close)
        queue.incarnation_of = sessions.incarnation_of
        leases = Leases(database)
        stack.callback(leases.close)
        replay = Replay(
            outbox=outbox,
            leases=leases,
            batches=QueuedBatches(link, changed=invalidation.changed),
            audience=sessions,
            owner=instance,
            events=events,
            answering=lambda: link.answering,
            oldest=oldest_sent(settings.retention_days),
            now=utc_now,
        )
        link.on_recovery(sessions.recovered)
        large = None
        if not link.is_absent:
            large = LargeUsers(
                LargeOwners(link), embeddings, sessions, vectors, settings.max_held_memories, settings.language
            )
        stack.push_async_callback(vectors.close)
        memories = Memories(border, source, at_home, sessions, accesses, vectors, events)
        entities = Entities(border, memories, sessions, events)
        conversations = Conversations(border, memories, sessions)
        moving = Moving(
            database,
            homes=homes,
            sessions=sessions,
            accesses=accesses,
            writer=at_home,
            queue=queue,
            outbox=outbox,
            leases=leases,
            postgres=lambda run: Batches(link, run, changed=invalidation.changed),
            tidying=upkeep,
            owner=instance,
            events=events,
        )
        fetching = Fetching(
            database, link, homes=homes, queue=queue, moving=moving, everybody=postgres_upkeep, events=events
        )
        rows = ItemsAtHome(homes, LocalItems(database), ItemRows(link))
        finding = Finding(border, sessions, vectors, large, accesses)
        figures = Figures(
            CountingAtHome(homes, LocalCounting(database), None if link.is_absent else Statistics(link)),
            accesses,
            events,
        )
        housekeeping = Housekeeping(border, upkeep, figures, sessions, accesses, settings, events)
        freshness = Freshness(sessions, invalidation, link, settings, events)
        writer.on_unheard = freshness.unheard
        stack.push_async_callback(freshness.close)
        return Parts(
            link=link,
            writer=at_home,
            moving=moving,
            fetching=fetching,
            sessions=sessions,
            memories=memories,
            entities=entities,
            tool_outputs=ToolOutputs(border, memories, entities, events),
            conversations=conversations,
            finding=finding,
            large_users=large,
            embedding=embedding,
            items=Items(clock, rows, memories, sessions, accesses),
            item_search=ItemSearch(Namespaces(border), rows, sessions, accesses, finding, large, settings),
            figures=figures,
            delivery=Delivery(outbox, leases, queue, replay, writer, sessions, instance),
            housekeeping=housekeeping,
            freshness=freshness,
            background=Background(events),
            instance_id=instance,
            closing=stack.pop_all(),
        )
    raise AssertionError("an exit stack of ours swallows nothing")


def _shown(sessions: Sessions, embedder: Embedder | None) -> Callable[[str], bool]:
    """Of whom writes come back as they are stored: of those who are held, and of all where vectors are made of it."""
    return sessions.holds if embedder is None else lambda _user: True


@asynccontextmanager
async def _reached(settings: Settings, clock: HybridClock, events: Events) -> AsyncIterator[tuple[Link, Keeper | None]]:
    """Postgres and the keeper of copies from it, or a link behind which nothing is."""
    link = Link(settings, events)
    if link.is_absent:
        yield link, None
        return
    await link.start()
    try:
        async with opened_keeper(settings, link, clock, events) as keeper:
            yield link, keeper
    finally:
        await link.close()
