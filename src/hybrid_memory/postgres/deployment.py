"""The table `deployment`: which database this is."""

from hybrid_memory.errors import SchemaMismatch
from hybrid_memory.postgres.access import Access


async def deployment_of(database: Access) -> str:
    """What tells this database from every other one.

    Raises:
        SchemaMismatch: somebody emptied the table.
    """
    rows = await database.call("schema.deployment")
    if not rows:
        raise SchemaMismatch("the table deployment is empty: run `hybrid-memory init --recreate`")
    return str(rows[0]["epoch"])
