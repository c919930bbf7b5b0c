"""Damaged checkpoints: what was lost harms no other thread, and what is left can be used."""

import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_memory import HybridCheckpointer, Retention
from hybrid_memory.errors import CheckpointIncomplete, StateDamaged
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.pages import PAGE_BYTES, Pages
from tests.support.checkpoints import Thread, config_of, rows
from tests.support.sqlite_files import ROOT


def opened(directory: Path) -> HybridCheckpointer:
    return HybridCheckpointer(directory, settings=Settings.without_environment())


def damage(directory: Path, stored: bytes) -> None:
    """Change a text wherever the file has it, and let the next one that opens it save the rest."""
    file = directory / "state.db"
    content = file.read_bytes()
    assert stored in content
    file.write_bytes(content.replace(stored, stored.swapcase()))
    with pytest.raises(StateDamaged, match="intact rows were saved"), opened(directory):
        pass


def test_nobody_inherits_the_checkpoints_of_a_thread_whose_name_was_lost(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpointer:
        Thread(checkpointer, "somebody").put({"a": 1})
        lost = Thread(checkpointer, "lost-thread")
        lost.put({"secret": "s" * 1000})
        lost.write([("secret", "more")])
        lost_id = lost.newest
    damage(tmp_path, b"lost-thread")
    with opened(tmp_path) as checkpointer:
        assert rows(checkpointer) == {
            "checkpoint_lines": 1,
            "checkpoints": 1,
            "checkpoint_values": 0,
            "checkpoint_writes": 0,
        }
        checkpointer.put_writes(config_of("another", lost_id), [("a", 1)], "task of another")
        assert checkpointer.get_tuple(config_of("another")) is None
        assert checkpointer.get_tuple(config_of("somebody")) is not None


@pytest.mark.parametrize("lost", range(6))
def test_a_list_that_lost_a_part_holds_no_upkeep_up(tmp_path: Path, lost: int) -> None:
    texts = [f"element-{number}-" + "x" * 1500 for number in range(6)]
    with opened(tmp_path) as checkpointer:
        thread, later = Thread(checkpointer, "a"), Thread(checkpointer, "b")
        configs = [thread.put({"texts": texts[: number + 1]}) for number in range(6)]
        for number in range(6):
            later.put({"count": number})
    damage(tmp_path, b"element-%d" % lost)
    with opened(tmp_path) as checkpointer:
        assert checkpointer.sweep(Retention(keep_last=5)).checkpoints == 2
        for number in range(1, lost):
            found = checkpointer.get_tuple(configs[number])
            assert found is not None
            assert found.checkpoint["channel_values"] == {"texts": texts[: number + 1]}
        for number in range(max(1, lost), 6):
            with pytest.raises(CheckpointIncomplete):
                checkpointer.get_tuple(configs[number])
        checkpointer.prune(["a", "b"])
        assert rows(checkpointer)["checkpoints"] == 2
        thread.checkpointer = checkpointer
        thread.put({"texts": [*texts, "one more" * 200]})
        assert thread.state() == {"texts": [*texts, "one more" * 200]}


@pytest.mark.parametrize("written", ["before", "since"])
def test_a_rescue_does_not_find_what_was_deleted_and_given_back(tmp_path: Path, written: str) -> None:
    """The pages are still in the file, or in the WAL, behind the end that the database has by then."""
    with opened(tmp_path) as checkpointer:
        Thread(checkpointer, "kept").put({"a": "kept " * 300})
        if written == "before":
            put_secrets(checkpointer)
    command = [sys.executable, "-c", _LEAVE_A_WAL, str(tmp_path), written]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)
    file = tmp_path / "state.db"
    assert b"secret" in file.read_bytes() + file.with_name("state.db-wal").read_bytes()
    with Pages(file) as pages:
        found = b"".join(value for _, row in pages.rows() for value in row if isinstance(value, bytes))
    assert b"kept kept" in found
    assert b"secret" not in found


def test_a_rescue_finds_what_lies_behind_a_frame_that_was_lost(tmp_path: Path) -> None:
    """It is in the file already, behind the end that the last commit before that frame tells."""
    with opened(tmp_path) as checkpointer:
        Thread(checkpointer, "kept").put({"a": "kept " * 300})
    command = [sys.executable, "-c", _LEAVE_A_WAL, str(tmp_path), "copied"]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)
    file = tmp_path / "state.db"
    wal = file.with_name("state.db-wal")
    frames = wal.read_bytes()
    step = 24 + PAGE_BYTES
    lost = 32 + len(frames) // step // 2 * step
    wal.write_bytes(frames[:lost] + bytes(24) + frames[lost + 24 :])
    with Pages(file) as pages:
        found = b"".join(value for _, row in pages.rows() for value in row if isinstance(value, bytes))
    assert b"kept kept" in found
    assert b"secret 19 " in found


def put_secrets(checkpointer: HybridCheckpointer) -> None:
    thread = Thread(checkpointer, "deleted")
    for number in range(20):
        thread.put({"a": f"secret {number} " * 300})


_LEAVE_A_WAL = """
import os, sys
from pathlib import Path
import apsw
from tests.failure.test_checkpoint_damage import opened, put_secrets
checkpointer = opened(Path(sys.argv[1]))
if sys.argv[2] != "before":
    put_secrets(checkpointer)
if sys.argv[2] == "copied":
    apsw.Connection(str(Path(sys.argv[1], "state.db"))).execute("pragma wal_checkpoint(passive)").fetchall()
else:
    checkpointer.delete_thread("deleted")
os._exit(0)
"""
