"""What is stored of values: each version once, each element of a list once, and always what was put."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from hybrid_memory import HybridCheckpointer
from hybrid_memory.errors import CheckpointIncomplete, InvalidInput
from hybrid_memory.langgraph.serialisation import Serialisation
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.checkpoints.rows import Encoded
from hybrid_memory.sqlite.connection import Statements
from tests.support.checkpoints import Thread, config_of, ids, rows, stored_bytes
from tests.support.ciphers import XorCipher

PLAIN = Settings.without_environment()


def message(number: int) -> HumanMessage:
    return HumanMessage(f"message {number} " + "x" * 500, id=str(number))


def elements(checkpointer: HybridCheckpointer) -> bytes:
    """The content of all rows of values."""

    def contents(sql: Statements) -> list[Any]:
        return sql.connection.execute("select content from checkpoint_values").fetchall()

    return b"".join(content for (content,) in checkpointer._state.database().read_blocking(contents))


def of_another_process(checkpointer: HybridCheckpointer) -> HybridCheckpointer:
    """A checkpointer on the same file that remembers nothing of what others stored."""
    return HybridCheckpointer(settings=PLAIN, state=checkpointer._state)


def test_appending_a_message_writes_one_message(checkpointer: HybridCheckpointer) -> None:
    thread, messages = Thread(checkpointer), []
    for number in range(200):
        messages.append(message(number))
        thread.put({"messages": list(messages)})
    assert thread.state()["messages"] == messages
    content = elements(checkpointer)
    assert all(content.count(b"message %d " % number) == 1 for number in range(200))
    assert stored_bytes(checkpointer) < 3 * len(content)
    for step, one in enumerate(reversed(thread.all())):
        assert one.checkpoint["channel_values"]["messages"] == messages[: step + 1]


def test_appending_a_message_serialises_one_message(
    checkpointer: HybridCheckpointer, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread, messages = Thread(checkpointer), [message(number) for number in range(200)]
    thread.put({"messages": messages})
    made, original = list[Any](), Serialisation.plain

    def counted(serialisation: Serialisation, value: object, where: str) -> Encoded:
        made.append(value)
        return original(serialisation, value, where)

    monkeypatch.setattr(Serialisation, "plain", counted)
    for number in range(200, 210):
        made.clear()
        # Other objects of the same content, as a later run restores them.
        thread.put({"messages": [message(one) for one in range(number + 1)]})
        assert [one for one in made if isinstance(one, HumanMessage)] == [message(number)]
        assert len(made) == 2


def test_a_value_that_did_not_change_is_not_written_again(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"document": "d" * 100_000, "count": 0})
    before = stored_bytes(checkpointer)
    for number in range(50):
        thread.put({"count": number})
    assert stored_bytes(checkpointer) < before + 50_000
    assert thread.state() == {"document": "d" * 100_000, "count": 49}


@pytest.mark.parametrize("change", ["content", "a list inside", "usage"])
def test_a_message_changed_in_place_is_stored_changed(checkpointer: HybridCheckpointer, change: str) -> None:
    thread = Thread(checkpointer)
    first = AIMessage("first", id="1", additional_kwargs={"inside": [1]})
    messages: list[AnyMessage] = [first, message(2)]
    thread.put({"messages": messages})
    if change == "content":
        first.content = "changed"
    elif change == "a list inside":
        first.additional_kwargs["inside"].append(True)
    else:
        first.usage_metadata = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    thread.put({"messages": messages})
    newer, older = thread.all()
    assert newer.checkpoint["channel_values"]["messages"] == messages
    assert older.checkpoint["channel_values"]["messages"][0].content == "first"
    assert older.checkpoint["channel_values"]["messages"] != messages


def test_a_number_that_becomes_a_truth_value_is_noticed(checkpointer: HybridCheckpointer) -> None:
    thread, note = Thread(checkpointer), {"flag": 1, "text": "x" * 300}
    thread.put({"notes": [note]})
    note["flag"] = True
    thread.put({"notes": [note]})
    assert thread.state()["notes"][0]["flag"] is True


def test_random_lists_come_back_whoever_wrote_the_one_before(
    checkpointer: HybridCheckpointer, rng: random.Random
) -> None:
    """Two processes' worth of memory on one file, one of which starts anew now and then."""
    kinds: list[Any] = [message(1), {"a": [1, 2]}, "text", None, 3, 1.5, [1, "x"], b"raw", ("a", 1), message(2), True]
    checkpointers = [checkpointer, of_another_process(checkpointer)]
    wanted: dict[str, list[Any]] = {}
    thread, current = Thread(checkpointer), list[Any]()
    for _ in range(120):
        if rng.random() < 0.1:
            checkpointers[1] = of_another_process(checkpointer)
        thread.checkpointer = rng.choice(checkpointers)
        if rng.random() < 0.05 and thread.newest:
            thread.checkpointer.prune(["t"])
            wanted = {thread.newest: wanted[thread.newest]}
        kept = rng.choice([len(current)] * 4 + [rng.randrange(len(current) + 1)])
        current = [*current[:kept], *rng.choices(kinds, k=rng.randrange(4))]
        if rng.random() < 0.1:
            rng.shuffle(current)
        thread.put({"items": current})
        assert thread.newest
        wanted[thread.newest] = list(current)
    found = {one.checkpoint["id"]: one.checkpoint["channel_values"]["items"] for one in thread.all()}
    as_stored = {key: [list(one) if isinstance(one, tuple) else one for one in value] for key, value in wanted.items()}
    assert found == as_stored


