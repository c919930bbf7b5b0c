"""Who is told of a long load, and what."""

from hybrid_memory.memory.progress import Arrivals
from tests.support.recording import Recorded


def test_everybody_who_listens_is_told() -> None:
    arrivals, one, other = Arrivals("nick", Recorded()), [], []
    with arrivals.heard_by(lambda *told: one.append(told)):
        arrivals.tell(1, 10)
        with arrivals.heard_by(lambda *told: other.append(told)), arrivals.heard_by(None):
            arrivals.tell(5, 10)
    arrivals.tell(10, 10)
    assert (one, other) == ([(1, 10), (5, 10)], [(5, 10)])


def test_rows_that_nobody_counted_have_no_total() -> None:
    told: list[tuple[int, int | None]] = []
    arrivals = Arrivals("nick", Recorded())
    with arrivals.heard_by(lambda *words: told.append(words)):
        arrivals.tell(10, 10)
        arrivals.tell(11, 10)
    assert told == [(10, 10), (11, None)]


def test_a_callback_that_raises_is_named_and_left_out(events: Recorded) -> None:
    calls: list[int] = []

    def broken(rows: int, _: int | None) -> None:
        calls.append(rows)
        raise KeyError("secret text")

    arrivals, other = Arrivals("nick", events), []
    with arrivals.heard_by(broken), arrivals.heard_by(lambda *told: other.append(told)):
        arrivals.tell(1, 2)
        arrivals.tell(2, 2)
    assert (calls, len(other)) == ([1], 2)
    assert events.named("progress_callback_failed") == [{"user_id": "nick", "error": "KeyError"}]


def test_a_long_load_is_logged_now_and_then(events: Recorded) -> None:
    arrivals = Arrivals("nick", events)
    for _ in range(2):
        for rows in range(1000, 25_001, 1000):
            arrivals.tell(rows, 25_000)
    expected = [{"user_id": "nick", "rows": rows, "expected": 25_000} for rows in (10_000, 20_000)]
    assert events.named("loading_progress") == expected * 2
