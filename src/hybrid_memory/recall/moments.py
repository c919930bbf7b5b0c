"""The times that a question speaks of: "last week", "on 3 May", "in maio de 2023" become spans of days.

Both languages are understood at once. The parsers for dates in texts that there are take milliseconds per sentence.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from hybrid_memory.recall.language import plain_words

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan janeiro", "february feb fevereiro", "march marco", "april apr abril", "may maio", "june junho",
            "july julho", "august aug agosto", "september sept setembro", "october oct outubro", "november novembro",
            "december dec dezembro",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_DAYS = {
    name: number
    for number, names in enumerate(
        ("monday segunda", "tuesday terca", "wednesday quarta", "thursday quinta", "friday sexta", "saturday sabado",
         "sunday domingo")
    )
    for name in names.split()
}  # fmt: skip
_UNITS = {
    name: unit
    for unit, names in {
        "day": "day days dia dias", "week": "week weeks semana semanas", "weekend": "weekend weekends",
        "month": "month months mes meses", "year": "year years ano anos",
    }.items()
    for name in names.split()
}  # fmt: skip
_NUMBERS = {
    name: number
    for number, names in enumerate(
        ("a an um uma one", "two dois duas", "three tres", "four quatro", "five cinco", "six seis", "seven sete",
         "eight oito", "nine nove", "ten dez", "eleven onze", "twelve doze"),
        1,
    )
    for name in names.split()
}  # fmt: skip
_NEAR_DAYS = {"today": 0, "tonight": 0, "hoje": 0, "yesterday": 1, "ontem": 1, "anteontem": 2}
_LAST = frozenset(["last", "past", "previous", "passado", "passada", "ultimo", "ultima", "ultimos", "ultimas"])
_THIS = frozenset(["this", "current", "este", "esta", "neste", "nesta", "deste", "desta"])
_AGO = frozenset(["ago", "atras"])
_SINCE = frozenset(["since", "desde"])
_BETWEEN_PARTS = frozenset(["of", "de", "do", "da", "the"])
# Words that are months only where a time is meant: "may" and "march" are verbs too, a bare number is no year.
_TIMELY_ENGLISH = frozenset(
    ["in", "on", "during", "since", "by", "around", "before", "after", "until", "early", "late", "mid"]
)
_TIMELY = _TIMELY_ENGLISH | frozenset(["em", "no", "na", "desde", "durante", "antes", "depois"])
_DOUBTFUL = frozenset(["may", "march"])
_ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th|o)?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_ISO = re.compile(r"\b(\d{4})-(\d\d)(?:-(\d\d))?\b")
# Without one of these, or a year, nothing is a time.
_NAMES = frozenset([*_MONTHS, *_DAYS, *_UNITS, *_NEAR_DAYS])
_YEAR_DIGITS = 4
_UNIT_DAYS = {"day": 1, "week": 7, "weekend": 7, "month": 30.4, "year": 365.25}
_DAY = timedelta(days=1)
_EPOCH = date(1970, 1, 1)
_SATURDAY = 5


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """From the beginning of one day to that of another, which is not part of it."""

    start: date
    end: date

    @property
    def first_day(self) -> int:
        """The first day, in days since 1970."""
        return (self.start - _EPOCH).days

    @property
    def end_day(self) -> int:
        """The day after the last."""
        return (self.end - _EPOCH).days

    def moments(self) -> tuple[datetime, datetime]:
        """Both as moments."""
        return _midnight(self.start), _midnight(self.end)


def may_name_times(words: Sequence[str]) -> bool:
    """Whether it is worth while to look for times in a question of these words: most questions name none."""
    return not _NAMES.isdisjoint(words) or any(len(word) == _YEAR_DIGITS and word.isdecimal() for word in words)


def spans(question: str, now: datetime, years: Sequence[int]) -> list[Span]:
    """What a question says of time, in order. `years` are those that a month without a year may be of."""
    return sorted(set(_found(question, now.astimezone(UTC).date(), years)))


def _found(question: str, today: date, years: Sequence[int]) -> Iterator[Span]:
    for iso in _ISO.finditer(question):
        yield from _calendar(int(iso[1]), int(iso[2]), int(iso[3]) if iso[3] else None)
    said = plain_words(_ISO.sub(" ", question))
    words = [word for word in said if word not in _BETWEEN_PARTS]
    dated = set()
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        after = words[place + 1] if place + 1 < len(words) else ""
        if word in _MONTHS:
            found, used = _month(words, place, today, years)
            dated |= used
            yield from _since(found, words, min(used, default=place), today)
        elif word in _NEAR_DAYS:
            yield _days_from(today - _DAY * _NEAR_DAYS[word], 1)
        elif word in _UNITS:
            yield from _relative(words, place, today)
        elif word in _DAYS and (before in _LAST or after in _LAST):
            yield _days_from(today - _DAY * ((today.weekday() - _DAYS[word] - 1) % 7 + 1), 1)
        elif _YEAR.fullmatch(word) and place not in dated and before in _TIMELY:
            yield from _since([Span(date(int(word), 1, 1), date(int(word) + 1, 1, 1))], words, place, today)


def _month(words: list[str], place: int, today: date, years: Sequence[int]) -> tuple[list[Span], set[int]]:
    """A month with the day and the year that stand next to it; and which words that are."""
    used, day, year = {place}, None, None
    for beside in (place - 1, place + 1):
        word = words[beside] if 0 <= beside < len(words) else ""
        if day is None and beside not in used and (number := _ORDINAL.fullmatch(word)):
            day, used = int(number[1]), used | {beside}
    behind = max(used) + 1
    if behind < len(words) and _YEAR.fullmatch(words[behind]):
        year, used = int(words[behind]), used | {behind}
    before = words[min(used) - 1] if min(used) else ""
    if words[place] in _DOUBTFUL and day is None and year is None and not {before} & (_TIMELY | _LAST | _THIS):
        return [], set()
    month = _MONTHS[words[place]]
    if year is None and before in _LAST:
        year = today.year if month < today.month else today.year - 1
    elif year is None and before in _THIS:
        year = today.year
    return [span for one in ([year] if year else years) for span in _calendar(one, month, day)], used


def _relative(words: list[str], place: int, today: date) -> Iterator[Span]:
    """A unit of time with what makes it a time: "last", "this", "two ... ago", "the last two"."""
    unit, around = _UNITS[words[place]], words[max(0, place - 1) : place + 2]
    before = words[place - 1] if place else ""
    number = int(before) if before.isdecimal() and len(before) < len("0000") else _NUMBERS.get(before)
    if number is not None:
        if (place > 1 and words[place - 2] == "ha") or (place + 1 < len(words) and words[place + 1] in _AGO):
            middle, half = number * _UNIT_DAYS[unit], _UNIT_DAYS[unit] / 2
            yield Span(today - _DAY * round(middle + half - 0.5), today - _DAY * round(middle - half - 0.5))
        elif number > 1 and place > 1 and words[place - 2] in _LAST:
            yield Span(today - _DAY * round(number * _UNIT_DAYS[unit]), today + _DAY)
    elif _LAST & set(around):
        yield _unit(unit, today, back=1)
    elif before in _THIS:
        yield _unit(unit, today, back=0)


def _unit(unit: str, today: date, *, back: int) -> Span:
    """The day, week, weekend, month or year of today, or the one before it."""
    if unit == "year":
        return Span(date(today.year - back, 1, 1), date(today.year - back + 1, 1, 1))
    if unit == "month":
        first = today.replace(day=1)
        first = (first - _DAY).replace(day=1) if back else first
        return Span(first, (first + _DAY * 31).replace(day=1))
    if unit == "day":
        return _days_from(today - _DAY * back, 1)
    monday = today - _DAY * (today.weekday() + 7 * back)
    return _days_from(monday + _DAY * _SATURDAY, 2) if unit == "weekend" else _days_from(monday, 7)


def _since(found: list[Span], words: list[str], place: int, today: date) -> Iterator[Span]:
    since = place > 0 and words[place - 1] in _SINCE
    return (Span(span.start, max(today + _DAY, span.end)) if since else span for span in found)


def _calendar(year: int, month: int, day: int | None) -> Iterator[Span]:
    """A month of a year or a day of it; nothing when there is none such, or no day after it."""
    try:
        first = date(year, month, day or 1)
        found = _days_from(first, 1) if day else Span(first, (first.replace(day=1) + _DAY * 31).replace(day=1))
    except (ValueError, OverflowError):
        return
    yield found


def _days_from(first: date, count: int) -> Span:
    return Span(first, first + _DAY * count)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
