"""What the benchmark of recall takes a file to say, and what it measures."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.recall.conversations import read
from tests.benchmarks.recall.measures import Answer, mean_recall

FILE = [
    {
        "sample_id": "two friends",
        "conversation": {
            "speaker_a": "Ann",
            "session_10_date_time": "9:05 pm on 3 February, 2024",
            "session_10": [{"speaker": "Ann", "dia_id": "D10:1", "text": "Back from the sea"}],
            "session_2_date_time": "1:30 pm on 1 January, 2024",
            "session_2": [
                {"speaker": "Bob", "dia_id": "D2:1", "text": "Look", "blip_caption": "a red kite"},
                {"speaker": "Ann", "dia_id": "D2:2", "text": "Nice"},
            ],
            "session_3_date_time": "1:30 pm on 2 January, 2024",
        },
        "qa": [
            {"question": "What did Bob show?", "category": 4, "evidence": ["D2:1"], "answer": "a kite"},
            {"question": "What did they do?", "category": 1, "evidence": ["D2:1; D10:1", "D2:2"]},
            {"question": "And what of this?", "category": 5, "evidence": ["D99:1"]},
            {"question": "Or that?", "category": 5},
        ],
    }
]


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "friends.json"
    file.write_text(json.dumps(FILE))
    [conversation] = read(file)
    assert [turn.message_id for turn in conversation.turns] == ["D2:1", "D2:2", "D10:1"]
    assert conversation.turns[0].content == "Look [a red kite]"
    assert {turn.thread_id for turn in conversation.turns} == {"session-2", "session-10"}
    assert conversation.turns[0].at < conversation.turns[1].at
    assert f"{conversation.turns[2].at:%Y-%m-%d %H:%M}" == "2024-02-03 21:05"
    assert [(one.category, sorted(one.evidence)) for one in conversation.questions] == [
        (4, ["D2:1"]), (1, ["D10:1", "D2:1", "D2:2"]),
    ]  # fmt: skip


def test_what_is_measured() -> None:
    found = [f"wrong {place}" for place in range(20)]
    found[0], found[9], found[10] = "a", "b", "c"
    answer = Answer(1, found, frozenset("abc"))
    assert [answer.recall(page) for page in (5, 10, 20)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert answer.any(5) == 1
    assert answer.ndcg() == pytest.approx((1 + 1 / 3.4594) / (1 + 1 / 1.58496 + 0.5), abs=1e-4)
    assert Answer(2, ["a"], frozenset("a")).ndcg() == 1
    assert Answer(2, ["b"], frozenset("a")).any(20) == 0
    assert mean_recall([answer, Answer(2, ["x"], frozenset("y"))], 1) == pytest.approx(2 / 3)
