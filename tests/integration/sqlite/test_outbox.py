"""The outbox: what it keeps, in which order it gives it out, and what becomes of what cannot be sent."""

import asyncio
import json
import math
import random
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from hybrid_memory import queries
from hybrid_memory.errors import InvalidInput, OutboxFull, StorageRejected
from hybrid_memory.sqlite import outbox as sqlite_outbox
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.outbox import DAMAGED, TOO_OLD, Outbox, UserQueue
from hybrid_memory.sqlite.outbox_files import line_of, read_lines, write_lines
from hybrid_memory.sqlite.outbox_rows import LONGEST_DELAY
from hybrid_memory.sqlite.queued import QueuedOperation
from tests.support.outboxes import NOW, OTHER_RUN, RUN, SECOND, drained, names, numbers, operation, outbox_in, wrong_in
from tests.support.recording import Recorded
from tests.support.sqlite_files import ROOT


async def due(outbox: Outbox, *, now: object = NOW, **options: object) -> list[list[tuple[str, str, int]]]:
    given = {"most_users": 32, "most_operations": 128, "now": now} | options
    return [[names(one) for one in batch] for batch in await outbox.next_batches(RUN, **given)]  # type: ignore[arg-type] # a test's own options


# What it keeps


async def test_an_operation_comes_back_as_it_went_in(tmp_path: Path) -> None:
    first = operation(
        "nick",
        7,
        incarnation="i1",
        kind="entities",
        row={"node_id": "n", "content": {"text": 'Zoë ✓ \\ "', "deep": [1, 2.5, None, True, -0.1, 10**30]}, "tags": []},
        embeddings=[
            {"model": "m", "field": "content", "content_hash": "h", "values": [0.5, -2.0, 3.25]},
            {"model": "other", "field": "summary", "content_hash": None, "values": [1.0]},
        ],
    )
    async with outbox_in(tmp_path) as (_, outbox):
        await outbox.put([first])
    async with outbox_in(tmp_path) as (_, outbox):
        ((found,),) = await outbox.next_batches(RUN, most_users=1, most_operations=1, now=NOW)
        assert found == QueuedOperation(
            user_id="nick",
            incarnation="i1",
            instance_id=RUN,
            n=7,
            kind="entities",
            row=first.row,
            embeddings=first.embeddings,
            queued_at=NOW,
            position=1,
        )
        assert list(found.row) == list(first.row)


async def test_vectors_are_kept_in_four_bytes_a_number(tmp_path: Path) -> None:
    values = [math.sin(number) for number in range(1536)]
    async with outbox_in(tmp_path) as (state, outbox):
        await outbox.put([operation("nick", 1, embeddings=[{"model": "m", "values": values}])])
        (found,) = await outbox.of_user("nick")
        assert found.embeddings[0]["values"] == pytest.approx(values, rel=1e-6)
        size = state.read_blocking(
            lambda sql: sql.connection.execute("select length(vectors) from outbox_payloads").get
        )
        assert size == 1536 * 4


@pytest.mark.parametrize("content", [math.nan, math.inf, "\ud800", b"bytes", {1, 2}])
async def test_what_json_cannot_say_is_refused_before_anything_is_kept(tmp_path: Path, content: object) -> None:
    async with outbox_in(tmp_path) as (_, outbox):
        with pytest.raises(InvalidInput, match="operation 2"):
            await outbox.put([operation("nick", 1), operation("nick", 2, row={"content": content})])
        assert await outbox.depth() == 0


async def test_it_is_durable_when_put_returns(tmp_path: Path) -> None:
    await in_another_process(_PUT_AND_DIE, tmp_path)
    async with outbox_in(tmp_path) as (state, outbox):
        assert numbers(await outbox.of_user("nick")) == list(range(1, 101))
        assert state.read_blocking(wrong_in) == []


_PUT_AND_DIE = """
import asyncio, os, sys
from pathlib import Path
from tests.support.outboxes import OTHER_RUN, operation, outbox_in
async def main():
    async with outbox_in(Path(sys.argv[1]), owner=OTHER_RUN) as (_, outbox):
        await asyncio.gather(*(outbox.put([operation("nick", n), operation("eve", n)]) for n in range(1, 101)))
        os._exit(0)
asyncio.run(main())
"""