def test_a_thread_deleted_while_it_is_at_work_gets_what_the_next_checkpoint_has(
    checkpointer: HybridCheckpointer,
) -> None:
    thread, other = Thread(checkpointer), of_another_process(checkpointer)
    thread.put({"messages": [message(1)], "document": "d" * 1000})
    other.delete_thread("t")
    Thread(other, "another").put({"messages": [message(9)]})
    thread.put({"count": 1})
    assert thread.state() == {"messages": [message(1)], "document": "d" * 1000, "count": 1}
    assert rows(checkpointer)["checkpoint_lines"] == 2


def test_a_value_that_another_process_has_collected_is_stored_again(checkpointer: HybridCheckpointer) -> None:
    thread, other = Thread(checkpointer), Thread(of_another_process(checkpointer))
    thread.put({"document": "d" * 1000, "count": 0})
    thread.put({"count": 1})
    other.newest, other.values, other.versions, other.step = thread.newest, thread.values, dict(thread.versions), 1
    other.put({"document": "e" * 1000})
    other.checkpointer.prune(["t"])
    assert rows(checkpointer)["checkpoint_values"] == 1
    thread.step = other.step
    thread.put({"count": 2})
    assert thread.state() == {"document": "d" * 1000, "count": 2}


def test_forks_keep_what_is_theirs(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"messages": [message(1)]})
    fork = Thread(checkpointer)
    fork.newest, fork.values, fork.versions, fork.step = thread.newest, dict(thread.values), dict(thread.versions), 0
    for number in range(2, 6):
        thread.put({"messages": [*thread.values["messages"], message(number)]})
        fork.put({"messages": [*fork.values["messages"], message(-number)]})
    found = {one.checkpoint["id"]: one for one in thread.all()}
    assert found[thread.newest].checkpoint["channel_values"]["messages"] == thread.values["messages"]  # type: ignore[index]
    assert found[fork.newest].checkpoint["channel_values"]["messages"] == fork.values["messages"]  # type: ignore[index]


def test_an_encrypted_list_is_stored_by_its_elements_and_cannot_be_read(directory: Path) -> None:
    secret = HybridCheckpointer(directory, settings=PLAIN, serde=EncryptedSerializer(XorCipher()))
    thread, messages = Thread(secret), []
    for number in range(20):
        messages.append(message(number))
        thread.put({"messages": list(messages), "password": "swordfish"})
        thread.write([("messages", [message(number)])])
        if number == 10:
            secret.close()
            thread.checkpointer = secret = HybridCheckpointer(
                directory, settings=PLAIN, serde=EncryptedSerializer(XorCipher())
            )
    assert thread.state() == {"messages": messages, "password": "swordfish"}
    assert len(elements(secret)) < 20 * 1500
    secret.close()
    content = (directory / "state.db").read_bytes()
    assert b"swordfish" not in content
    assert b"message 3 " not in content


def test_values_without_a_version_and_channels_without_a_value(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"kept": "x" * 500, "emptied": "y" * 500})
    thread.put({}, absent=["emptied"])
    assert thread.state() == {"kept": "x" * 500}
    assert thread.all()[1].checkpoint["channel_values"] == {"kept": "x" * 500, "emptied": "y" * 500}


def test_writes_come_in_the_order_in_which_they_are_applied(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"a": 1})
    thread.write([("a", "b/1/0"), ("a", "b/1/1")], "1", "b")
    thread.write([("a", "a/2/0")], "2", "a")
    thread.write([("a", "a/1/0")], "1-", "a")
    found = checkpointer.get_tuple(config_of("t"))
    assert found is not None
    assert [value for _, _, value in found.pending_writes or ()] == ["a/1/0", "a/2/0", "b/1/0", "b/1/1"]


def test_special_writes_are_replaced_and_others_stay(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"a": 1})
    thread.write([("a", 1), ("__resume__", ["first"])])
    thread.write([("a", 2), ("__resume__", ["first", "second"])])
    found = checkpointer.get_tuple(config_of("t"))
    assert found is not None
    assert [one[1:] for one in found.pending_writes or ()] == [("__resume__", ["first", "second"]), ("a", 1)]


