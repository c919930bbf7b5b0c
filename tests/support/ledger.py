"""What a client was told about each of its writes, held against what is stored at the end."""

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field

from hybrid_memory.errors import StorageUnavailable


@dataclass
class Ledger:
    """Writes by what became of them; each has a name of its own."""

    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    longest: float = 0

    async def record(self, name: str, write: Awaitable[object]) -> bool:
        """Await the write called `name` and note the answer; whether it was acknowledged."""
        start = time.monotonic()
        try:
            await write
        except StorageUnavailable as error:
            (self.unknown if error.outcome_unknown else self.refused).add(name)
            return False
        else:
            self.acknowledged.add(name)
            return True
        finally:
            self.longest = max(self.longest, time.monotonic() - start)

    def check(self, stored: set[str]) -> None:
        """Acknowledged means stored, refused means not stored, and nothing comes from nowhere."""
        assert not self.acknowledged - stored, f"acknowledged and lost: {sorted(self.acknowledged - stored)[:5]}"
        assert not self.refused & stored, f"reported as not written, but there: {sorted(self.refused & stored)[:5]}"
        known = self.acknowledged | self.unknown | self.refused
        assert not stored - known, f"never written: {sorted(stored - known)[:5]}"
