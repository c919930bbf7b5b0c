"""The parts of the SQLite side that need no database: versions, checksums, the inbox, errors, presence."""

import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, strategies as st

from hybrid_memory.errors import (
    ConfigurationError,
    SchemaMismatch,
    StateDamaged,
    StorageRejected,
    StorageUnavailable,
)
from hybrid_memory.sqlite import failures
from hybrid_memory.sqlite.checksum import Value, row_checksum, row_is_intact
from hybrid_memory.sqlite.files import CACHE, STATE
from hybrid_memory.sqlite.inbox import Inbox
from hybrid_memory.sqlite.presence import Presence
from hybrid_memory.sqlite.tickets import ThreadTicket
from hybrid_memory.sqlite.version import is_vulnerable, require_safe


@pytest.mark.parametrize(
    ("version", "vulnerable"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.44.7", False),
        ("3.45.0", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.0", True),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.54.1", False),
        ("4.0.0", False),
    ],
)
def test_the_versions_with_the_wal_reset_bug(version: str, vulnerable: bool) -> None:  # noqa: FBT001 - a table
    assert is_vulnerable(version) is vulnerable


def test_a_vulnerable_version_is_refused_and_ours_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"SQLite 3\.51\.2 can corrupt.*install apsw"):
        require_safe("3.51.2")
    require_safe(apsw.sqlite_lib_version())


stored_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9) | stored_text | st.binary()))
def test_the_checksum_is_that_of_the_row_as_sqlite_gives_it_back(row: list[Value]) -> None:
    connection = apsw.Connection(":memory:")
    marks = ", ".join("?" * len(row)) or "null"
    (back,) = connection.execute(f"select {marks}", tuple(row)).fetchall()
    connection.close()
    assert row_checksum("t", *back[: len(row)]) == row_checksum("t", *row)


def test_a_whole_number_counts_the_same_in_a_real_column() -> None:
    assert row_checksum("t", 1.0) == row_checksum("t", 1)
    assert row_checksum("t", 1.5) != row_checksum("t", 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("1",), (1,)),
        (("a",), (b"a",)),
        ((None,), ("",)),
        ((1, 23), (12, 3)),
        (("t3:abc",), ("abc",)),
        ((), (None,)),
    ],
)
def test_rows_that_look_alike_have_different_checksums(one: tuple[Value, ...], other: tuple[Value, ...]) -> None:
    assert row_checksum("t", *one) != row_checksum("t", *other)
    assert row_checksum("t", *one) != row_checksum("u", *one)


def test_every_flipped_bit_shows() -> None:
    text = b"some words of a memory"
    right = row_checksum("t", text)
    assert row_is_intact(right, "t", text)
    for bit in range(len(text) * 8):
        changed = bytearray(text)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(apsw.CorruptError):
            row_is_intact(right, "t", bytes(changed))


# The inbox


def tickets(count: int) -> list[ThreadTicket[Any]]:
    return [ThreadTicket(lambda _: None) for _ in range(count)]


def test_first_come_first_served_over_the_limit() -> None:
    inbox, (a, b, c, d) = Inbox(2), tickets(4)
    for ticket in (a, b, c, d):
        inbox.put(ticket)
    assert (inbox.queued, inbox.in_line) == (2, 2)
    assert inbox.take(1) == [a]
    assert inbox.take(9) == [b, c]
    assert inbox.take(9) == [d]
    assert inbox.take(9) == []


def test_a_withdrawn_job_makes_room() -> None:
    inbox, (a, b, c, d) = Inbox(1), tickets(4)
    for ticket in (a, b, c, d):
        inbox.put(ticket)
    assert inbox.withdraw(c)
    assert inbox.withdraw(a)
    assert inbox.take(9) == [b]
    assert not inbox.withdraw(b)
    assert inbox.take(9) == [d]
    assert (inbox.queued, inbox.in_line) == (0, 0)


def test_a_closed_inbox_hands_out_the_rest_and_takes_nothing() -> None:
    inbox, (a, b) = Inbox(5), tickets(2)
    inbox.put(a)
    inbox.close()
    with pytest.raises(StorageUnavailable, match="closed"):
        inbox.put(b)
    assert not inbox.drained
    assert inbox.take(5) == [a]
    assert inbox.drained


def test_the_end_wakes_who_waits() -> None:
    inbox = Inbox(5)
    waiting = threading.Thread(target=inbox.wait)
    waiting.start()
    inbox.close()
    waiting.join(10)
    assert not waiting.is_alive()


# Errors


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (apsw.FullError("x"), StorageUnavailable),
        (apsw.BusyError("x"), StorageUnavailable),
        (apsw.IOError("x"), StorageUnavailable),
        (apsw.ReadOnlyError("x"), StorageUnavailable),
        (apsw.ConstraintError("x"), StorageRejected),
        (apsw.TooBigError("x"), StorageRejected),
        (OverflowError("x"), StorageRejected),
        (apsw.CorruptError("x"), StateDamaged),
        (apsw.NotADBError("x"), StateDamaged),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), StateDamaged),
        (apsw.SQLError("x"), SchemaMismatch),
    ],
)
def test_errors_of_sqlite_become_ours_and_keep_their_cause(error: Exception, seen: type[Exception]) -> None:
    translated = failures.translate(error, STATE)
    assert type(translated) is seen
    assert translated.__cause__ is error
    assert translated.args[0].startswith("state.db")


def test_every_error_of_apsw_has_a_translation() -> None:
    kinds = [kind for kind in vars(apsw).values() if isinstance(kind, type) and issubclass(kind, apsw.Error)]
    assert len(kinds) > 30
    for kind in kinds:
        assert not isinstance(failures.translate(kind("x"), CACHE), apsw.Error), kind


def test_a_callers_own_error_stays_as_it_is() -> None:
    error = KeyError("x")
    assert failures.translate(error, STATE) is error


def test_only_a_failed_flush_leaves_the_outcome_open() -> None:
    unknown = {
        kind: getattr(failures.translate(kind("x"), STATE), "outcome_unknown", None)
        for kind in (apsw.IOError, apsw.FullError, apsw.BusyError)
    }
    assert unknown == {apsw.IOError: True, apsw.FullError: False, apsw.BusyError: False}


# Presence


def test_only_the_first_is_alone_and_the_last_leaves_it_free(tmp_path: Path) -> None:
    first, second, third = (Presence(tmp_path / "x.db", 1) for _ in range(3))
    with first.enter() as alone:
        assert alone
        first.note_made()
    with second.enter() as alone:
        assert not alone
        assert second.was_made
    first.leave()
    second.leave()
    with third.enter() as alone:
        assert alone
    third.leave()


def test_nobody_comes_in_while_the_first_examines(tmp_path: Path) -> None:
    first, second = Presence(tmp_path / "x.db", 1), Presence(tmp_path / "x.db", 0.05)
    with first.enter(), pytest.raises(StorageUnavailable, match="examining"), second.enter():
        pass
    with second.enter():
        pass
    first.leave()
    second.leave()
