"""Damaged files: a cache heals and never serves a wrong row, a state file is noticed and gives back what is intact."""

import itertools
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import pytest

from hybrid_memory.errors import HybridMemoryError, StateDamaged
from hybrid_memory.sqlite import checksum, files
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.damage import examine_rows
from hybrid_memory.sqlite.pages import Found, Pages
from hybrid_memory.sqlite.transient import TransientMemories
from tests.support.recording import Recorded
from tests.support.sqlite_damage import PAGE, TO_A_CACHE, TO_A_STATE, Damage, flipped_in_a_value
from tests.support.sqlite_files import ROOT, cache_in, integrity, note_row, state_in

NOBODY = 65534
CACHED = {f"key {number}": f"value-{number:04}-".encode() * (1 + number % 40) for number in range(300)}


@pytest.fixture(scope="module")
def cache_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache") / "template"
    with cache_in(directory) as (_, values):
        for key, value in CACHED.items():
            values.keep("b", key, value)
    return directory


@dataclass
class Outcome:
    """What became of one damaged cache."""

    wrong: list[str] = field(default_factory=list)
    rebuilt: int = 0


def read_damaged_cache(directory: Path) -> Outcome:
    """Open it, read everything, use it; every failure to heal raises."""
    events, outcome = Recorded(), Outcome()
    with cache_in(directory, events) as (database, values):
        for key, value in CACHED.items():
            seen = values.get("b", key)
            if seen not in (None, value):
                outcome.wrong.append(key)
        for key, value in CACHED.items():
            values.keep("b", key, value)
        assert all(values.get("b", key) == value for key, value in CACHED.items())
        assert database.read_blocking(integrity) == "ok"
    outcome.rebuilt = len(events.named("cache_rebuilt"))
    return outcome


def damage_caches(
    template: Path, to: Path, rng: random.Random, count: int, kinds: Sequence[Damage] = TO_A_CACHE
) -> Iterator[tuple[str, Outcome]]:
    for number, damage in zip(range(count), itertools.cycle(kinds), strict=False):
        directory = shutil.copytree(template, to / f"cache {number}")
        what = damage(directory / "cache.db", rng)
        yield f"{damage.__name__}: {what}", read_damaged_cache(directory)
        shutil.rmtree(directory)


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.campaign)])
def test_a_damaged_cache_heals_and_serves_no_wrong_row(
    cache_template: Path, tmp_path: Path, rng: random.Random, count: int
) -> None:
    rebuilt: Counter[str] = Counter()
    for what, outcome in damage_caches(cache_template, tmp_path, rng, count):
        assert outcome.wrong == [], what
        rebuilt[what.split(":")[0]] += bool(outcome.rebuilt)
    print(f"{count} damaged, {count} healed, 0 wrong rows; rebuilt: {dict(rebuilt)}")
    for surely in ("garbage_header", "deleted", "read_only", "not_a_database", "flipped_in_a_value"):
        assert rebuilt[surely] == count // len(TO_A_CACHE), surely


