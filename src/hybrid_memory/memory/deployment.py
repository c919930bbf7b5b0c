"""Which database the copies in `cache.db` are of, also while it is away."""

import json
from functools import partial

from hybrid_memory.blocking import elsewhere
from hybrid_memory.postgres.continuity import Continuity
from hybrid_memory.sqlite.values import CachedValues

_BUCKET = "deployments"


class Deployment:
    """The database at one address: the one that has answered, or the one that did last time.

    How far it was is remembered too: one that is not as far any more was restored while nobody looked.
    """

    def __init__(self, continuity: Continuity, address: str, remembered: CachedValues) -> None:
        self._continuity = continuity
        self._address = address
        self._values = remembered
        self._remembered: tuple[str, int | None] | None = None

    async def identity(self) -> str | None:
        """What tells it from every other database; None when it is away and was never seen from here.

        Raises:
            StorageUnavailable: what is remembered cannot be read or written, or a restore is not settled yet.
        """
        if self._remembered is None and (found := await self._read()) is not None:
            self._remembered = found
            self._continuity.resume(*found)
        answered = await self._continuity.identity()
        if answered is not None and (self._remembered is None or answered != self._remembered[0]):
            await self.remember()
        return answered or (self._remembered[0] if self._remembered else None)

    async def remember(self) -> None:
        """Write down which database it is and how far it was, for the next process.

        Raises:
            StorageUnavailable: it cannot be written, or a restore is not settled yet.
        """
        identity, standing = await self._continuity.identity(), self._continuity.standing
        if identity is None or standing is None:
            return
        now = (identity, standing.position)
        if now != self._remembered:
            await elsewhere(partial(self._values.keep, _BUCKET, self._address, json.dumps(now).encode()))
            self._remembered = now

    async def _read(self) -> tuple[str, int | None] | None:
        found = await elsewhere(partial(self._values.get, _BUCKET, self._address))
        try:
            identity, position = json.loads(found or b"null")
        except (ValueError, TypeError):
            return None
        return identity, position
