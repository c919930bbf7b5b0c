"""Types of a graph's state, at the top of a module, so that they can be restored."""

from dataclasses import dataclass
from enum import Enum

from pydantic import BaseModel

CALLED: list[str] = []


class Order(BaseModel):
    number: int
    lines: list[str] = []


@dataclass
class Address:
    street: str
    number: int = 1


class Colour(Enum):
    RED = "red"


class Trap:
    """Something nobody allowed: making one leaves a trace."""

    def __init__(self, *_: object, **__: object) -> None:
        CALLED.append("trap")
