"""Words as they meet: languages, and the times a question speaks of."""

from datetime import UTC, date, datetime

import pytest

from hybrid_memory.errors import ConfigurationError
from hybrid_memory.recall.language import Language
from hybrid_memory.recall.moments import spans
from hybrid_memory.settings import Settings

# A Wednesday.
NOW = datetime(2024, 5, 15, 12, tzinfo=UTC)


def terms(text: str, language: str = "english") -> list[str]:
    return list(Language(language).terms(text))


def test_words_meet_without_case_accents_and_endings() -> None:
    assert terms("Crème BRÛLÉE, opportunities: INC0012345") == terms("creme brulee opportunity inc0012345")
    assert terms("painting painted paints") == ["paint"] * 3
    assert terms("What does the status of the boss say?") == ["status", "boss", "say"]
    assert terms("\uff26\uff35\uff2c\uff2c width ß") == ["full", "width", "ss"]
    assert terms("and the of, don't") == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("informação", "informações"),
        ("informacao", "informações"),
        ("possível", "possiveis"),
        ("viagem", "viagens"),
        ("trabalhando", "trabalhou"),
        ("frequência", "frequencias"),
    ],
)
def test_portuguese_words_meet_with_and_without_accents(one: str, other: str) -> None:
    assert terms(one, "portuguese") == terms(other, "portuguese")
    assert terms(f"o que é que ela disse da {one}", "portuguese") == [
        *terms("disse", "portuguese"),
        *terms(one, "portuguese"),
    ]


def test_any_language_with_stems_will_do_and_others_are_refused() -> None:
    assert terms("Häuser laufen", "german") == ["haus", "lauf"]
    with pytest.raises(ConfigurationError, match=r"HYBRID_MEMORY_LANGUAGE: allowed is one of .*english.*portuguese"):
        Settings(language="klingon")


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("what happened last week?", [("2024-05-06", "2024-05-13")]),
        ("o que aconteceu na semana passada?", [("2024-05-06", "2024-05-13")]),
        ("this week", [("2024-05-13", "2024-05-20")]),
        ("last weekend", [("2024-05-11", "2024-05-13")]),
        ("no mês passado", [("2024-04-01", "2024-05-01")]),
        ("last year", [("2023-01-01", "2024-01-01")]),
        ("yesterday, or was it today?", [("2024-05-14", "2024-05-15"), ("2024-05-15", "2024-05-16")]),
        ("anteontem", [("2024-05-13", "2024-05-14")]),
        ("last Friday", [("2024-05-10", "2024-05-11")]),
        ("last Wednesday", [("2024-05-08", "2024-05-09")]),
        ("na sexta passada", [("2024-05-10", "2024-05-11")]),
        ("12 days ago", [("2024-05-03", "2024-05-04")]),
        ("two weeks ago", [("2024-04-28", "2024-05-05")]),
        ("há duas semanas", [("2024-04-28", "2024-05-05")]),
        ("in the last 30 days", [("2024-04-15", "2024-05-16")]),
        ("In May 2023", [("2023-05-01", "2023-06-01")]),
        ("em maio de 2023", [("2023-05-01", "2023-06-01")]),
        ("on 3 June 2022", [("2022-06-03", "2022-06-04")]),
        ("on June 3rd, 2022", [("2022-06-03", "2022-06-04")]),
        ("em 3 de maio de 2023", [("2023-05-03", "2023-05-04")]),
        ("in December", [("2022-12-01", "2023-01-01"), ("2023-12-01", "2024-01-01")]),
        ("last December", [("2023-12-01", "2024-01-01")]),
        ("last May", [("2023-05-01", "2023-06-01")]),
        ("since March 2023", [("2023-03-01", "2024-05-16")]),
        ("in 2022", [("2022-01-01", "2023-01-01")]),
        ("2023-04-05", [("2023-04-05", "2023-04-06")]),
        ("2023-04", [("2023-04-01", "2023-05-01")]),
        ("may I march on?", []),
        ("room 2023", []),
        ("the 30 February 2022", []),
        ("2023-13-01", []),
        ("open until 9999-12-31", []),
        ("9999-12", []),
        ("at last, a day of rest", []),
        ("ten years", []),
    ],
)
def test_times_in_a_question(question: str, found: list[tuple[str, str]]) -> None:
    expected = [(date.fromisoformat(start), date.fromisoformat(end)) for start, end in found]
    assert [(span.start, span.end) for span in spans(question, NOW, [2022, 2023])] == expected
