"""The schema on each server version, as a non-superuser owner and a runtime role."""

from hybrid_memory.postgres.target import Targets
from tests.support.servers import administration, connection_to


async def test_first(each_targets: Targets) -> None:
    async with connection_to(each_targets.runtime) as connection:
        assert await connection.fetchval("select count(*) from memory.nodes") == 0
    async with administration(each_targets) as connection:
        assert await connection.fetchval("select rolsuper from pg_roles where rolname = 'hybrid_memory_owner'") is False
