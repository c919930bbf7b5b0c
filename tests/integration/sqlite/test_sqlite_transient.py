"""Transient memory: notes of a thread, in order, over restarts, from wherever the caller is."""

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from hybrid_memory.sqlite.transient import TransientMemories
from tests.support.sqlite_files import ROOT, state_in

START = datetime(2026, 11, 21, 12, 0, 0, 123_456, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def test_everything_stored_is_given_back(tmp_path: Path) -> None:
    with state_in(tmp_path) as (database, _):
        notes = TransientMemories(database, Clock())
        node_id = notes.store(
            "t",
            {"found": [1, 2.5, None, True], "ü": "✓"},
            "tool_output",
            summary="what was found",
            tags=["a", "b"],
            metadata={"tool": "search"},
            importance=1,
            confidence=0.25,
            relates_to=["x"],
            depends_on=("y", "z"),
            expires_in=60,
        )
        note = notes.get("t", node_id)
        assert note is not None
        assert note.content == {"found": [1, 2.5, None, True], "ü": "✓"}
        assert (note.context_type, note.content_kind, note.summary) == ("tool_output", "json", "what was found")
        assert (note.tags, note.metadata) == (("a", "b"), {"tool": "search"})
        assert (note.importance, note.confidence) == (1.0, 0.25)
        assert (note.relates_to, note.depends_on) == (("x",), ("y", "z"))
        assert (note.created_at, note.expires_at) == (START, START + timedelta(seconds=60))
        assert notes.of_thread("t") == [note]
        assert notes.get("another thread", node_id) is None


def test_a_string_comes_back_as_the_string(tmp_path: Path) -> None:
    with state_in(tmp_path) as (_, notes):
        note = notes.get("t", notes.store("t", '{"not": "parsed"}'))
        assert note is not None
        assert (note.content, note.content_kind) == ('{"not": "parsed"}', "text")


def test_a_thread_is_listed_in_its_order_and_alone(tmp_path: Path) -> None:
    with state_in(tmp_path) as (_, notes):
        for number in range(30):
            notes.store(f"t{number % 3}", number)
        assert [note.content for note in notes.of_thread("t1")] == list(range(1, 30, 3))
        assert notes.of_thread("t") == []


def test_an_id_of_ones_own_replaces_in_place_and_only_in_its_thread(tmp_path: Path) -> None:
    with state_in(tmp_path) as (_, notes):
        notes.store("t", "first", node_id="mine")
        notes.store("t", "second")
        notes.store("other", "not touched", node_id="mine")
        assert notes.store("t", "changed", node_id="mine") == "mine"
        assert [note.content for note in notes.of_thread("t")] == ["changed", "second"]
        assert [note.content for note in notes.of_thread("other")] == ["not touched"]


def test_notes_survive_a_process_that_dies(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _STORE_AND_DIE, str(tmp_path)], check=True, cwd=ROOT, timeout=60)
    with state_in(tmp_path) as (_, notes):
        assert [note.content for note in notes.of_thread("t")] == [0, 1, 2, 3, 4]
        notes.store("t", 5)
    with state_in(tmp_path) as (_, notes):
        assert [note.content for note in notes.of_thread("t")] == [0, 1, 2, 3, 4, 5]


_STORE_AND_DIE = """
import os, sys
from pathlib import Path
from tests.support.sqlite_files import state_in
with state_in(Path(sys.argv[1])) as (_, notes):
    for number in range(5):
        notes.store("t", number)
    os._exit(0)
"""


def test_expired_notes_are_not_listed_and_are_cleaned_up(tmp_path: Path) -> None:
    clock = Clock()
    with state_in(tmp_path) as (database, _):
        notes = TransientMemories(database, clock)
        short = notes.store("t", "short", expires_in=timedelta(seconds=10))
        notes.store("t", "long", expires_in=100)
        clock.now += timedelta(seconds=10)
        assert [note.content for note in notes.of_thread("t")] == ["long"]
        assert notes.get("t", short) is None
        assert notes.clean_up(timedelta(days=1)) == 1
        assert notes.clean_up(timedelta(days=1)) == 0