def test_without_the_checksum_wrong_rows_would_be_served(
    cache_template: Path, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: the campaign above notices when rows are not compared with their checksums."""
    monkeypatch.setattr(checksum, "row_is_intact", lambda *_: True)
    monkeypatch.setattr(checksum.row_is_intact, "__name__", "row_is_intact")
    outcomes = damage_caches(cache_template, tmp_path, rng, 3, [flipped_in_a_value])
    assert all(outcome.wrong for _, outcome in outcomes)


@pytest.mark.parametrize("damage", TO_A_CACHE, ids=lambda damage: damage.__name__)
def test_a_cache_damaged_while_it_is_open_heals_too(
    cache_template: Path, tmp_path: Path, rng: random.Random, damage: Damage
) -> None:
    """The damage is done by another process: an open() here would drop our locks."""
    directory = shutil.copytree(cache_template, tmp_path / "cache")
    with cache_in(directory) as (_, values):
        assert values.get("b", "key 1") == CACHED["key 1"]
        command = [sys.executable, "-c", _DAMAGE, damage.__name__, str(directory / "cache.db"), str(rng.random())]
        subprocess.run(command, check=True, cwd=ROOT, timeout=60)
        for key, value in CACHED.items():
            assert values.get("b", key) in (None, value)
        for key, value in CACHED.items():
            values.keep("b", key, value)
    assert read_damaged_cache(directory).wrong == []


_DAMAGE = """
import random, sys
from pathlib import Path
from tests.support import sqlite_damage
print(getattr(sqlite_damage, sys.argv[1])(Path(sys.argv[2]), random.Random(sys.argv[3])))
"""


def test_a_read_only_cache_is_rebuilt_by_an_ordinary_user(cache_template: Path) -> None:
    """In a process of a user whom modes bind: root writes to read-only files all the same."""
    if os.geteuid() != 0:
        pytest.skip("changing the user takes root; the campaign above covers the case for others")
    with TemporaryDirectory(dir="/tmp") as place:
        # pytest's own place cannot be passed by other users.
        Path(place).chmod(0o711)
        directory = shutil.copytree(cache_template, Path(place, "cache"))
        for file in [directory, *directory.iterdir()]:
            shutil.chown(file, NOBODY, NOBODY)
        (directory / "cache.db").chmod(0o400)
        command = [sys.executable, "-c", _OPEN_AS_NOBODY, str(directory)]
        done = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "cache_rebuilt", done.stderr


_OPEN_AS_NOBODY = """
import os, sys
from pathlib import Path
from tests.support.recording import Recorded
from tests.support.sqlite_files import cache_in
with cache_in(Path(sys.argv[1]).with_name("another")):
    pass  # what is imported late is imported now: this user may not read the interpreter's own files
os.setgid(65534), os.setuid(65534)
events = Recorded()
with cache_in(Path(sys.argv[1]), events) as (_, values):
    values.keep("b", "k", b"v")
print(*[event.name for event in events.seen if event.name == "cache_rebuilt"])
"""


def test_a_cache_of_another_version_is_emptied(cache_template: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(cache_template, tmp_path / "cache")
    connection = apsw.Connection(str(directory / "cache.db"))
    connection.execute("update schema_migrations set checksum = 'that of another version'")
    connection.close()
    assert read_damaged_cache(directory) == Outcome(wrong=[], rebuilt=1)


def test_a_damaged_cache_does_not_touch_the_state(cache_template: Path, tmp_path: Path, rng: random.Random) -> None:
    directory = shutil.copytree(cache_template, tmp_path / "both")
    with state_in(directory) as (_, notes):
        notes.store("t", "kept")
    TO_A_CACHE[5](directory / "cache.db", rng)
    with state_in(directory) as (_, notes), cache_in(directory):
        assert [note.content for note in notes.of_thread("t")] == ["kept"]


# state.db


Notes = dict[tuple[str, str], object]


@dataclass
class Template:
    """A state file that was left behind by a process that did not close it, with what it holds."""

    directory: Path
    notes: Notes
    pages_of: dict[str, set[int]]


def contents(notes: TransientMemories) -> Notes:
    return {
        (note.thread_id, note.node_id): note.content for number in range(20) for note in notes.of_thread(f"t{number}")
    }


class Traced(Pages):
    """Knows which pages the latest row was read from: its leaf and its overflow chain."""

    leaf = 0
    chain: tuple[int, ...] | None = None

    def page(self, number: int) -> bytes:
        if self.chain is None:
            self.leaf = number
        else:
            self.chain = (*self.chain, number)
        return super().page(number)

    def _row(self, page: bytes, place: int) -> Found:
        self.chain = ()
        row = super()._row(page, place)
        self.of_row, self.chain = {self.leaf, *self.chain}, None
        return row


def pages_of_rows(database: Path) -> dict[str, set[int]]:
    """The pages that hold each note."""
    with Traced(database) as pages:
        return {str(values[2]): pages.of_row for _, values in pages.rows() if len(values) == 16}


@pytest.fixture(scope="module", params=["closed", "with a WAL"])
def state_template(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Template:
    directory = tmp_path_factory.mktemp("state") / "template"
    with state_in(directory) as (_, notes):
        for number in range(400):
            text = f"value-{number:08}-" * (600 if number % 50 == 0 else 1 + number % 20)
            content = text if number % 3 else {"text": text, "n": number}
            notes.store(f"t{number % 20}", content, tags=["a"], importance=0.1)
        for note in notes.of_thread("t7")[::3]:
            notes.forget("t7", note.node_id)
    if request.param == "with a WAL":
        subprocess.run([sys.executable, "-c", _LEAVE_A_WAL, str(directory)], check=True, cwd=ROOT, timeout=60)
        assert (directory / "state.db-wal").stat().st_size > 0
    look = shutil.copytree(directory, directory.with_name("look"))
    pages = pages_of_rows(look / "state.db")
    with state_in(look) as (database, notes):
        known = contents(notes)
        assert database.read_blocking(lambda sql: sql.connection.pragma("freelist_count")) == 0
    assert pages.keys() == {node_id for _, node_id in known}, "the test does not see every row"
    return Template(directory, known, pages)


_LEAVE_A_WAL = """
import os, sys
from pathlib import Path
from hybrid_memory.observability import Events
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.transient import TransientMemories
database = Database(STATE, Path(sys.argv[1]), Events())
database.open()
notes = TransientMemories(database)
for number in range(40):
    notes.store(f"t{number % 20}", f"value-{number:08}-late" * 10)
os._exit(0)
"""


def detected(directory: Path) -> Recorded:
    """Open and read until the damage shows and the file is healed; the events of that."""
    events = Recorded()
    for _ in range(3):
        try:
            with state_in(directory, events) as (_, notes):
                contents(notes)
                if events.named("state_salvaged"):
                    return events
        except StateDamaged:
            continue
    pytest.fail("the damage was not noticed")


def changed_pages(template: Template, directory: Path) -> set[int]:
    """What differs for whoever reads through the WAL, which may hold a newer copy of what was damaged."""
    before, after = (folder / "state.db" for folder in (template.directory, directory))
    with Pages(before) as old, Pages(after) as new:
        return {number for number in range(1, old.count + 1) if old.page(number) != new.page(number)}


def damage_states(template: Template, to: Path, rng: random.Random, count: int) -> Iterator[tuple[str, Path, set[int]]]:
    """Copies of the template in which something was damaged that no WAL covers."""
    kinds = itertools.cycle(TO_A_STATE)
    for number in itertools.count():
        directory = shutil.copytree(template.directory, to / f"state {number}")
        damage = next(kinds)
        what = f"{damage.__name__}: {damage(directory / 'state.db', rng)}"
        changed = changed_pages(template, directory)
        if changed:
            count -= 1
            yield what, directory, changed
        shutil.rmtree(directory)
        if not count:
            return


@pytest.mark.parametrize("count", [7, pytest.param(50, marks=pytest.mark.campaign)])
def test_a_damaged_state_is_noticed_and_gives_back_every_intact_row(
    state_template: Template, tmp_path: Path, rng: random.Random, count: int
) -> None:
    noticed = kept_rows = lost_rows = 0
    for what, directory, changed in damage_states(state_template, tmp_path, rng, count):
        intact = {node_id for node_id, pages in state_template.pages_of.items() if not pages & changed}
        events = detected(directory)
        with state_in(directory) as (database, notes):
            kept = contents(notes)
            assert database.read_blocking(integrity) == "ok"
            notes.store("t0", "and it goes on")
        assert kept.items() <= state_template.notes.items(), f"{what}: a row was changed or came back"
        assert intact <= {node_id for _, node_id in kept}, f"{what}: an intact row was not kept"
        (salvaged,) = events.named("state_salvaged")
        assert salvaged["rows"] == len(kept)
        noticed += 1
        kept_rows += len(kept)
        lost_rows += len(state_template.notes) - len(kept)
    print(f"{noticed} damaged and noticed, every intact row kept: {kept_rows} rows kept, {lost_rows} damaged")
    assert noticed == count


def test_without_its_root_every_row_is_saved_and_the_error_says_so(state_template: Template, tmp_path: Path) -> None:
    directory = shutil.copytree(state_template.directory, tmp_path / "state")
    without_inner_pages(directory / "state.db")
    with pytest.raises(StateDamaged) as told, state_in(directory):
        pass
    (folder,) = directory.glob("state.db.damaged-*")
    assert f"{len(state_template.notes)} intact rows were saved" in str(told.value)
    assert str(folder) in str(told.value)
    with state_in(directory) as (_, notes):
        assert contents(notes) == state_template.notes


def test_a_rescue_that_was_interrupted_is_finished_at_the_next_start(
    state_template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(state_template.directory, tmp_path / "state")
    without_inner_pages(directory / "state.db")
    set_aside = files.set_aside

    def and_die(path: Path, folder: Path) -> Path:
        set_aside(path, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "set_aside", and_die)
    with pytest.raises(KeyboardInterrupt), state_in(directory):
        pass
    assert not (directory / "state.db").exists()
    with state_in(directory) as (_, notes):
        assert contents(notes) == state_template.notes


def without_inner_pages(database: Path) -> None:
    """Zero the first page, all inner pages and all indexes, and the WAL's copies of them."""
    with Pages(database) as pages:
        kept = [bytes(PAGE)] + [pages.page(number) for number in range(2, pages.count + 1)]
    database.write_bytes(b"".join(bytes(PAGE) if page[0] in (0x02, 0x05, 0x0A) else page for page in kept))
    database.with_name("state.db-wal").unlink(missing_ok=True)


_CHANGE = "update transient_memories set content = '\"changed\"' where node_id = ?"


def test_the_examination_ends_when_its_time_is_over(tmp_path: Path) -> None:
    """A damaged row among many is found in the time for it, and does not hold up a start without."""
    with state_in(tmp_path) as (database, _):

        def fill_and_examine(sql: Statements) -> None:
            for number in range(2000):
                note_row(sql, "t", str(number))
            sql.connection.execute(_CHANGE, ("1999",)).close()
            examine_rows(sql, 0)
            with pytest.raises(apsw.CorruptError):
                examine_rows(sql, 30)

        database.write_blocking(fill_and_examine)


def test_others_keep_their_file_until_everybody_has_stopped(tmp_path: Path) -> None:
    """A damaged file in use is not replaced under those who use it."""
    with state_in(tmp_path) as (first, notes):
        node_id = notes.store("t", "value-1")
        notes.store("t", "value-2")
        first.write_blocking(lambda sql: sql.connection.execute(_CHANGE, (node_id,)).close())
        with pytest.raises(StateDamaged, match="damaged"):
            notes.of_thread("t")
        with pytest.raises(StateDamaged, match="takes nothing more"):
            notes.store("t", "value-3")
        with state_in(tmp_path) as (_, second):
            assert second.of_thread("another") == []
    events = Recorded()
    with pytest.raises(HybridMemoryError, match="1 intact rows were saved"), state_in(tmp_path, events):
        pass
    (salvaged,) = events.named("state_salvaged")
    assert salvaged["reason"] == "a process met damage in it"
    assert salvaged["tables"]["transient_memories"] == salvaged["rows"] == 1
    with state_in(tmp_path) as (_, notes):
        assert [note.content for note in notes.of_thread("t")] == ["value-2"]
