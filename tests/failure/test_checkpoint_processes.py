"""Several processes on one file: nothing is locked, lost or mixed up."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_memory import HybridCheckpointer
from hybrid_memory.settings import Settings
from tests.support.checkpoints import rows
from tests.support.sqlite_files import ROOT


@pytest.mark.parametrize(
    ("processes", "seconds"),
    [(4, 3), pytest.param(4, 600, marks=[pytest.mark.campaign, pytest.mark.timeout(900)])],
)
def test_processes_share_a_file(tmp_path: Path, rng: random.Random, processes: int, seconds: float) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.checkpoint_child", str(tmp_path), f"p{number}", str(seconds),
             str(rng.randrange(2**32))],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    answers = [child.communicate(timeout=seconds + 90) for child in children]
    assert [errors for _, errors in answers] == [""] * processes
    done = [json.loads(answer) for answer, _ in answers]
    print(f"{processes} processes, {seconds} s: {[sum(one.values()) for one in done]} calls")
    assert all(one["put"] > 5 for one in done)
    with HybridCheckpointer(tmp_path, settings=Settings.without_environment()) as checkpointer:
        assert rows(checkpointer)["checkpoints"] > 0
        database = checkpointer._state.database()
        check = database.read_blocking(lambda sql: sql.connection.execute("pragma integrity_check").fetchall())
        assert check == [("ok",)]
        leftovers = database.read_blocking(lambda sql: sql.connection.execute(_LEFT_OVER).fetchall())
        assert leftovers == [(0, 0, 0)]
        for thread in checkpointer.threads():
            list(checkpointer.list({"configurable": {"thread_id": thread.thread_id}}))


# Rows of lines that are not there, and values that nothing leads to although their line was never shortened.
_LEFT_OVER = """
select (select count(*) from checkpoints where line not in (select line from checkpoint_lines)),
       (select count(*) from checkpoint_values where line not in (select line from checkpoint_lines)),
       (select count(*) from checkpoint_writes where line not in (select line from checkpoint_lines))
"""