def test_threads_are_cleaned_up_by_the_age_of_their_last_note(tmp_path: Path) -> None:
    clock = Clock()
    with state_in(tmp_path) as (database, _):
        notes = TransientMemories(database, clock)
        for thread in ("quiet", "busy"):
            notes.store(thread, 1)
        clock.now += timedelta(hours=2)
        notes.store("busy", 2)
        assert notes.clean_up(timedelta(hours=1)) == 1
        assert notes.of_thread("quiet") == []
        assert [note.content for note in notes.of_thread("busy")] == [1, 2]


def test_notes_can_be_forgotten(tmp_path: Path) -> None:
    with state_in(tmp_path) as (_, notes):
        node_id = notes.store("t", 1)
        notes.store("t", 2)
        assert notes.forget("t", node_id)
        assert not notes.forget("t", node_id)
        assert notes.forget_thread("t") == 1


def test_a_forgotten_note_is_gone_from_the_file(tmp_path: Path) -> None:
    """Whoever reads the file's bytes does not find it either."""
    with state_in(tmp_path) as (_, notes):
        notes.store("t", "a-secret-word" * 1000, node_id="1")
        notes.store("t", "another-secret-word", node_id="2")
        notes.store("t", "kept-word", node_id="3")
        notes.forget("t", "1")
        notes.forget("t", "2")
    content = (tmp_path / "state.db").read_bytes()
    assert b"kept-word" in content
    assert b"secret-word" not in content


text = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def test_any_json_comes_back_as_it_was(tmp_path: Path) -> None:
    with state_in(tmp_path) as (_, notes):

        @settings(max_examples=200, database=None)
        @given(json_values)
        def check(content: Any) -> None:
            note = notes.get("t", notes.store("t", content))
            assert note is not None
            assert json.dumps(note.content) == json.dumps(content)

        check()


@pytest.mark.parametrize("caller", ["a thread", "the event loop's thread"])
def test_calls_take_less_than_a_millisecond_beyond_the_flush(tmp_path: Path, caller: str, rng: random.Random) -> None:
    """Compared with the bare commit of the same moment: the disk is not ours."""
    with state_in(tmp_path) as (database, notes):
        notes.store("warm", "up")

        def measure() -> tuple[float, float, float]:
            stores, flushes, lists = [], [], []
            for number in range(200):
                start = time.perf_counter()
                notes.store("t", {"number": number, "text": "x" * rng.randrange(500)})
                stored = time.perf_counter()
                database.write_blocking(lambda sql: sql.connection.pragma("user_version", number))  # noqa: B023
                flushed = time.perf_counter()
                notes.get("t", "nothing")
                stores.append(stored - start)
                flushes.append(flushed - stored)
                lists.append(time.perf_counter() - flushed)
            return median(stores), median(flushes), median(lists)

        async def on_the_loop() -> tuple[float, float, float]:
            return measure()

        rounds = [asyncio.run(on_the_loop()) if caller != "a thread" else measure() for _ in range(3)]
        store, flush, read = min(
            rounds, key=lambda one: one[0] - one[1]
        )  # other work on the machine is not ours either
        print(f"{caller}: store {store * 1000:.3f} ms, bare flush {flush * 1000:.3f} ms, read {read * 1000:.3f} ms")
        assert store - flush < 0.001
        assert read < 0.001


def test_all_threads_can_store_at_once(tmp_path: Path) -> None:
    with state_in(tmp_path) as (_, notes):

        def store_fifty(name: str) -> None:
            for number in range(50):
                notes.store(name, number)

        threads = [threading.Thread(target=store_fifty, args=(name,)) for name in "abcdef"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for name in "abcdef":
            assert [note.content for note in notes.of_thread(name)] == list(range(50))