def test_writes_may_come_before_their_checkpoint(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    config, checkpoint, versions = thread.next({"a": 1})
    checkpointer.put_writes(config_of("t", checkpoint["id"]), [("a", 2)], "task")
    assert checkpointer.get_tuple(config_of("t")) is None
    checkpointer.put(config, checkpoint, {"step": 0}, versions)
    found = checkpointer.get_tuple(config_of("t"))
    assert found is not None
    assert found.pending_writes == [("task", "a", 2)]


async def test_writes_of_many_tasks_at_once_are_all_stored(checkpointer: HybridCheckpointer) -> None:
    threads = [Thread(checkpointer, f"t{number}") for number in range(6)]
    for thread in threads[:5]:
        thread.put({"a": 1})
    threads[5].newest = "unknown"
    checkpointer.delete_thread("t4")

    async def write(thread: Thread, task: str, writes: list[tuple[str, Any]]) -> None:
        await checkpointer.aput_writes(config_of(thread.thread_id, thread.newest), writes, task)

    await asyncio.gather(
        *(write(thread, task, [("a", task), ("__resume__", task)]) for thread in threads for task in ("1", "2")),
        *(write(thread, "1", [("a", "late"), ("__resume__", "late")]) for thread in threads[:2]),
    )
    assert rows(checkpointer)["checkpoint_writes"] == 4 * len(threads)
    for thread in threads[:4]:
        found = checkpointer.get_tuple(config_of(thread.thread_id))
        assert found is not None
        resumed = "late" if thread in threads[:2] else "1"
        assert [value for _, _, value in found.pending_writes or ()] == [resumed, "1", "2", "2"]


async def test_what_a_task_wrote_last_is_kept_whoever_remembers_its_thread(checkpointer: HybridCheckpointer) -> None:
    thread, other = Thread(checkpointer), of_another_process(checkpointer)
    thread.put({"a": 1})
    config = config_of("t", thread.newest)
    await asyncio.gather(
        other.aput_writes(config, [("a", "first"), ("__resume__", ["first"])], "task"),
        checkpointer.aput_writes(config, [("a", "second"), ("__resume__", ["first", "second"])], "task"),
    )
    found = checkpointer.get_tuple(config)
    assert found is not None
    assert [one[1:] for one in found.pending_writes or ()] == [("__resume__", ["first", "second"]), ("a", "first")]


async def test_writes_issued_before_a_put_are_stored_before_it(checkpointer: HybridCheckpointer) -> None:
    """However large they are: making their bytes does not let the put overtake them."""
    thread = Thread(checkpointer)
    thread.put({"a": 1})
    config = config_of("t", thread.newest)
    following, checkpoint, versions = thread.next({"a": 2})
    many = [message(number) for number in range(3000)]
    writing = asyncio.ensure_future(checkpointer.aput_writes(config, [("a", many)], "task"))
    await asyncio.sleep(0)
    await checkpointer.aput(following, checkpoint, {"step": 1}, versions)
    stored = checkpointer.get_tuple(config)
    assert stored is not None
    assert stored.pending_writes == [("task", "a", many)]
    await writing


def test_a_checkpoint_that_lost_a_part_says_so(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    thread.put({"messages": [message(1)]})
    thread.put({"messages": [message(1), message(2)]})

    def lose(sql: Statements) -> None:
        sql.connection.execute("delete from checkpoint_values where value = 1")

    checkpointer._state.database().write_blocking(lose)
    with pytest.raises(CheckpointIncomplete, match="messages"):
        checkpointer.get_tuple(config_of("t"))
    thread.put({"count": 1, "messages": [message(3)]})
    assert thread.state() == {"messages": [message(3)], "count": 1}


def test_there_are_numbers_for_any_number_of_copies(checkpointer: HybridCheckpointer) -> None:
    """A thread that grows beside its copies is spread over all rows there are."""
    thread = Thread(checkpointer)
    for number in range(80):
        thread.put({"messages": [message(one) for one in range(number + 1)]})
        checkpointer.copy_thread("t", f"copy {number % 2}")
        thread.put({"messages": [*thread.values["messages"], message(-number)]})
        copied = checkpointer.get_tuple(config_of(f"copy {number % 2}"))
        assert copied is not None
        assert copied.checkpoint["channel_values"]["messages"] == [message(one) for one in range(number + 1)]
        checkpointer.delete_thread(f"copy {1 - number % 2}")
    last = checkpointer._state.database().read_blocking(
        lambda sql: sql.connection.execute("select max(value) from checkpoint_values").get
    )
    assert last < 80 * 2 * 80, "no more than rows were ever written"


def test_a_copy_is_whole_and_goes_its_own_way(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer)
    for number in range(10):
        thread.put({"messages": [message(one) for one in range(number + 1)], "document": "d" * 1000})
        thread.write([("messages", number)])
    Thread(checkpointer, "other").put({"messages": [message(1)]})
    checkpointer.copy_thread("t", "copy")
    copied = list(checkpointer.list(config_of("copy")))
    assert [(one.checkpoint, one.metadata, one.pending_writes) for one in copied] == [
        (one.checkpoint, one.metadata, one.pending_writes) for one in thread.all()
    ]
    with pytest.raises(InvalidInput, match="has checkpoints"):
        checkpointer.copy_thread("t", "copy")
    checkpointer.delete_thread("t")
    assert ids(checkpointer.list(config_of("copy"))) == ids(copied)
    assert copied[0].checkpoint["channel_values"]["messages"] == [message(one) for one in range(10)]
    thread.thread_id = "copy"
    thread.put({"messages": [*thread.values["messages"], message(11)]})
    assert thread.state()["messages"] == [*(message(one) for one in range(10)), message(11)]