async def test_putting_the_same_again_changes_nothing(tmp_path: Path) -> None:
    async with outbox_in(tmp_path) as (state, outbox):
        await outbox.put([operation("nick", 1), operation("nick", 2)])
        await outbox.put([operation("nick", 2), operation("nick", 3)])
        assert numbers(await outbox.of_user("nick")) == [1, 2, 3]
        await outbox.quarantine("nick", RUN, 1, "poison", NOW)
        await outbox.put([operation("nick", 1)])
        assert numbers(await outbox.of_user("nick")) == [2, 3]
        with pytest.raises(StorageRejected, match="another operation was queued under number 3"):
            await outbox.put([operation("nick", 4), operation("nick", 3, row={"content": "something else"})])
        assert numbers(await outbox.of_user("nick")) == [2, 3]
        assert state.read_blocking(wrong_in) == []


# A full outbox


async def test_a_full_outbox_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with outbox_in(tmp_path, most_operations=10) as (state, outbox):
        await outbox.put([operation("nick", n) for n in range(1, 10)])
        with pytest.raises(OutboxFull, match="9 writes wait for it already"):
            await outbox.put([operation("eve", 1), operation("eve", 2)])
        assert await outbox.users_with_queued() == {"nick"}
        await outbox.put([operation("eve", 1)])
        await outbox.quarantine("nick", RUN, 1, "poison", NOW)
        with pytest.raises(OutboxFull, match=r"9 writes wait for it already \(1 more are in quarantine"):
            await outbox.put([operation("eve", 2)])
        await outbox.done("nick", {RUN: 5})
        await outbox.put([operation("eve", n) for n in range(2, 6)])
        assert (await outbox.depth(), await outbox.quarantined_count()) == (9, 1)
        assert state.read_blocking(wrong_in) == []


async def test_what_is_kept_already_needs_no_room(tmp_path: Path) -> None:
    """A put whose answer was lost is repeated, and may have filled it."""
    async with outbox_in(tmp_path, most_operations=10) as (state, outbox):
        many = [operation("nick", n) for n in range(1, 11)]
        for _ in range(2):
            await outbox.put(many)
        with pytest.raises(OutboxFull):
            await outbox.put([*many, operation("nick", 11)])
        assert numbers(await outbox.of_user("nick")) == list(range(1, 11))
        assert state.read_blocking(wrong_in) == []


async def test_large_contents_fill_it_too(tmp_path: Path) -> None:
    large = {"content": "x" * 1000}
    async with outbox_in(tmp_path, most_bytes=10_000) as (_, outbox):
        await outbox.put([operation("nick", n, row=large) for n in range(1, 10)])
        with pytest.raises(OutboxFull):
            await outbox.put([operation("nick", 10, row=large)])
        await outbox.put([operation("nick", 10)])


async def test_callers_together_do_not_get_more_in_than_there_is_room(tmp_path: Path) -> None:
    async with outbox_in(tmp_path, most_operations=50) as (state, outbox):
        puts = (outbox.put([operation("nick", n)]) for n in range(1, 101))
        answers = await asyncio.gather(*puts, return_exceptions=True)
        refused = [answer for answer in answers if answer is not None]
        assert len(refused) == 50
        assert {type(one) for one in refused} == {OutboxFull}
        kept = {n for n, answer in enumerate(answers, 1) if answer is None}
        assert set(numbers(await outbox.of_user("nick"))) == kept
        assert state.read_blocking(wrong_in) == []


# Order


async def test_each_users_operations_come_in_their_order(tmp_path: Path, rng: random.Random) -> None:
    async with outbox_in(tmp_path) as (state, outbox):
        put: dict[str, list[int]] = defaultdict(list)
        for _ in range(60):
            users = rng.choices("abcdef", k=rng.randint(1, 9))
            group = []
            for user in users:
                put[user].append(len(put[user]) + 1)
                group.append(operation(user, put[user][-1]))
            await outbox.put(group)
        rounds = await drained(outbox, most_users=rng.randint(1, 6), most_operations=rng.randint(1, 7))
        taken: dict[str, list[int]] = defaultdict(list)
        for user, _, n in (one for operations in rounds for one in operations):
            taken[user].append(n)
        assert taken == put
        assert await outbox.depth() == 0
        assert state.read_blocking(wrong_in) == []


