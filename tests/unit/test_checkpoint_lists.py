"""Lists put together from rows: always the right list, and little to write however it came about."""

from hypothesis import given, settings, strategies as st

from hybrid_memory.sqlite.checkpoints.lists import Known, Layout, compose, remembered, unfolded
from hybrid_memory.sqlite.checkpoints.packing import packed, unpacked
from hybrid_memory.sqlite.checkpoints.rows import Encoded

DIGESTS = st.lists(st.integers(0, 30).map(lambda number: b"%d" % number), max_size=12)
# What a reducer may do: keep so many, then go on with these.
EDITS = st.lists(st.tuples(st.integers(0, 14), DIGESTS, st.booleans()), max_size=60)


class Rows:
    """Rows in memory, as the table holds them."""

    def __init__(self) -> None:
        self.layouts: dict[int, tuple[int | None, str]] = {}
        self.elements: dict[int, list[bytes]] = {}

    def store(self, row: int, digests: list[bytes], previous: Known | None) -> Known:
        made = compose(digests, row, previous)
        self.layouts[row] = made.layout.stored(row)
        self.elements[row] = [digests[index] for index in made.fresh]
        return made.known

    def parsed(self) -> dict[int, Layout]:
        return {row: Layout.of_row(row, *stored) for row, stored in self.layouts.items()}

    def read(self, row: int) -> list[bytes]:
        return [
            self.elements[run.row][run.first + step]
            for run in unfolded(row, self.parsed())
            for step in range(run.length)
        ]

    def recalled(self, row: int) -> Known:
        return remembered(row, self.parsed(), self.elements)


@settings(max_examples=150)
@given(EDITS)
def test_every_list_of_a_random_history_is_read_as_it_was_stored(edits: list[tuple[int, list[bytes], bool]]) -> None:
    rows, known, wanted = Rows(), None, {}
    current: list[bytes] = []
    for number, (kept, added, forgets) in enumerate(edits):
        row = 7 * number + 3  # others' rows lie between
        current = [*current[:kept], *added]
        known = rows.store(row, current, known)
        wanted[row] = current
        if forgets:  # a new process reads what it needs to know
            recalled = rows.recalled(row)
            assert recalled.digests == known.digests
            assert list(recalled.places) == list(known.places)
            assert [(one.row, one.ordinal) for one in recalled.chain] == [(one.row, one.ordinal) for one in known.chain]
            known = recalled
    assert {row: rows.read(row) for row in wanted} == wanted


def test_appending_writes_what_is_appended_and_is_read_in_a_few_steps() -> None:
    rows, known = Rows(), None
    current: list[bytes] = []
    for number in range(2000):
        current.append(b"%d" % number)
        known = rows.store(number, current, known)
        assert rows.elements[number] == [b"%d" % number]
    assert rows.read(1999) == current
    assert known is not None
    assert len(known.chain) <= 11
    assert sum(len(text) for _, text in rows.layouts.values()) / 2000 < 120


def test_elements_that_moved_are_not_written_again() -> None:
    rows = Rows()
    known = rows.store(1, [b"a", b"b", b"c", b"d"], None)
    known = rows.store(2, [b"c", b"d", b"e"], known)
    known = rows.store(3, [b"e", b"d", b"c"], known)
    assert rows.elements == {1: [b"a", b"b", b"c", b"d"], 2: [b"e"], 3: []}
    assert rows.read(3) == [b"e", b"d", b"c"]


@given(st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=50)).map(lambda pair: Encoded(*pair))))
def test_elements_are_packed_and_unpacked(elements: list[Encoded]) -> None:
    assert list(map(Encoded, *unpacked(packed(elements)))) == elements
