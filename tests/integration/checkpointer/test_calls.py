"""How the checkpointer is called: listing and filtering, from threads and loops, without standing in anybody's way."""

import asyncio
import copy
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.messages import HumanMessage

from hybrid_memory import HybridCheckpointer, HybridMemoryManager, queries
from hybrid_memory.errors import InvalidInput
from hybrid_memory.langgraph.restoring import restored
from hybrid_memory.langgraph.serialisation import Serialisation
from hybrid_memory.langgraph.storing import StoredPut
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.checkpoints.listing import Listing, Selection
from hybrid_memory.sqlite.connection import Row, Statements
from tests.support.checkpoints import Thread, config_of, ids

HOSTILE = [
    "') or 1=1 --", '"', "'", "$", "$.a", "a.b", "a[0]", "[0]", "", " ", "\0", "%", "_", "source'", "é", "💥", "\\",
    "a\nb", "x'); drop table checkpoints; --",
]  # fmt: skip


def found(checkpointer: HybridCheckpointer, **filters: Any) -> list[str]:
    return ids(checkpointer.list(config_of("t"), filter=filters))


def test_any_metadata_can_be_asked_for_and_none_can_do_harm(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    everything: dict[str, Any] = {
        "text": "a", "whole": 5, "broken": 1.5, "yes": True, "no": False, "nothing": None,
        "list": [1, {"b": 2, "a": 1}], "object": {"b": {"c": 1}, "a": 2},
    }  # fmt: skip
    thread.put({"a": 1}, everything)
    wanted = thread.newest
    thread.put({"a": 2}, dict.fromkeys(everything, "other"))
    for name, value in everything.items():
        assert found(checkpointer, **{name: value}) == [wanted], name
    assert found(checkpointer, object={"a": 2, "b": {"c": 1}}, text="a") == [wanted]
    assert found(checkpointer, whole=5.0) == [wanted]
    for name, value in {"whole": "5", "text": "A", "yes": 1, "no": None, "list": [1], "unknown": 1}.items():
        assert found(checkpointer, **{name: value}) == [], name
    assert len(found(checkpointer, unknown=None)) == 2
    for key in HOSTILE:
        assert found(checkpointer, **{key: "x"}) == []
        assert found(checkpointer, text=key) == []
        thread.put({"a": 3}, {key: f"value of {key}"})
        assert found(checkpointer, **{key: f"value of {key}".replace("\0", "")}) in ([thread.newest], [])
    assert len(thread.all()) == 2 + len(HOSTILE)
    with pytest.raises(InvalidInput, match="filter"):
        found(checkpointer, odd=object())


@pytest.mark.parametrize("odd", HOSTILE)
def test_any_thread_id_is_a_thread_of_its_own(checkpointer: HybridCheckpointer, odd: str) -> None:
    thread, other = Thread(checkpointer, odd, odd), Thread(checkpointer, f"{odd}%", odd)
    thread.put({"a": odd})
    other.put({"a": 1})
    assert thread.state() == {"a": odd}
    checkpointer.delete_thread(odd)
    assert thread.all() == []
    assert other.state() == {"a": 1}


def test_what_cannot_be_an_address_is_refused(checkpointer: HybridCheckpointer) -> None:
    odd: list[Any] = [{"configurable": {}}, {}, config_of("half \ud800"), config_of("t", namespace="\udfff")]
    for config in odd:
        with pytest.raises(InvalidInput, match="configurable"):
            checkpointer.get_tuple(config)
    with pytest.raises(InvalidInput, match="checkpoint_id"):
        checkpointer.put_writes(config_of("t"), [("a", 1)], "task")


def test_numbers_are_thread_ids_too(checkpointer: HybridCheckpointer) -> None:
    Thread(checkpointer, cast("str", 7)).put({"a": 1})
    assert checkpointer.get_tuple({"configurable": {"thread_id": "7"}}) is not None


def test_a_listing_is_cut_where_it_is_asked_to_be(checkpointer: HybridCheckpointer) -> None:
    thread, child = Thread(checkpointer), Thread(checkpointer, "t", "child")
    for number in range(60):
        thread.put({"a": number})
        child.put({"a": number})
    everything = ids(checkpointer.list({"configurable": {"thread_id": "t"}}))
    assert len(everything) == 120
    assert everything == sorted(everything, reverse=True)
    own = ids(thread.all())
    assert own == [one for one in everything if one in own]
    assert len(own) == 60
    for limit in (0, 1, 25, 26, 59, 1000):
        assert ids(checkpointer.list(config_of("t"), limit=limit)) == own[:limit]
    assert ids(checkpointer.list(config_of("t"), before=config_of("t", own[10]), limit=3)) == own[11:14]
    assert ids(checkpointer.list(config_of("t", own[5]))) == [own[5]]
    assert ids(checkpointer.list(None)) == everything
    assert ids(checkpointer.list(None, filter={"step": 3})) == [
        one for one in everything if one in (own[56], everything[112])
    ]


async def test_a_listing_holds_nothing_between_pages(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    for number in range(60):
        thread.put({"a": number})
    listing = checkpointer.alist(config_of("t"))
    first = await anext(listing)
    plain = checkpointer.list(config_of("t"))
    next(plain)
    for number in range(20):
        thread.put({"a": number})
    checkpointer.prune(["other"])
    assert ids(list(plain)) == ids([one async for one in listing])
    assert first.checkpoint["channel_values"] == {"a": 59}
    database = checkpointer._state.database()
    assert database._readers._busy == 0


class Counted(Statements):
    """Statements that count."""

    def __init__(self, sql: Statements) -> None:
        super().__init__(sql.connection)
        self.count = 0

    def _cursor(self, name: str, values: Any) -> Any:
        self.count += 1
        return super()._cursor(name, values)


def test_a_page_takes_the_same_number_of_statements_however_much_is_in_it(checkpointer: HybridCheckpointer) -> None:
    def statements(size: int) -> int:
        def query(sql: Statements) -> int:
            counted = Counted(sql)
            assert len(Listing(Selection("t", "")).page(counted, size)) == size
            return counted.count

        return checkpointer._state.database().read_blocking(query)

    thread, messages = Thread(checkpointer), list[HumanMessage]()
    for number in range(100):
        messages.append(HumanMessage(str(number)))
        thread.put({"messages": list(messages), "document": f"{number}" * 300})
        thread.write([("messages", number)])
    assert 4 <= statements(100) <= statements(7) <= 5


@pytest.mark.parametrize("wanted", [Selection("t", ""), Selection("t"), Selection(), Selection(filter='{"step":5}')])
def test_no_page_takes_more_work_than_the_first(checkpointer: HybridCheckpointer, wanted: Selection) -> None:
    for thread in (Thread(checkpointer, "t"), Thread(checkpointer, "t", "child"), Thread(checkpointer, "other")):
        for _ in range(400):
            thread.put({"a": 1}, {"step": 5})
    listing = Listing(wanted)

    def work(sql: Statements) -> tuple[int, int]:
        ticks = count()
        sql.connection.set_progress_handler(lambda: next(ticks) < 0, 10)
        try:
            found = listing.page(sql, 5)
        finally:
            sql.connection.set_progress_handler(None)
        return next(ticks), len(found)

    database = checkpointer._state.database()
    first, most = database.read_blocking(work)
    for _ in range(75):
        taken, found = database.read_blocking(work)
        assert found == most == 5
        assert taken < 1.5 * first


# Those that read the checkpoints of all threads.
EVERYTHING = {
    "checkpoints.of_runs", "checkpoint_inventory.checkpoints", "checkpoint_lines.size_of_threads",
    "checkpoints.verify", "checkpoint_values.verify", "checkpoint_writes.verify",
    "checkpoints.forget_orphans", "checkpoint_values.forget_orphans", "checkpoint_writes.forget_orphans",
}  # fmt: skip


def test_who_asks_for_one_thread_does_not_look_through_the_others(checkpointer: HybridCheckpointer) -> None:
    Thread(checkpointer).put({"a": 1})
    asked = [
        query
        for query in queries.load("sqlite").values()
        if re.search(r"\b(from|join|update) checkpoint(s|_values|_writes)\b", query.text)
        and query.name not in EVERYTHING
    ]
    assert asked

    def looked_through(sql: Statements) -> list[str]:
        return [
            f"{query.name}: {step}"
            for query in asked
            for *_, step in sql.connection.execute(f"explain query plan {query.text}", dict.fromkeys(query.parameters))
            if re.match("SCAN (c|p|v|w|checkpoints|checkpoint_values|checkpoint_writes)( |$)", step)
        ]

    assert checkpointer._state.database().read_blocking(looked_through) == []


def test_threads_and_loops_share_one(checkpointer: HybridCheckpointer) -> None:
    def in_a_thread(number: int) -> None:
        thread = Thread(checkpointer, f"thread {number}")
        for step in range(20):
            thread.put({"a": step})
            thread.write([("a", step)])
        assert thread.state() == {"a": 19}

    def in_a_loop(number: int) -> None:
        async def work() -> None:
            thread = Thread(checkpointer, f"loop {number}")
            for step in range(20):
                config, checkpoint, versions = thread.next({"a": step})
                stored = await checkpointer.aput(config, checkpoint, {"step": step}, versions)
                thread.newest = checkpoint["id"]
                await checkpointer.aput_writes(stored, [("a", step)], "task")
            newest = await checkpointer.aget_tuple(config_of(thread.thread_id))
            assert newest is not None
            assert newest.pending_writes == [("task", "a", 19)]

        asyncio.run(work())

    with ThreadPoolExecutor(8) as pool:
        for number in range(4):
            pool.submit(in_a_thread, number)
        results = [pool.submit(in_a_loop, number) for number in range(4)]
    assert [result.exception() for result in results] == [None] * 4
    assert {one.checkpoints for one in checkpointer.threads()} == {20}
    assert len(checkpointer.threads()) == 8


async def test_what_is_put_at_once_is_stored_whole(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, put_alone = list[str](), StoredPut.__call__

    def counted(put: StoredPut, sql: Statements) -> None:
        alone.append(put.address.thread_id)
        put_alone(put, sql)

    async def put(thread: Thread, values: dict[str, Any]) -> None:
        config, checkpoint, versions = thread.next(values)
        await checkpointer.aput(config, checkpoint, {"step": 0}, versions)
        thread.newest = checkpoint["id"]

    async def put_all(values: dict[str, Any]) -> None:
        await asyncio.gather(*(put(thread, values) for thread in threads))
        assert all(thread.state() == {"a": 0, **values} for thread in threads)

    threads = [Thread(checkpointer, f"t{number}") for number in range(8)]
    for thread in threads:
        thread.put({"a": 0})
    monkeypatch.setattr(StoredPut, "__call__", counted)
    await put_all({"b": {"c": [1]}, "long": "text " * 100})
    assert sorted(alone) == [thread.thread_id for thread in threads]
    alone.clear()
    await put_all({"b": 1, "long": "short"})
    assert alone == []
    checkpointer.delete_thread("t3")
    await put_all({"b": 2, "long": "short"})
    assert alone != []
    assert [len(thread.all()) for thread in threads] == [4, 4, 4, 1, 4, 4, 4, 4]
    alone.clear()
    await put_all({"b": 3, "long": "short"})
    assert alone == []


async def test_a_synchronous_call_on_the_loop_does_not_wait_for_itself(checkpointer: HybridCheckpointer) -> None:
    pending = [asyncio.ensure_future(checkpointer.aget_tuple(config_of("t"))) for _ in range(3)]
    Thread(checkpointer).put({"a": 1})
    assert checkpointer.get_tuple(config_of("t")) is not None
    await asyncio.gather(*pending)


def test_a_shallow_copy_and_the_original_are_one(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"messages": ["a" * 100]})
    thread.checkpointer = copy.copy(checkpointer)
    thread.put({"messages": ["a" * 100, "b" * 100]})
    assert ids(checkpointer.list(config_of("t"))) == ids(thread.all())


def test_states_of_a_chat_become_values_in_their_loop_one_in_each_turn(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        Thread(checkpointer, str(number)).put({"messages": [HumanMessage("word " * 50, id=str(n)) for n in range(200)]})
    turns, made_in = list[None](), list[int]()

    def counted(*arguments: Any) -> Any:
        assert threading.current_thread() is threading.main_thread()
        made_in.append(len(turns))
        return restored(*arguments)

    async def count_turns() -> None:
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    async def get_all() -> None:
        counting = asyncio.create_task(count_turns())
        await asyncio.gather(*(checkpointer.aget_tuple(config_of(str(number))) for number in range(8)))
        counting.cancel()

    monkeypatch.setattr("hybrid_memory.langgraph.checkpointer.restored", counted)
    for _ in range(2):
        asyncio.run(get_all())
    assert len(set(made_in)) == len(made_in) == 16


@pytest.mark.parametrize(("length", "made_here"), [(100, {"value"}), (1000, set[str]())])
async def test_large_states_become_bytes_and_values_outside_the_event_loop(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch, length: int, made_here: set[str]
) -> None:
    here, there = list[str](), list[str]()

    def watched(name: str) -> None:
        original = getattr(Serialisation, name)

        def call(*arguments: Any) -> Any:
            (here if threading.current_thread() is threading.main_thread() else there).append(name)
            return original(*arguments)

        monkeypatch.setattr(Serialisation, name, call)

    for name in ("plain", "value"):
        watched(name)
    messages = [HumanMessage(f"message {number}", id=str(number)) for number in range(length)]
    thread = Thread(checkpointer)
    config, checkpoint, versions = thread.next({"messages": messages})
    await checkpointer.aput(config, checkpoint, {"step": 0}, versions)
    await checkpointer.aput_writes(config_of("t", checkpoint["id"]), [("messages", messages)], "task")
    found = await checkpointer.aget_tuple(config_of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"messages": messages}
    assert set(here) == made_here
    assert there.count("plain") > length
    thread.newest = checkpoint["id"]
    config, checkpoint, versions = thread.next({"messages": []})
    await checkpointer.aput(config, checkpoint, {"step": 1}, versions)
    assert "plain" in here


EQUAL = ["yes", "no"] * 50_000


@pytest.mark.parametrize(
    ("values", "writes"),
    [({"answers": EQUAL}, []), ({"messages": [HumanMessage("a" * 999)] * 2}, [("answers", EQUAL)])],
    ids=["equal elements, which are stored once", "large writes at a small checkpoint"],
)
async def test_what_is_stored_in_few_bytes_is_not_therefore_read_in_the_event_loop(
    checkpointer: HybridCheckpointer,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, Any],
    writes: list[tuple[str, Any]],
) -> None:
    thread = Thread(checkpointer)
    thread.put(values)
    thread.write(writes)
    made_in: list[threading.Thread] = []

    def watched(*arguments: Any) -> Any:
        made_in.append(threading.current_thread())
        return restored(*arguments)

    monkeypatch.setattr("hybrid_memory.langgraph.checkpointer.restored", watched)
    found = await checkpointer.aget_tuple(config_of("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    assert found.pending_writes == [("task", *write) for write in writes]
    assert len(made_in) == 1
    assert made_in[0] is not threading.main_thread()


def test_durability_is_a_choice(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []

    def synchronous(sql: Statements) -> Row:
        flushed.append(sql.connection.pragma("synchronous"))
        return ()

    monkeypatch.setattr("hybrid_memory.langgraph.storing.StoredPut.__call__", lambda _, sql: synchronous(sql))
    for keyword, setting in (("full", "full"), ("normal", "full"), (None, "full"), (None, "normal")):
        settings = Settings.without_environment(checkpoint_durability=setting)
        with HybridCheckpointer(directory, settings=settings, durability=cast("Any", keyword)) as checkpointer:
            Thread(checkpointer).put({"a": 1})
            checkpointer._state.database().write_blocking(synchronous)
    assert flushed == [2, 2, 1, 2, 2, 2, 1, 2]


# With a manager


@pytest.mark.parametrize("how", ["with", "async with", "close"])
async def test_whoever_closes_the_one_of_a_manager_leaves_the_manager_its_file(directory: Path, how: str) -> None:
    settings = Settings.without_environment(data_dir=directory, memory_type="sqlite")
    async with HybridMemoryManager(settings) as manager:
        thread = Thread(manager.checkpointer)
        if how == "with":
            with manager.checkpointer:
                thread.put({"a": 1})
        elif how == "async with":
            async with manager.checkpointer:
                thread.put({"a": 1})
        else:
            thread.put({"a": 1})
            manager.checkpointer.close()
        node_id = await manager.store_persistent_memory("nick", "prefers tea")
        assert await manager.get_node("nick", node_id) is not None
        assert manager.health().outbox_depth == 0
        assert thread.state() == {"a": 1}


async def test_what_was_noted_down_in_a_thread_goes_with_it(directory: Path) -> None:
    settings = Settings.without_environment(data_dir=directory, memory_type="sqlite")
    async with HybridMemoryManager(settings) as manager:
        for thread_id in ("blocking", "awaited", "other"):
            Thread(manager.checkpointer, thread_id).put({"a": 1})
            manager.store_transient_memory(thread_id, "noted")
        manager.checkpointer.delete_thread("blocking")
        await manager.checkpointer.adelete_thread("awaited")
        left = {one: len(manager.transient_memories(one)) for one in ("blocking", "awaited", "other")}
        assert left == {"blocking": 0, "awaited": 0, "other": 1}


def test_a_manager_has_one_before_it_is_started(directory: Path) -> None:
    before = set(threading.enumerate())
    manager = HybridMemoryManager(Settings.without_environment(data_dir=directory))
    thread = Thread(manager.checkpointer)
    thread.put({"a": 1})
    manager.store_transient_memory("t", "noted")
    assert manager._notes._state.database() is manager.checkpointer._state.database()

    async def in_another_loop() -> None:
        assert await manager.checkpointer.aget_tuple(config_of("t")) is not None
        await manager.aclose()

    asyncio.run(in_another_loop())
    assert not [one for one in set(threading.enumerate()) - before if "state.db" in one.name]
    with HybridCheckpointer(directory, settings=Settings.without_environment()) as again:
        assert ids(again.list(config_of("t"))) == [thread.newest]
