"""Events as a list, for looking at what was reported."""

from typing import Any

from hybrid_memory.observability import Event, Events


class Recorded(Events):
    """Events that remember themselves."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        super().__init__(self.seen.append)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The fields of every event of that name, in order."""
        return [dict(event.fields) for event in self.seen if event.name == name]