async def test_the_operations_of_several_runs_come_in_one_order(tmp_path: Path) -> None:
    async with outbox_in(tmp_path) as (state, outbox):
        await outbox.put([operation("nick", 8), operation("nick", 9)])
        await outbox.put([operation("nick", 1, run=OTHER_RUN)])
        await outbox.put([operation("nick", 10), operation("nick", 11)])
        ((*first, last),) = await outbox.next_batches(RUN, most_users=1, most_operations=4, now=NOW)
        assert [(one.instance_id, one.n) for one in first] == [(RUN, 8), (RUN, 9), (OTHER_RUN, 1)]
        assert await outbox.done("nick", {RUN: 9, OTHER_RUN: 1}) == 3
        assert state.read_blocking(wrong_in) == []
        assert await due(outbox) == [[names(last), ("nick", RUN, 11)]]


async def test_users_take_turns(tmp_path: Path) -> None:
    """A long queue does not hold up those that came later."""
    async with outbox_in(tmp_path) as (_, outbox):
        await outbox.put([operation("long", n) for n in range(1, 101)])
        await outbox.put([operation(f"short{n}", 1) for n in range(3)])
        rounds = await drained(outbox, most_users=2, most_operations=10)
        assert [{user for user, _, _ in operations} for operations in rounds[:3]] == [
            {"long", "short0"},
            {"short1", "short2"},
            {"long"},
        ]


async def test_users_that_are_busy_or_wait_are_left_out(tmp_path: Path) -> None:
    async with outbox_in(tmp_path) as (_, outbox):
        await outbox.put([operation(user, n) for user in ("busy", "waits", "free") for n in (1, 2)])
        await outbox.postpone("waits", 3, NOW + 5 * SECOND, "no answer")
        assert await due(outbox, besides=["busy"]) == [[("free", RUN, 1), ("free", RUN, 2)]]
        assert [batch[0][0] for batch in await due(outbox, now=NOW + 5 * SECOND)] == ["busy", "free", "waits"]
        (first, second) = await outbox.of_user("waits")
        assert (first.attempts, first.not_before, first.reason) == (3, NOW + 5 * SECOND, "no answer")
        assert (second.attempts, second.not_before, second.reason) == (0, None, None)
        await outbox.done("waits", {RUN: 1})
        assert ["waits"] in [[user for user, _, _ in batch] for batch in await due(outbox)], "the next need not wait"


async def test_a_clock_set_back_by_years_holds_nobody_up(tmp_path: Path) -> None:
    async with outbox_in(tmp_path) as (_, outbox):
        await outbox.put([operation("nick", 1), operation("eve", 1)])
        await outbox.postpone("nick", 1, NOW + LONGEST_DELAY, "no answer")
        assert [batch[0][0] for batch in await due(outbox)] == ["eve"]
    before = NOW - 3650 * 86_400 * SECOND
    async with outbox_in(tmp_path, now=before) as (_, outbox):
        assert [batch[0][0] for batch in await due(outbox, now=before)] == ["eve", "nick"]


async def test_an_answer_is_not_larger_than_memory_bears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_outbox, "MOST_BYTES", 3000)
    row = {"content": "x" * 1000}
    async with outbox_in(tmp_path) as (_, outbox):
        await outbox.put([operation("nick", n, row=row) for n in range(1, 6)] + [operation("eve", 1, row=row)])
        assert await due(outbox) == [[("nick", RUN, 1), ("nick", RUN, 2), ("nick", RUN, 3)]]
        await outbox.done("nick", {RUN: 3})
        assert await due(outbox) == [[("eve", RUN, 1)], [("nick", RUN, 4), ("nick", RUN, 5)]]


# Quarantine


async def test_quarantine_lets_those_behind_go_on(tmp_path: Path) -> None:
    events = Recorded()
    async with outbox_in(tmp_path, events) as (state, outbox):
        await outbox.put([operation("nick", n) for n in (1, 2, 3)])
        await outbox.postpone("nick", 4, NOW + SECOND, "no answer")
        assert await outbox.quarantine("nick", RUN, 1, "22021: invalid byte", NOW)
        assert not await outbox.quarantine("nick", RUN, 1, "again", NOW)
        assert await due(outbox) == [[("nick", RUN, 2), ("nick", RUN, 3)]]
        assert await outbox.quarantine("nick", RUN, 3, "54000", NOW)
        assert await outbox.done("nick", {RUN: 3}) == 1
        refused = await outbox.quarantined()
        assert [(one.n, one.reason, one.quarantined_at) for one in refused] == [
            (1, "22021: invalid byte", NOW),
            (3, "54000", NOW),
        ]
        assert (await outbox.depth(), await outbox.quarantined_count()) == (0, 2)
        assert await outbox.users_with_queued() == set()
        assert await outbox.quarantined("eve") == []
        assert numbers(await outbox.quarantined(limit=1)) == [1]
        assert state.read_blocking(wrong_in) == []
    assert [(one["number"], one["reason"]) for one in events.named("outbox_operation_quarantined")] == [
        (1, "22021: invalid byte"),
        (3, "54000"),
    ]
    assert "value-" not in str(events.seen), "content was reported"


