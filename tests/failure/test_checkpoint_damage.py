"""Damaged checkpoints: what was lost harms no other thread, and what is left can be used."""

from pathlib import Path

import pytest

from hybrid_memory import HybridCheckpointer, Retention
from hybrid_memory.errors import CheckpointIncomplete, StateDamaged
from hybrid_memory.settings import Settings
from tests.support.checkpoints import Thread, config_of, rows


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
