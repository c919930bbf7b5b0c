"""Which database the copies in `cache.db` are of, also while it is away."""

from functools import partial

from hybrid_memory.blocking import elsewhere
from hybrid_memory.postgres.link import Link
from hybrid_memory.sqlite.values import CachedValues

_BUCKET = "deployments"


class Deployment:
    """The database at one address: the one that has answered, or the one that did last time."""

    def __init__(self, link: Link, schema: str, remembered: CachedValues) -> None:
        self._link = link
        self._address = f"{link.address} {schema}"
        self._remembered = remembered
        self._identity: str | None = None

    async def identity(self) -> str | None:
        """What tells it from every other database; None when it is away and was never seen from here.

        Raises:
            StorageUnavailable: what is remembered cannot be read or written.
        """
        answered = self._link.deployment
        if answered is not None and answered != self._identity:
            await elsewhere(partial(self._remembered.keep, _BUCKET, self._address, answered.encode()))
            self._identity = answered
        elif self._identity is None:
            found = await elsewhere(partial(self._remembered.get, _BUCKET, self._address))
            self._identity = found.decode() if found else None
        return self._identity