ANOTHER_NUMBER = "cast(replace(cast(content as text), '-00000001', '-00000009') as blob)"
THE_FOURTH = "(select content from outbox_payloads where position = 4)"


@pytest.mark.parametrize(
    ("change", "hit"),
    [
        (f"update outbox_payloads set content = {ANOTHER_NUMBER}", [1]),
        ("update outbox_payloads set content = x'ff' where position = 2", [2]),
        ("update outbox_payloads set vectors = x'00000000' where position = 2", [2]),
        (f"update outbox_payloads set content = {THE_FOURTH} where position = 3", [3]),
        ("delete from outbox_payloads where position in (1, 3)", [1, 3]),
    ],
    ids=["another number", "no text", "another vector", "the content of another", "none"],
)
async def test_a_damaged_content_is_never_sent(tmp_path: Path, change: str, hit: list[int]) -> None:
    """Changed by another process while this one has the file open: this one goes on."""
    events = Recorded()
    vector = [{"model": "m", "values": [1.0]}]
    async with outbox_in(tmp_path, events) as (_, outbox):
        await outbox.put([operation("nick", n, embeddings=vector) for n in (1, 2, 3, 4)])
        await in_another_process(_EXECUTE, tmp_path / "state.db", change)
        good = [n for n in (1, 2, 3, 4) if n not in hit]
        assert numbers(await outbox.of_user("nick")) == good
        assert await due(outbox) == [[("nick", RUN, n) for n in good]]
        refused = await outbox.quarantined()
        assert [(one.n, one.reason, one.row, one.embeddings) for one in refused] == [(n, DAMAGED, {}, []) for n in hit]
        assert await outbox.requeue(refused, OTHER_RUN, lambda _: 1, NOW) == 0
        assert await outbox.depth() == len(good)
    assert [one["number"] for one in events.named("outbox_operation_quarantined")] == hit
    async with outbox_in(tmp_path) as (_, outbox):
        assert await outbox.quarantined_count() == len(hit), "the next start has nothing to rescue"


_EXECUTE = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute(sys.argv[2])
assert connection.changes()
connection.close()
"""


async def in_another_process(program: str, *arguments: object) -> None:
    """Run Python; it must end well."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, *map(str, arguments), cwd=ROOT)
    async with asyncio.timeout(60):
        assert await process.wait() == 0


async def test_what_waited_for_too_long_goes_into_quarantine(tmp_path: Path) -> None:
    async with outbox_in(tmp_path) as (state, outbox):
        await outbox.put([operation("nick", n, at=NOW - 100 * SECOND) for n in range(1, 1201)])
        await outbox.put([operation(user, n, at=NOW) for user in ("nick", "eve") for n in (2001, 2002)])
        assert await outbox.quarantine_older(NOW - 99 * SECOND, NOW) == 1200
        assert await outbox.quarantine_older(NOW - 99 * SECOND, NOW) == 0
        assert await due(outbox) == [
            [("eve", RUN, 2001), ("eve", RUN, 2002)],
            [("nick", RUN, 2001), ("nick", RUN, 2002)],
        ]
        assert {one.reason for one in await outbox.quarantined("nick", 2000)} == {TOO_OLD}
        assert state.read_blocking(wrong_in) == []


