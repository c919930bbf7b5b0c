"""Computed values in `cache.db`: what is lost here is computed again."""

from hybrid_memory.sqlite.database import Database


class CachedValues:
    """Bytes by bucket and key. Calls work in any thread; a wrong value is never given back, a damaged one is gone."""

    def __init__(self, cache: Database) -> None:
        self._cache = cache

    def keep(self, bucket: str, key: str, value: bytes) -> None:
        """Remember a value."""
        self._cache.write_blocking(lambda sql: sql.run("cached_values.keep", bucket=bucket, key=key, value=value))

    def get(self, bucket: str, key: str) -> bytes | None:
        """The value, or None."""
        found: bytes | None = self._cache.read_blocking(
            lambda sql: sql.value("cached_values.get", bucket=bucket, key=key)
        )
        return found
