"""The hot queries use the index made for them, as the runtime role sees the tables: with row security."""

import itertools
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from pgvector import Vector
from pgvector.asyncpg import register_vector

from hybrid_memory import queries
from hybrid_memory.postgres.target import Targets
from hybrid_memory.queries import sql_root
from tests.support.rows import fact_row
from tests.support.servers import Server, administration, connection_to

USERS = 40
PER_USER = 500
EDGES_PER_NODE = 4
READ = """select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables
          where schemaname = 'memory' and relname = 'nodes'"""


async def forty_users(targets: Targets) -> None:
    """Forty users with five hundred memories each, in threads of fifty, of ten types, a few with an expiry."""
    async with administration(targets) as connection:
        await connection.execute(
            """
            insert into memory.nodes (user_id, node_id, context_type, content, tags, thread_id, seq, version,
                                      created_at, expires_at, namespace, key)
            select 'u' || u, md5(u || ':' || i)::uuid,
                   case when i % 10 = 0 then 'domain_entity' else 't' || i % 10 end,
                   jsonb_build_object('entity_system', 's', 'entity_id', i::text), array['tag' || i % 20],
                   'thread' || i / 50, i, i, now() - i * interval '1 minute',
                   case when i % 50 = 0 then now() + i * interval '1 minute' end,
                   case when i % 25 = 0 then array['docs', 'n' || i % 3] end, case when i % 25 = 0 then i::text end
            from generate_series(1, $1::int) u, generate_series(1, $2::int) i
            """,
            USERS,
            PER_USER,
        )
        await connection.execute(
            """
            insert into memory.relationships (user_id, from_node_id, to_node_id, relationship_type, version)
            select 'u' || u, md5(u || ':' || i)::uuid, md5(u || ':' || (i * 7 + j) % $2::int + 1)::uuid, 'led_to', i
            from generate_series(1, $1::int) u, generate_series(1, $2::int) i, generate_series(1, $3::int) j
            """,
            USERS,
            PER_USER,
            EDGES_PER_NODE,
        )
        await connection.execute(
            "insert into memory.tombstones (user_id, node_id, version, written_at, written_by)"
            " select user_id, node_id, version, now(), written_by from memory.nodes"
        )
        await connection.execute(
            "insert into memory.embeddings (user_id, node_id, model, dimensions, embedding, version)"
            " select user_id, node_id, 'm', 3, '[1,2,3]', version from memory.nodes"
        )
        await connection.execute("insert into memory.user_metadata select 'u' || u from generate_series(1, 2000) u")
        await connection.execute("vacuum analyze")


@pytest.fixture
async def filled(each_server: Server) -> AsyncIterator[Targets]:
    """The forty users, for one test alone."""
    async with each_server.database_with(forty_users) as targets:
        yield targets


ONE_ID = UUID("00000000-0000-0000-0000-000000000001")
HOT: list[tuple[str, dict[str, object], str]] = [
    ("nodes.get", {"node_id": ONE_ID}, "nodes_pkey"),
    ("nodes.several", {"node_ids": "{00000000-0000-0000-0000-000000000001}"}, "nodes_pkey"),
    ("nodes.items", {"prefix": "{docs}", "at": "2026-01-01", "most": 10}, "nodes_namespace"),
    ("items.namespaces", {"at": "2026-01-01"}, "nodes_namespace"),
    ("nodes.changed_since", {"version": 490}, "nodes_version"),
    ("nodes.newest", {"context_type": None, "at": "2026-01-01", "most": 10}, "nodes_created"),
    ("nodes.newest", {"context_type": "t3", "at": "2026-01-01", "most": 10}, "nodes_type_created"),
    ("nodes.of_thread", {"thread_id": "thread3", "most": 10}, "nodes_thread"),
    ("nodes.entity", {"entity_system": "s", "entity_id": "40"}, "nodes_entity"),
    ("statistics.of_user", {"at": "2026-01-01"}, "nodes_expiry"),
    ("relationships.changed_since", {"version": 490}, "relationships_version"),
    ("relationships.leading_to", {"node_id": ONE_ID}, "relationships_reverse"),
    ("users.state", {"version": 0}, "user_metadata_pkey"),
    ("users.deleted_since", {"version": 490}, "tombstones_version"),
    ("embeddings.changed_since", {"version": 490, "models": "{m}"}, "embeddings_version"),
]


