"""Threads go from the stock saver to ours and back, and go on there as if nothing had happened."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from hybrid_memory import HybridCheckpointer, Settings
from hybrid_memory.errors import ConfigurationError, InvalidInput, StorageUnavailable
from hybrid_memory.observability import Events
from hybrid_memory.transfer.checkpoints import export_checkpoints, import_checkpoints
from hybrid_memory.transfer.verbatim import VerbatimSerializer
from tests.conformance.graphs.desk import stored_story
from tests.support import paused_graphs
from tests.support.children import Child
from tests.support.commands import run_with
from tests.support.paused_graphs import Order, begin, config, finish, graph_of
from tests.support.sqlite_guard import watched

Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the stock saver with threads that wait; to be copied, not to be changed."""
    file = tmp_path_factory.mktemp("begun") / "stock.db"
    with stock(file) as saver:
        begin(saver)
    return file


@pytest.fixture
def file(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(begun, tmp_path / "stock.db"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """How the threads end when they stay where they are."""
    saver = InMemorySaver(serde=serde())
    begin(saver)
    return finish(saver)


def serde() -> Any:
    return JsonPlusSerializer(allowed_msgpack_modules=[(Order.__module__, "Order")])


@contextmanager
def stock(file: Path, serializer: Any = None) -> Iterator[SqliteSaver]:
    with closing(sqlite3.connect(file, check_same_thread=False)) as connection:
        yield SqliteSaver(connection, serde=serializer or serde())


@contextmanager
def ours(settings: Settings) -> Iterator[HybridCheckpointer]:
    with HybridCheckpointer(settings=settings, allowed_types=[Order]) as checkpointer:
        yield checkpointer


def rows_of(file: Path) -> Rows:
    """Every row; objects as their bytes, and mappings whatever their order."""
    with closing(sqlite3.connect(file)) as connection:
        checkpoints = connection.execute("select * from checkpoints order by 1, 2, 3").fetchall()
        writes = connection.execute("select * from writes order by 1, 2, 3, 4, 6").fetchall()
    verbatim = VerbatimSerializer()
    return {
        "checkpoints": [
            (*address, verbatim.loads_typed((kind, content)), json.loads(metadata))
            for *address, kind, content, metadata in checkpoints
        ],
        "writes": writes,
    }


def everything(saver: BaseCheckpointSaver[str]) -> list[str]:
    return stored_story(list(saver.list(None)), ())


def test_threads_of_the_stock_saver_end_here(file: Path, settings: Settings, expected: dict[str, Any]) -> None:
    import_checkpoints(file, settings)
    with ours(settings) as checkpointer:
        assert finish(checkpointer) == expected


def test_our_threads_end_under_the_stock_saver(tmp_path: Path, settings: Settings, expected: dict[str, Any]) -> None:
    with ours(settings) as checkpointer:
        begin(checkpointer)
    export_checkpoints(tmp_path / "new.db", settings)
    with stock(tmp_path / "new.db") as saver:
        assert finish(saver) == expected


async def test_the_asynchronous_stock_saver_reads_what_was_exported(
    tmp_path: Path, settings: Settings, expected: dict[str, Any]
) -> None:
    with ours(settings) as checkpointer:
        begin(checkpointer)
    export_checkpoints(tmp_path / "new.db", settings)
    async with aiosqlite.connect(tmp_path / "new.db") as connection:
        saver = AsyncSqliteSaver(connection, serde=serde())
        assert await asyncio.to_thread(finish, saver) == expected


def test_there_and_back_is_the_same_file(file: Path, tmp_path: Path, settings: Settings) -> None:
    """Checkpoints, writes, their numbers, paths and parents, and every object byte by byte."""
    import_checkpoints(file, settings)
    export_checkpoints(tmp_path / "back.db", settings)
    assert rows_of(tmp_path / "back.db") == rows_of(file)


def test_both_tell_the_same(file: Path, settings: Settings) -> None:
    """Values, metadata, parents and pending writes of every checkpoint in every namespace, and searching for them."""
    import_checkpoints(file, settings)
    with stock(file) as saver, ours(settings) as checkpointer:
        assert everything(checkpointer) == everything(saver)
        for wanted in ({"purpose": "test of chat"}, {"level": 3, "source": "loop"}, {"step": 1}, {"level": 4}):
            found, known = (
                [one.config["configurable"] for one in each.list(None, filter=wanted)] for each in (checkpointer, saver)
            )
            assert sorted(map(str, found)) == sorted(map(str, known))


def test_importing_again_changes_nothing(file: Path, settings: Settings, tmp_path: Path) -> None:
    before, first = file.read_bytes(), import_checkpoints(file, settings)
    with ours(settings) as checkpointer:
        story = everything(checkpointer)
    again = import_checkpoints(file, settings)
    with ours(settings) as checkpointer:
        assert everything(checkpointer) == story
    assert (first.moved.checkpoints, first.moved.threads) == (first.moved.new_checkpoints, len(paused_graphs.THREADS))
    assert (again.moved.checkpoints, again.moved.new_checkpoints, again.moved.new_writes) == (
        first.moved.checkpoints, 0, 0,
    )  # fmt: skip
    assert file.read_bytes() == before
    export_checkpoints(tmp_path / "new.db", settings)
    rows = rows_of(tmp_path / "new.db")
    assert export_checkpoints(tmp_path / "new.db", settings).moved.new_checkpoints == 0
    assert rows_of(tmp_path / "new.db") == rows


def test_importing_again_brings_what_is_new_there(file: Path, settings: Settings, expected: dict[str, Any]) -> None:
    import_checkpoints(file, settings)
    with stock(file) as saver:
        assert finish(saver) == expected
        story = everything(saver)
    again = import_checkpoints(file, settings)
    assert again.moved.new_checkpoints > 0
    assert again.moved.new_writes > again.moved.new_checkpoints
    with ours(settings) as checkpointer:
        assert everything(checkpointer) == story


def test_importing_again_leaves_what_went_on_here(file: Path, settings: Settings, expected: dict[str, Any]) -> None:
    import_checkpoints(file, settings)
    with ours(settings) as checkpointer:
        assert finish(checkpointer) == expected
        story = everything(checkpointer)
    assert import_checkpoints(file, settings).moved.new_writes == 0
    with ours(settings) as checkpointer:
        assert everything(checkpointer) == story


@pytest.mark.parametrize("transfer", [import_checkpoints, export_checkpoints])
def test_an_interrupted_transfer_is_repeated(
    transfer: Callable[..., Any], file: Path, tmp_path: Path, settings: Settings, expected: dict[str, Any]
) -> None:
    target = file
    if transfer is export_checkpoints:
        import_checkpoints(file, settings)
        target = tmp_path / "new.db"

    def stop(looked_at: int, total: int) -> None:
        assert total > 20
        if looked_at == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(target, settings, progress=stop)
    assert transfer(target, settings).moved.new_checkpoints > 0
    if transfer is import_checkpoints:
        with ours(settings) as checkpointer:
            assert finish(checkpointer) == expected
    else:
        assert rows_of(target) == rows_of(file)


def test_what_pruning_keeps_out_of_sight_comes_along(tmp_path: Path, settings: Settings) -> None:
    """A DeltaChannel is rebuilt from ancestors that no listing shows any more."""
    with ours(settings) as checkpointer:
        begin(checkpointer)
        whole = graph_of("delta", checkpointer).get_state(config("delta")).values
        checkpointer.prune(["delta"])
        assert graph_of("delta", checkpointer).get_state(config("delta")).values == whole
    export_checkpoints(tmp_path / "new.db", settings)
    with stock(tmp_path / "new.db") as saver:
        graph = graph_of("delta", saver)
        assert graph.get_state(config("delta")).values == whole
        assert graph.invoke(Command(resume="on"), config("delta"))["words"][-2:] == ["turn 3", "7 on"]


def test_progress_comes_to_its_end(file: Path, settings: Settings) -> None:
    seen: list[tuple[int, int]] = []
    done = import_checkpoints(file, settings, progress=lambda *at: seen.append(at))
    assert seen == [(number, done.moved.checkpoints) for number in range(1, done.moved.checkpoints + 1)]


def test_types_that_are_not_allowed_are_named_and_not_lost(file: Path, settings: Settings) -> None:
    name = f"{Order.__module__}:Order"
    assert import_checkpoints(file, settings).not_allowed == [name]
    with HybridCheckpointer(settings=settings) as strict, pytest.raises(ConfigurationError, match=name):
        strict.get_tuple(config("children"))
    allowed = settings.model_copy(update={"allowed_types": (name,)})
    assert import_checkpoints(file, allowed).not_allowed == []
    with HybridCheckpointer(settings=allowed) as open_to_it:
        assert graph_of("children", open_to_it).get_state(config("children")).values == {"words": [Order(1)]}


def leave_a_log(events: Events, file: str) -> None:
    """Write and wait to be killed, so that the last steps are in the log beside the file alone."""
    connection = sqlite3.connect(file, check_same_thread=False)
    connection.execute("pragma wal_autocheckpoint = 0")
    begin(SqliteSaver(connection, serde=serde()))
    events.info("begun")


def test_the_file_of_a_process_that_was_killed(tmp_path: Path, settings: Settings, expected: dict[str, Any]) -> None:
    file = tmp_path / "killed.db"
    with Child(leave_a_log, {"file": str(file)}, stop_at="begun") as child:
        child.reached()
        child.kill()
    assert file.with_name("killed.db-wal").stat().st_size > file.stat().st_size
    import_checkpoints(file, settings)
    with ours(settings) as checkpointer:
        assert finish(checkpointer) == expected


def test_a_file_from_before_writes_had_paths(file: Path, settings: Settings, expected: dict[str, Any]) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("alter table writes drop column task_path")
    import_checkpoints(file, settings)
    with ours(settings) as checkpointer:
        assert finish(checkpointer)["ended"].keys() == expected["ended"].keys()


class Rot13:
    """A cipher one can see through."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "rot", bytes((byte + 13) % 256 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "rot"
        return bytes((byte - 13) % 256 for byte in ciphertext)


def test_encrypted_values_need_the_cipher(tmp_path: Path, settings: Settings, expected: dict[str, Any]) -> None:
    encrypted = EncryptedSerializer(Rot13(), serde())
    with stock(tmp_path / "encrypted.db", encrypted) as saver:
        begin(saver)
    with pytest.raises(InvalidInput, match=r"encrypted \(msgpack\+rot\)"):
        import_checkpoints(tmp_path / "encrypted.db", settings)
    import_checkpoints(tmp_path / "encrypted.db", settings, cipher=Rot13())
    with HybridCheckpointer(settings=settings, serde=encrypted, allowed_types=[Order]) as checkpointer:
        assert finish(checkpointer) == expected


def test_a_pickled_value_is_not_read(file: Path, settings: Settings) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("update writes set type = 'pickle' where rowid = 5")
        connection.commit()
    with pytest.raises(InvalidInput, match="pickled"):
        import_checkpoints(file, settings)


@pytest.mark.parametrize("transfer", [import_checkpoints, export_checkpoints])
class TestNoFileOfThatKind:
    def test_text(self, transfer: Callable[..., Any], tmp_path: Path, settings: Settings) -> None:
        (tmp_path / "text").write_text("no database at all " * 100)
        with pytest.raises(InvalidInput, match="text is no checkpoint file of langgraph-checkpoint-sqlite"):
            transfer(tmp_path / "text", settings)

    def test_a_database_of_something_else(
        self, transfer: Callable[..., Any], tmp_path: Path, settings: Settings
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
            connection.execute("create table checkpoints (thread_id text)")
        before = (tmp_path / "other.db").read_bytes()
        with pytest.raises(InvalidInput, match="is no checkpoint file"):
            transfer(tmp_path / "other.db", settings)
        assert (tmp_path / "other.db").read_bytes() == before

    def test_a_directory(self, transfer: Callable[..., Any], tmp_path: Path, settings: Settings) -> None:
        with pytest.raises(InvalidInput, match=r"no such file|no file can be made"):
            transfer(tmp_path, settings)

    def test_one_of_ours(self, transfer: Callable[..., Any], tmp_path: Path, settings: Settings) -> None:
        """Under whatever name: two SQLite libraries must not meet in one file."""
        with ours(settings):
            state = settings.data_dir / "state.db"
            (tmp_path / "link.db").symlink_to(state)
            (tmp_path / "hard.db").hardlink_to(state)
            with watched() as watch:
                for name in (state, tmp_path / "link.db", tmp_path / "hard.db"):
                    with pytest.raises(InvalidInput, match=r"is state\.db of this library"):
                        transfer(name, settings)
            assert watch.seen == []

    def test_a_damaged_one(self, transfer: Callable[..., Any], file: Path, settings: Settings) -> None:
        with ours(settings) as checkpointer:
            begin(checkpointer)
        content = bytearray(file.read_bytes())
        content[4096:] = bytes(len(content) - 4096)
        file.write_bytes(content)
        with pytest.raises(StorageUnavailable, match=r"stock\.db is damaged"):
            transfer(file, settings)


def test_a_missing_file_is_not_made(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match="there is no such file"):
        import_checkpoints(tmp_path / "none.db", settings)
    assert not (tmp_path / "none.db").exists()
    assert not settings.data_dir.exists()


@pytest.mark.parametrize("name", ["state.db", "cache.db"])
def test_nothing_is_exported_to_where_a_file_of_ours_will_be(settings: Settings, name: str) -> None:
    settings.data_dir.mkdir()
    with pytest.raises(InvalidInput, match=f"is {name} of this library"):
        export_checkpoints(settings.data_dir / name, settings)
    assert list(settings.data_dir.iterdir()) == []


def test_neither_side_is_opened_by_the_others_library(file: Path, tmp_path: Path, settings: Settings) -> None:
    with watched() as watch:
        import_checkpoints(file, settings)
        export_checkpoints(tmp_path / "new.db", settings)
    assert watch.seen == []


def test_the_command(file: Path, tmp_path: Path, settings: Settings) -> None:
    where = {"HYBRID_MEMORY_DATA_DIR": str(settings.data_dir)}
    said = run_with(where, "checkpoints", "import", str(file))
    assert "4 thread(s)" in said
    assert f"HYBRID_MEMORY_ALLOWED_TYPES={Order.__module__}:Order" in said
    again = run_with(where, "checkpoints", "import", str(file))
    assert "0 checkpoint(s) and 0 pending write(s) are new there" in again
    run_with(where, "checkpoints", "export", str(tmp_path / "new.db"))
    assert rows_of(tmp_path / "new.db") == rows_of(file)
    assert "is no checkpoint file" in run_with(where, "checkpoints", "import", __file__, code=1)


def test_a_resume_is_not_lost_on_the_way(file: Path, settings: Settings) -> None:
    """One of three questions is answered under the stock saver, the others here."""
    with stock(file) as saver:
        waiting = {one.value: one.id for one in graph_of("siblings", saver).get_state(config("siblings")).interrupts}
        graph_of("siblings", saver).invoke(Command(resume={waiting["b"]: "B"}), config("siblings"))
    import_checkpoints(file, settings)
    with ours(settings) as checkpointer:
        graph = graph_of("siblings", checkpointer)
        assert {one.value for one in graph.get_state(config("siblings")).interrupts} == {"a", "c"}
        rest = {waiting["a"]: "A", waiting["c"]: "C"}
        assert graph.invoke(Command(resume=rest), config("siblings")) == {"words": ["worked", "A", "B", "C"]}