async def test_requeued_operations_go_to_the_end_under_a_new_number(tmp_path: Path) -> None:
    vector = [{"model": "m", "values": [1.0, 2.0]}]
    async with outbox_in(tmp_path) as (state, outbox):
        await outbox.put([operation("nick", n, embeddings=vector) for n in range(1, 6)] + [operation("eve", 1)])
        for n in (1, 2, 4):
            await outbox.quarantine("nick", RUN, n, "poison", NOW)
        await outbox.quarantine("eve", RUN, 1, "poison", NOW)
        first, *others = await outbox.quarantined("nick")
        later, number = NOW + 9 * SECOND, iter(range(11, 99))
        assert await outbox.requeue(others, OTHER_RUN, lambda _: next(number), later) == 2
        assert await outbox.requeue(others, OTHER_RUN, lambda _: next(number), later) == 0, (
            "they are not there any more"
        )
        found = await drained(outbox)
        assert found == [
            [("nick", RUN, 3), ("nick", RUN, 5), ("nick", OTHER_RUN, 11), ("nick", OTHER_RUN, 12)],
        ]
        assert await outbox.requeue([first], OTHER_RUN, lambda _: next(number), later) == 1
        (again,) = await outbox.of_user("nick")
        assert (again.row, again.embeddings, again.queued_at) == (first.row, first.embeddings, later)
        assert (again.attempts, again.reason, again.quarantined_at) == (0, None, None)
        assert numbers(await outbox.quarantined()) == [1]
        assert numbers(await outbox.quarantined(positions=[6, 99])) == [1]
        assert numbers(await outbox.quarantined(positions=[99])) == []
        assert state.read_blocking(wrong_in) == []


# Looking at it


async def test_how_much_waits_and_for_how_long(tmp_path: Path) -> None:
    async with outbox_in(tmp_path) as (_, outbox):
        assert await outbox.oldest_age(NOW) is None
        await outbox.put([operation("nick", n, at=NOW + n * SECOND) for n in (1, 2)])
        await outbox.put([operation("eve", 1, at=NOW + 3 * SECOND)])
        assert await outbox.oldest_age(NOW + 11 * SECOND) == 10 * SECOND
        assert await outbox.oldest_age(NOW - SECOND) == 0 * SECOND, "a clock set back"
        assert await outbox.queues() == [UserQueue("nick", 2, NOW + SECOND), UserQueue("eve", 1, NOW + 3 * SECOND)]
        assert await outbox.queues(limit=1) == [UserQueue("nick", 2, NOW + SECOND)]
        await outbox.quarantine("nick", RUN, 1, "poison", NOW)
        assert await outbox.oldest_age(NOW + 11 * SECOND) == 9 * SECOND
        assert await outbox.users_with_queued() == {"nick", "eve"}
        assert [names(one) async for one in outbox.everything()] == [
            ("nick", RUN, 1),
            ("nick", RUN, 2),
            ("eve", RUN, 1),
        ]


