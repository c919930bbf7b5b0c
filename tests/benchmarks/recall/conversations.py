"""Files in LoCoMo's format: long conversations of two people, questions, and the turns that answer them."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_DATE = "%I:%M %p on %d %B, %Y"
_TURN_ID = re.compile(r"D\d+:\d+")
# The file dates sessions, not turns.
_BETWEEN_TURNS = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as whoever keeps the conversation would add it."""

    message_id: str
    thread_id: str
    name: str
    content: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its category, and the turns that answer it."""

    text: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A session is a thread."""

    name: str
    turns: list[Turn]
    questions: list[Asked]


def read(file: Path) -> list[Conversation]:
    """Questions without a turn that answers them are left out."""
    return [_conversation(one) for one in json.loads(file.read_text())]


def _conversation(raw: dict[str, Any]) -> Conversation:
    sessions = raw["conversation"]
    numbers = sorted(int(found[1]) for key in sessions if (found := re.fullmatch(r"session_(\d+)", key)))
    turns = [
        Turn(said["dia_id"], f"session-{number}", said["speaker"], _content(said), began + place * _BETWEEN_TURNS)
        for number in numbers
        for began in [datetime.strptime(sessions[f"session_{number}_date_time"], _DATE).replace(tzinfo=UTC)]
        for place, said in enumerate(sessions[f"session_{number}"])
    ]
    there = frozenset(turn.message_id for turn in turns)
    asked = [
        Asked(str(one["question"]), int(one["category"]), evidence)
        for one in raw["qa"]
        if (evidence := there.intersection(_TURN_ID.findall(" ".join(map(str, one.get("evidence") or ())))))
    ]
    return Conversation(str(raw.get("sample_id", "")), turns, asked)


def _content(said: dict[str, Any]) -> str:
    caption = said.get("blip_caption")
    return f"{said['text']} [{caption}]" if caption else str(said["text"])