async def test_each_hot_query_uses_its_index_and_each_index_has_its_query(filled: Targets) -> None:
    used: dict[str, set[str]] = {}
    async with connection_to(filled.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users($1)", ["u7"])
        for name, values, index in HOT:
            plan = await explained(connection, name, {"user_id": "u7"} | values)
            assert index in indexes_of(plan), f"{name} {values}:\n{json.dumps(plan, indent=1)}"
            assert "Seq Scan" not in json.dumps(plan), name
            used.setdefault(index, set()).add(name)
        rows = await connection.fetch(
            "select indexrelid::regclass::text as index from pg_index i join pg_class c on c.oid = i.indrelid"
            " where c.relnamespace = 'memory'::regnamespace and c.relkind = 'r'"
        )
    existing = {row["index"].removeprefix("memory.") for row in rows}
    # Keys without a hot query: uniqueness is what they are for. Contents are looked up by the write path.
    keys = {name for name in existing if name.endswith("_pkey")} | {"nodes_content"}
    assert existing - keys == used.keys() - keys


async def test_memories_are_looked_up_by_their_ids_also_by_a_plan_for_every_user(filled: Targets) -> None:
    """Such a plan takes each user for an average one; reading all of a large one for a few memories takes long."""
    wanted = "array['00000000-0000-0000-0000-000000000001']::uuid[]"
    async with connection_to(filled.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users($1)", ["u7"])
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        query = queries.load("postgres")["nodes.several"]
        types = ", ".join({"user_id": "text"}.get(one, "uuid[]") for one in query.parameters)
        values = ", ".join({"user_id": "'u7'"}.get(one, wanted) for one in query.parameters)
        await connection.execute(f"prepare looked_up ({types}) as {query.text}")
        plan = json.loads(await connection.fetchval(f"explain (format json) execute looked_up ({values})"))
        assert indexes_of(plan[0]["Plan"]) == {"nodes_pkey"}


async def test_identical_memories_are_looked_up_where_most_users_are_small(filled: Targets) -> None:
    text = (sql_root() / "postgres" / "migrations" / "0006_write_batch.sql").read_text()
    found = re.search(r"v_hash is not distinct from \((.*? limit 1)\);", text, re.DOTALL)
    assert found
    async with administration(filled) as connection:
        await connection.execute(
            "insert into memory.nodes (user_id, content, content_hash, version)"
            " select 'small' || i / 5, '{}', sha256(i::text::bytea), i from generate_series(1, 10000) i"
        )
        await connection.execute("analyze memory.nodes")
    async with connection_to(filled.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users($1)", ["u7"])
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        asked = found[1].replace("v_hash", "$1").replace("p_user", "$2")
        await connection.execute(f"prepare looked_up (bytea, text) as {asked}")
        plan = json.loads(await connection.fetchval("explain (format json) execute looked_up ('a', 'u7')"))
        assert indexes_of(plan[0]["Plan"]) == {"nodes_content"}


@pytest.mark.parametrize("statistics", ["analyze memory.nodes", "select"], ids=["analysed", "never analysed"])
async def test_a_write_reads_few_of_many_memories(each_server: Server, statistics: str) -> None:
    apply, writer, writes = queries.load("postgres")["batches.apply"], uuid4(), 10
    async with each_server.migrated_database() as targets:
        async with administration(targets) as connection:
            await connection.execute("alter table memory.nodes set (autovacuum_enabled = off)")
            await connection.execute(
                "insert into memory.nodes (user_id, content, content_hash, version)"
                " select case i % 20 when 0 then 'large' else 'small' || i % 2000 end, '{}', sha256(i::text::bytea), i"
                " from generate_series(1, 40000) i"
            )
            await connection.execute(statistics)
        async with connection_to(targets.runtime) as connection, connection.transaction():
            await register_vector(connection)
            for n in range(1, writes + 1):
                row = fact_row(str(uuid4())) | {"n": n, "only_once": True, "content_hash": f"{n:064x}"}
                row |= {"written_at": "2026-01-01T00:00:00+00:00", "written_by": str(writer)}
                ops = {"nodes": [row], "user_id": "large", "last": n, "oldest": row["written_at"]}
                values = {"user_id": "large", "instance": writer, "ops": json.dumps(ops), "vectors": [], "halves": []}
                await connection.fetch(apply.text, *apply.arguments(values))
            read = await connection.fetchval(
                "select sum(pg_stat_get_xact_tuples_returned(indexrelid)) from pg_index"
                " where indrelid = 'memory.nodes'::regclass"
            )
    assert 0 < read <= 2 * writes


async def test_news_are_looked_up_by_version_by_the_plan_that_is_kept(filled: Targets) -> None:
    """It is made for any version, of which a third of an average user's rows are newer."""
    text = (sql_root() / "postgres" / "migrations" / "0010_freshness.sql").read_text()
    found = re.search(r"return query\n(    select m\.incarnation.*?where m\.user_id = p_user);", text, re.DOTALL)
    assert found
    asked = found[1].replace("p_user", "$1").replace("p_since", "$2")
    async with connection_to(filled.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users($1)", ["u7"])
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        await connection.execute(f"prepare news (text, bigint) as {asked}")
        plan = json.loads(await connection.fetchval("explain (format json) execute news ('u7', 490)"))[0]["Plan"]
        used = {"user_metadata_pkey", "nodes_version", "relationships_version", "tombstones_version"}
        assert indexes_of(plan) == used
        assert "Seq Scan" not in json.dumps(plan)
        modes = await connection.fetchval("select proconfig from pg_proc where proname = 'news_of'")
        assert modes == ["plan_cache_mode=force_generic_plan"]


async def test_a_whole_user_is_read_without_touching_others(filled: Targets) -> None:
    async with connection_to(filled.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users($1)", ["u7"])
        for name, rows in (
            ("nodes.changed_since", PER_USER),
            ("relationships.changed_since", PER_USER * EDGES_PER_NODE),
        ):
            plan = await explained(connection, name, {"user_id": "u7", "version": -1}, analyze=True)
            assert plan["Actual Rows"] == rows
            assert "Seq Scan" not in json.dumps(plan), name


async def test_who_has_something_to_be_swept_is_told_from_the_index_of_what_expires(filled: Targets) -> None:
    text = (sql_root() / "postgres" / "migrations" / "0007_housekeeping.sql").read_text()
    found = re.search(r"return query (select distinct .*? limit p_most)", text, re.DOTALL)
    assert found
    asked = found[1].replace("p_after", "''").replace("v_now", "now()").replace("p_most", "1000")
    async with connection_to(filled.migration) as connection:
        await connection.execute("set memory.scope = 'all'")
        plan = json.loads(await connection.fetchval(f"explain (format json) {asked}"))[0]["Plan"]
    assert indexes_of(plan) == {"nodes_expiry"}
    assert "Seq Scan" not in json.dumps(plan)


async def test_the_oldest_tombstones_are_found_by_their_versions(filled: Targets) -> None:
    text = (sql_root() / "postgres" / "migrations" / "0007_housekeeping.sql").read_text()
    found = re.search(r"(select t\.node_id, t\.version from memory\.tombstones t.*? limit p_most)", text, re.DOTALL)
    assert found
    asked = found[1].replace("p_user", "'u7'").replace("p_before", "now() + '1 h'").replace("p_most", "20")
    async with connection_to(filled.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users($1)", ["u7"])
        plan = json.loads(await connection.fetchval(f"explain (format json) {asked}"))[0]["Plan"]
    assert indexes_of(plan) == {"tombstones_version"}


async def test_who_has_items_is_told_from_their_index(filled: Targets) -> None:
    text = (sql_root() / "postgres" / "migrations" / "0009_store.sql").read_text()
    found = re.search(r"return query (select distinct .*? limit p_most)", text, re.DOTALL)
    assert found
    asked = found[1].replace("p_after", "''").replace("p_most", "1000")
    async with connection_to(filled.migration) as connection:
        await connection.execute("set memory.scope = 'all'")
        plan = json.loads(await connection.fetchval(f"explain (format json) {asked}"))[0]["Plan"]
    assert indexes_of(plan) == {"nodes_namespace"}
    assert "Seq Scan" not in json.dumps(plan)


async def test_row_security_keeps_a_tag_index_from_being_used(filled: Targets) -> None:
    """Why there is none: array operators may leak their input, so the policy is checked first."""
    async with administration(filled) as connection:
        await connection.execute("create index by_tag on memory.nodes using gin (tags)")
        await connection.execute("analyze memory.nodes")
    async with connection_to(filled.runtime) as connection, connection.transaction():
        await connection.execute("select memory.bind_users($1)", ["u7"])
        await connection.execute("set local enable_seqscan = off")
        text = "select node_id from memory.nodes where user_id = 'u7' and tags @> array['tag3']"
        plan = await connection.fetchval(f"explain (format json) {text}")
    assert "by_tag" not in indexes_of(json.loads(plan)[0]["Plan"])


async def test_vectors_find_their_memories_by_plans_from_when_there_were_none(each_targets: Targets) -> None:
    """Nobody has analysed the tables of a new user yet, and plans are kept: also those that check foreign keys."""
    async with connection_to(each_targets.runtime) as connection:

        async def keep(memories: int, vectors: int) -> int:
            """Put some memories, keep vectors of some of them, and say how many memories were read for it."""
            async with connection.transaction():
                await connection.execute("select memory.bind_users($1)", ["nick"])
                await connection.execute("insert into memory.user_metadata values ('nick') on conflict do nothing")
                await connection.execute(
                    "insert into memory.nodes (user_id, content) select 'nick', '{}' from generate_series(1, $1::int)",
                    memories,
                )
                newest = await connection.fetchval(
                    "select array(select node_id from memory.nodes where user_id = 'nick'"
                    " order by created_at desc limit $1)",
                    vectors,
                )
                before = await connection.fetchval(READ)
                await connection.execute(
                    """
                    select (memory.keep_vectors(
                      'nick', incarnation, 0, null, 'm', 3, $1::uuid[], array_fill('text'::text, array[$2::int]),
                      array_fill(0::bigint, array[$2::int]), array_fill('[1,2,3]'::public.vector, array[$2::int]),
                      '{}', 'm/3')).o_version
                    from memory.user_metadata where user_id = 'nick'
                    """,
                    newest,
                    vectors,
                )
                return int(await connection.fetchval(READ) - before)

        for _ in range(10):
            await keep(1, 1)
        await keep(2000, 20)
        # Reading all of them once is the most that an old server makes of it.
        assert await keep(2000, 20) < 2 * 4000


async def test_a_call_for_several_users_reads_few_rows_by_plans_from_before_there_were_any(
    each_targets: Targets,
) -> None:
    apply, writer, numbers = queries.load("postgres")["batches.apply_to_several"], uuid4(), itertools.count(1)
    users, kept = ["ann", "eve", "nick"], str(uuid4())

    def batch(user_id: str) -> str:
        n = next(numbers)
        written = {"written_at": f"2026-01-01T00:00:00.{n:06d}+00:00", "written_by": str(writer)}
        nodes = [
            fact_row(node_id) | written | {"n": n, "content_hash": f"{n:064x}", "only_once": node_id != kept}
            for node_id in (kept, str(uuid4()))
        ]
        vector = {"field": "content", "model": "m", "dimensions": 1, "place": 1}
        vectors = [{"n": n, "node_id": one["node_id"], "content_hash": one["content_hash"]} | vector for one in nodes]
        about = {"user_id": user_id, "last": n, "oldest": written["written_at"], "guarded": False, "echo": True}
        return json.dumps({"nodes": nodes, "vectors": vectors, "embedded": "m/1"} | about)

    async with connection_to(each_targets.runtime) as connection:
        await register_vector(connection)

        async def write(times: int) -> int:
            """Write for all of them so many times, and say how many rows of any kind were read for it."""
            async with connection.transaction():
                for _ in range(times):
                    values = {"users": users, "ops": [batch(user) for user in users], "instance": writer}
                    vectors = {"vectors": [Vector([1.0])], "halves": []}
                    await connection.fetch(apply.text, *apply.arguments(values | vectors))
                return int(
                    await connection.fetchval(
                        "select sum(idx_tup_fetch + seq_tup_read) from pg_stat_xact_user_tables where schemaname = $1",
                        "memory",
                    )
                )

        await write(10)
        async with administration(each_targets) as others:
            await others.execute(
                """
                insert into memory.nodes (user_id, content, content_hash)
                  select user_id, '{}', sha256(n::text::bytea)
                  from unnest('{ann, eve, nick}'::text[]) as user_id, generate_series(1, 2000) as n;
                insert into memory.embeddings (user_id, node_id, model, dimensions, embedding)
                  select user_id, node_id, 'm', 1, '[1]' from memory.nodes on conflict do nothing;
                insert into memory.user_metadata (user_id) select 'user ' || n from generate_series(1, 2000) as n;
                insert into memory.applied_watermarks (user_id, instance_id, seq)
                  select 'user ' || n, gen_random_uuid(), 1 from generate_series(1, 2000) as n
                """
            )
        assert await write(10) < 10 * len(users) * 30


async def explained(connection: Any, name: str, values: dict[str, object], *, analyze: bool = False) -> dict[str, Any]:
    """The plan of a named query with these values, as its own text literal parameters would get it."""
    query = queries.load("postgres")[name]
    text = query.text
    for number, parameter in reversed(list(enumerate(query.parameters, start=1))):
        text = text.replace(f"${number}", literal(values[parameter]))
    plan = json.loads(await connection.fetchval(f"explain (format json{', analyze' if analyze else ''}) {text}"))
    found: dict[str, Any] = plan[0]["Plan"]
    return found


def literal(value: object) -> str:
    if value is None:
        return "null"
    return str(value) if isinstance(value, int) else f"'{value}'"


def indexes_of(plan: dict[str, Any]) -> set[str]:
    """The indexes a plan uses."""
    own = {plan["Index Name"]} if "Index Name" in plan else set()
    return own.union(*(indexes_of(child) for child in plan.get("Plans", [])))