async def test_an_export_can_be_taken_in_elsewhere(tmp_path: Path) -> None:
    vector = [{"model": "m", "field": "content", "content_hash": "h", "values": [0.1, 2.0]}]
    file = tmp_path / "export.jsonl"
    async with outbox_in(tmp_path / "one") as (_, outbox):
        await outbox.put([operation("nick", n, embeddings=vector, incarnation="i") for n in range(1, 1101)])
        await outbox.quarantine("nick", RUN, 7, "poison", NOW)
        before = [one async for one in outbox.everything()]
        assert await write_lines(file, outbox.everything()) == 1100
        with pytest.raises(FileExistsError):
            await write_lines(file, outbox.everything())
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text().splitlines()[6])["reason"] == "poison"
    async with outbox_in(tmp_path / "two") as (state, outbox):
        for _ in range(2):
            await outbox.put(list(read_lines(file)))
            assert [one async for one in outbox.everything()] == before
        assert state.read_blocking(wrong_in) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("[]", "not an operation"),
        ("{", "Expecting"),
        ('{"user_id": "nick"}', "missing"),
        ('{"user_id": 7}', "user_id: int"),
        ('{"n": true}', "n: bool"),
        ('{"queued_at": "2026-01-01T00:00:00"}', "without its offset"),
        ('{"surprise": 1}', "not an operation"),
    ],
)
def test_a_line_that_is_no_operation_is_named(tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "export.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(InvalidInput, match=f"export.jsonl, line 1: .*{why}"):
        list(read_lines(file))


@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": "\ud800"},
        {"row": {"content": "\ud800"}},
        {"embeddings": [1]},
        {"embeddings": [{"model": "m"}]},
        {"embeddings": [{"model": "m", "values": ["x"]}]},
    ],
    ids=str,
)
def test_a_line_that_cannot_be_kept_is_named(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Before anything of the file is taken in."""
    file, good = tmp_path / "export.jsonl", line_of(operation("nick", 1))
    file.write_text(f"{good}\n{json.dumps({**json.loads(good), **fields})}\n")
    with pytest.raises(InvalidInput, match=r"export\.jsonl, line 2: "):
        list(read_lines(file))


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"[" * 100_000], ids=["binary", "nested"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "export.jsonl"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"export\.jsonl, line 1: "):
        list(read_lines(file))


# Speed


def plan(sql: Statements, name: str) -> list[str]:
    query = queries.load("sqlite")[name]
    values = dict.fromkeys(query.parameters, 1) | {"besides": "[]"}
    given = {key: values[key] for key in query.parameters}
    return [row[3] for row in sql.connection.execute(f"explain query plan {query.text}", given)]


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("outbox.due", "outbox_heads (not_before<?)"),
        ("outbox.queue_of", "outbox_queues (user_id=?)"),
        ("outbox.head", "outbox_queues (user_id=?)"),
        ("outbox.remove_done", "(user_id=? AND instance_id=? AND number<?)"),
        ("outbox_payloads.forget_done", "(user_id=? AND instance_id=? AND number<?)"),
        ("outbox.older", "outbox_ages (queued_at<?)"),
        ("outbox.postpone", "outbox_"),
    ],
)
async def test_nothing_on_the_way_scans_the_table(tmp_path: Path, name: str, index: str) -> None:
    async with outbox_in(tmp_path) as (state, outbox):
        await outbox.put([operation(f"u{n % 50}", n) for n in range(1, 1001)])
        steps = state.read_blocking(lambda sql: plan(sql, name))
    assert any(index in step for step in steps), steps
    assert not [step for step in steps if step.startswith("SCAN outbox")], steps


async def test_a_long_queue_slows_nobody_down(tmp_path: Path) -> None:
    """The next batches are found in about the same time among 100 and among 6 000 operations."""

    async def time_of_a_round(outbox: Outbox) -> float:
        best = math.inf
        for _ in range(20):
            start = time.perf_counter()
            assert len(await outbox.next_batches(RUN, most_users=4, most_operations=16, now=NOW)) == 4
            best = min(best, time.perf_counter() - start)
        return best

    async with outbox_in(tmp_path) as (_, outbox):
        await outbox.put([operation(f"u{n % 4}", n) for n in range(1, 101)])
        short = await time_of_a_round(outbox)
        for start in range(101, 6_001, 1000):
            await outbox.put([operation("u0", n) for n in range(start, start + 1000)])
        assert await time_of_a_round(outbox) < 5 * short + 0.002


@pytest.mark.parametrize(
    "count", [4_000, pytest.param(100_000, marks=[pytest.mark.campaign, pytest.mark.timeout(600)])]
)
async def test_many_operations_go_through(tmp_path: Path, count: int) -> None:
    """Put by 32 callers in groups of 20, half of all for one user; taken out without anybody who would send them."""
    users = ["u0" if n % 2 else f"u{n % 200}" for n in range(count)]
    groups = iter([[operation(users[n], n + 1) for n in range(start, start + 20)] for start in range(0, count, 20)])

    async def put_on(outbox: Outbox) -> None:
        for group in groups:
            await outbox.put(group)

    async with outbox_in(tmp_path) as (state, outbox):
        start = time.perf_counter()
        await asyncio.gather(*(put_on(outbox) for _ in range(32)))
        put = time.perf_counter() - start
        assert await outbox.depth() == count
        start = time.perf_counter()
        seen: dict[str, list[int]] = defaultdict(list)
        slowest = 0.0
        while True:
            asked = time.perf_counter()
            batches = await outbox.next_batches(RUN, most_users=32, most_operations=128, now=NOW)
            slowest = max(slowest, time.perf_counter() - asked)
            if not batches:
                break
            for batch in batches:
                seen[batch[0].user_id] += numbers(batch)
            await asyncio.gather(*(outbox.done(batch[0].user_id, {RUN: batch[-1].n}) for batch in batches))
        took = time.perf_counter() - start
        print(f"{count} put at {count / put:.0f}/s, taken at {count / took:.0f}/s, slowest answer {slowest:.3f} s")
        assert sum(map(len, seen.values())) == count
        assert all(len(set(those)) == len(those) for those in seen.values())
        assert await outbox.depth() == 0
        assert state.read_blocking(wrong_in) == []
        assert count / took > 1000
