"""The schema on each server version, with a non-superuser owner and a runtime role that owns nothing."""

import json
import subprocess
from typing import TypeAlias

import asyncpg
import pytest

from hybrid_memory import migrations, queries
from hybrid_memory.observability import Events
from hybrid_memory.postgres import permissions, schema
from hybrid_memory.postgres.inspection import inspect
from hybrid_memory.postgres.script import schema_script
from hybrid_memory.postgres.target import Target, Targets
from hybrid_memory.settings import Settings
from tests.support.servers import Server, administration, connection_to

USER_TABLES = (
    "user_metadata",
    "nodes",
    "relationships",
    "embeddings",
    "postings",
    "tombstones",
    "applied_watermarks",
    "erasures",
)
MAINTENANCE = (
    "select memory.refresh_stats()",
    "select memory.totals()",
    "select memory.claim('a chore', 0)",
    "select memory.users_to_sweep('', null, 10)",
    "select memory.users_to_sweep('', now(), 10)",
    "select memory.users_to_trim('', now(), 10)",
    "select memory.users_to_embed('', 'm/3', 10)",
    "select memory.large_users('', 1, 10)",
    "select memory.missing_ann_indexes()",
    "select memory.store_owners('', 10)",
)
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


GENEPOINT = json.dumps(
    {"entity_id": "1", "entity_system": "salesforce", "entity_type": "account", "entity_name": "GenePoint"}
)


async def insert_by_hand(connection: Connection, user_id: str, text: str = "a fact") -> str:
    """A row as a person would write it, everything else left to the defaults."""
    return str(
        await connection.fetchval(
            "insert into memory.nodes (user_id, content) values ($1, jsonb_build_object('text', $2::text))"
            " returning node_id",
            user_id,
            text,
        )
    )


async def fill(targets: Targets, *users: str) -> None:
    """Two memories, an entity and a relationship per user."""
    async with administration(targets) as connection:
        for user_id in users:
            first, second = [await insert_by_hand(connection, user_id) for _ in range(2)]
            await connection.execute(
                "insert into memory.relationships (user_id, from_node_id, to_node_id, relationship_type)"
                " values ($1, $2, $3, 'led_to')",
                user_id,
                first,
                second,
            )
            await connection.execute(
                "insert into memory.nodes (user_id, context_type, content, summary)"
                " values ($1, 'domain_entity', $2, 'GenePoint, an account')",
                user_id,
                GENEPOINT,
            )


async def count(connection: Connection, table: str = "nodes") -> int:
    number: int = await connection.fetchval(f"select count(*) from memory.{table}")
    return number


def psql(server: Server, target: Target, *arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [server.embedded.program("psql"), "-X", "-v", "ON_ERROR_STOP=1", *arguments],
        env=permissions.environment() | target.psql_environment(),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dump(server: Server, target: Target) -> str:
    done = subprocess.run(
        [server.embedded.program("pg_dump"), "--schema-only", "--schema=memory", "--no-owner"],
        env=permissions.environment() | target.psql_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    # A dump carries a random key against injection, a new one each time.
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith("\\"))


async def test_the_script_and_the_migrations_make_the_same_database(each_server: Server, settings: Settings) -> None:
    async with each_server.empty_database() as by_script, each_server.empty_database() as by_migrations:
        psql(each_server, by_script.migration, "-q", "-f", "-", stdin=schema_script())
        async with connection_to(by_script.migration) as connection:
            await connection.execute("select memory.grant_runtime('hybrid_memory')")
        await schema.ensure(by_migrations, settings, Events())
        assert dump(each_server, by_script.administration) == dump(each_server, by_migrations.administration)
        assert "CREATE TABLE memory.nodes" in dump(each_server, by_script.administration)
        async with connection_to(by_script.migration) as connection:
            state = await inspect(connection, "memory")
        assert state.pending(migrations.load("postgres")) == [], "the script records the migrations"


async def test_a_second_start_finds_nothing_to_do(each_targets: Targets, settings: Settings) -> None:
    seen: list[str] = []
    await schema.ensure(each_targets, settings, Events(lambda event: seen.append(event.name)))
    assert seen == []


@pytest.mark.parametrize("schema_name", ["memory", "Agents", "select"])
async def test_every_query_prepares(server: Server, schema_name: str) -> None:
    own = Settings(schema=schema_name)
    async with server.empty_database() as targets:
        await schema.ensure(targets, own, Events())
        async with connection_to(targets.runtime) as connection:
            for query in queries.load("postgres", schema_name).values():
                prepared = await connection.prepare(query.text)
                assert len(prepared.get_parameters()) == len(query.parameters), query.name


class TestRowSecurity:
    async def test_an_unbound_session_sees_nothing_and_writes_nothing(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick")
        for target in (each_targets.runtime, each_targets.migration):
            async with connection_to(target) as connection:
                assert [await count(connection, table) for table in USER_TABLES] == [0] * len(USER_TABLES)
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await insert_by_hand(connection, "nick")

    async def test_a_bound_transaction_sees_its_users_only(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick", "eve", "bob")
        async with connection_to(each_targets.runtime) as connection:
            async with connection.transaction():
                await connection.execute("select memory.bind_users($1)", ["nick", "bob"])
                rows = await connection.fetch("select distinct user_id from memory.nodes order by 1")
                assert [row["user_id"] for row in rows] == ["bob", "nick"]
                assert await count(connection, "entities") == 2
                assert (
                    await connection.execute("update memory.nodes set summary = 'x' where user_id = 'eve'")
                    == "UPDATE 0"
                )
                assert await connection.execute("delete from memory.nodes where user_id = 'eve'") == "DELETE 0"
            assert await count(connection) == 0, "nothing of the binding outlives its transaction"

    @pytest.mark.parametrize(
        "user_id", ["nick", "o'hara", "a{b},c", 'quo"te\\', "NULL", "null", "Ünï", "*", "nick,eve", "{nick}", " "]
    )
    async def test_any_user_id_binds_to_itself_only(self, targets: Targets, user_id: str) -> None:
        await fill(targets, "nick", "eve")
        if user_id != "nick":
            await fill(targets, user_id)
        async with connection_to(targets.runtime) as connection, connection.transaction():
            await connection.execute("select memory.bind_users($1)", [user_id])
            rows = await connection.fetch("select distinct user_id from memory.nodes")
            assert [row["user_id"] for row in rows] == [user_id]

    async def test_writing_for_another_user_is_refused(self, each_targets: Targets) -> None:
        async with connection_to(each_targets.runtime) as connection, connection.transaction():
            await connection.execute("select memory.bind_users($1)", ["nick"])
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await insert_by_hand(connection, "eve")

    async def test_the_maintenance_scope_is_the_owners_alone(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick", "eve")
        async with connection_to(each_targets.runtime) as connection:
            await connection.execute("set memory.scope = 'all'")
            assert [await count(connection, table) for table in (*USER_TABLES, "entities")] == [0] * 9
            async with connection.transaction():
                for call in MAINTENANCE:
                    await connection.execute(call)
                    assert await count(connection) == 0, "nor after a maintenance function in the same transaction"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("set role hybrid_memory_owner")
        async with connection_to(each_targets.migration) as connection:
            assert await count(connection) == 0
            await connection.execute("set memory.scope = 'all'")
            assert await count(connection) == 6

    async def test_every_table_with_users_is_held_to_it(self, each_targets: Targets) -> None:
        async with administration(each_targets) as connection:
            rows = await connection.fetch(
                "select relname::text, relrowsecurity and relforcerowsecurity as forced from pg_class"
                " where relnamespace = 'memory'::regnamespace and relkind = 'r' order by 1"
            )
        forced = {row["relname"]: row["forced"] for row in rows}
        assert {name for name, on in forced.items() if on} == set(USER_TABLES)
        assert {name for name, on in forced.items() if not on} == {"deployment", "schema_migrations"}

    async def test_the_runtime_role_has_no_right_it_does_not_need(self, each_targets: Targets) -> None:
        async with connection_to(each_targets.runtime) as connection:
            for statement in (
                "select * from memory.user_stats",
                "select * from memory.context_type_stats",
                "select * from memory.entity_stats",
                "refresh materialized view memory.user_stats",
                "truncate memory.nodes",
                "create table memory.mine ()",
                "alter table memory.nodes disable row level security",
                "update memory.deployment set epoch = gen_random_uuid()",
                "insert into memory.schema_migrations (number, name, checksum) values (99, 'x', 'x')",
                "select memory.set_scope('all')",
                "select memory.grant_runtime('public')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)

    async def test_functions_are_closed_to_the_public_and_definers_have_a_pinned_path(
        self, each_targets: Targets
    ) -> None:
        async with administration(each_targets) as connection:
            rows = await connection.fetch(
                "select p.proname::text as name, p.prosecdef as definer, p.proconfig as config, exists (select"
                " from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0) as is_public"
                " from pg_proc p where p.pronamespace = 'memory'::regnamespace"
            )
        assert rows
        assert [row["name"] for row in rows if row["is_public"]] == []
        definers = {row["name"]: row["config"] for row in rows if row["definer"]}
        assert definers.keys() == {
            "refresh_stats", "totals", "claim", "users_to_sweep", "users_to_trim", "users_to_embed", "large_users",
            "missing_ann_indexes", "create_ann_index",
            "renew_epoch", "versions_of",
            "store_owners",
        }  # fmt: skip
        assert all(config == ["search_path=pg_catalog, pg_temp"] for config in definers.values())


class TestRelationships:
    async def test_no_relationship_joins_two_users_whoever_writes_it(self, each_targets: Targets) -> None:
        async with administration(each_targets) as connection:
            nick, eve = await insert_by_hand(connection, "nick"), await insert_by_hand(connection, "eve")
            for user_id in ("nick", "eve"):
                with pytest.raises(asyncpg.ForeignKeyViolationError):
                    await connection.execute(
                        "insert into memory.relationships (user_id, from_node_id, to_node_id, relationship_type)"
                        " values ($1, $2, $3, 'owns')",
                        user_id,
                        nick,
                        eve,
                    )

    async def test_deleting_a_memory_takes_its_relationships_and_vectors(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick")
        async with administration(each_targets) as connection:
            await connection.execute(
                "insert into memory.embeddings (user_id, node_id, model, dimensions, embedding)"
                " select user_id, node_id, 'm', 3, '[1,2,3]' from memory.nodes"
            )
            await connection.execute(
                "delete from memory.nodes where user_id = 'nick' and context_type <> 'domain_entity'"
            )
            assert [await count(connection, table) for table in ("nodes", "relationships", "embeddings")] == [1, 0, 1]


NODE = "insert into memory.nodes (user_id, content, {0}) values ('n', '{{}}', {1})"
VECTOR = (
    "insert into memory.embeddings (user_id, node_id, model, dimensions, embedding)"
    " select user_id, node_id, 'm', {0}, {1} from memory.nodes"
)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("insert into memory.nodes (user_id, content) values ('', '{}')", "nodes_user_id_check"),
        (NODE.format("importance", "1.1"), "nodes_importance_check"),
        (NODE.format("importance", "'nan'"), "nodes_importance_check"),
        (NODE.format("confidence", "-0.1"), "nodes_confidence_check"),
        (NODE.format("content_kind", "'x'"), "nodes_content_kind_check"),
        (NODE.format("context_type", "'domain_entity'"), "entity_is_identified"),
        (NODE.format("key", "'k'"), "store_address_is_whole"),
        (VECTOR.format(4, "'[1,2,3]'"), "one_vector_of_the_stated_dimensions"),
        (VECTOR.format(2001, "array_fill(1, array[2001])::vector"), "one_vector_of_the_stated_dimensions"),
    ],
)
async def test_what_must_not_be_stored(each_targets: Targets, statement: str, constraint: str) -> None:
    async with administration(each_targets) as connection:
        await insert_by_hand(connection, "nick")
        with pytest.raises(asyncpg.CheckViolationError) as caught:
            await connection.execute(statement)
        assert caught.value.constraint_name == constraint


async def test_an_entity_exists_once_per_user(each_targets: Targets) -> None:
    await fill(each_targets, "nick", "eve")
    with pytest.raises(asyncpg.UniqueViolationError):
        await fill(each_targets, "nick")


async def test_large_vectors_are_kept_at_half_precision(each_targets: Targets) -> None:
    async with administration(each_targets) as connection:
        await insert_by_hand(connection, "nick")
        await connection.execute(
            "insert into memory.embeddings (user_id, node_id, model, dimensions, embedding_half)"
            " select user_id, node_id, 'm', 4000, array_fill(1, array[4000])::halfvec from memory.nodes"
        )
        assert await count(connection, "embeddings") == 1


class TestStatistics:
    async def test_the_runtime_role_refreshes_what_it_cannot_read(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick", "eve")
        async with connection_to(each_targets.runtime) as connection:
            assert await connection.fetchval("select memory.refresh_stats()") is True
            assert await connection.fetchval(
                "select stats_refreshed_at > now() - interval '1 minute' from memory.deployment"
            )
        async with administration(each_targets) as connection:
            nick = await connection.fetchrow("select * from memory.user_stats where user_id = 'nick'")
            assert nick is not None
            assert dict(nick) | {"earliest_node": 0, "latest_node": 0} == {
                "user_id": "nick",
                "node_count": 3,
                "relationship_count": 1,
                "entity_count": 1,
                "context_types": ["conversation_fact", "domain_entity"],
                "average_importance": 0.5,
                "total_accesses": 0,
                "earliest_node": 0,
                "latest_node": 0,
            }
            assert await count(connection, "user_stats") == 2
            assert await count(connection, "context_type_stats") == 4
            entity = await connection.fetchrow("select * from memory.entity_stats where user_id = 'eve'")
            assert entity is not None
            assert (entity["entity_system"], entity["entity_type"], entity["entity_count"]) == (
                "salesforce",
                "account",
                1,
            )

    async def test_one_session_refreshes_at_a_time_and_the_other_is_told(self, targets: Targets) -> None:
        async with (
            connection_to(targets.runtime) as first,
            connection_to(targets.runtime) as second,
            first.transaction(),
        ):
            assert await first.fetchval("select memory.refresh_stats()") is True
            assert await second.fetchval("select memory.refresh_stats()") is False

    async def test_maintenance_leaves_the_owners_scope_as_it_was(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick")
        async with connection_to(each_targets.migration) as connection, connection.transaction():
            for call in MAINTENANCE:
                await connection.execute(call)
                assert await count(connection) == 0, call


class TestHands:
    """What a person does in psql."""

    async def test_the_cheat_sheet(self, each_server: Server, each_targets: Targets) -> None:
        await fill(each_targets, "nick", "eve")
        asked = each_targets.administration

        def ask(statement: str) -> str:
            return psql(each_server, asked, "-A", "-t", "-c", statement).strip()

        assert ask("SELECT user_id, COUNT(*) FROM memory.nodes GROUP BY user_id ORDER BY 1;") == "eve|3\nnick|3"
        newest = "SELECT node_id, context_type, summary FROM memory.nodes ORDER BY created_at DESC LIMIT 10;"
        assert len(ask(newest).splitlines()) == 6
        assert "GenePoint, an account" in ask(
            "SELECT summary FROM memory.nodes WHERE content::text ILIKE '%genepoint%';"
        )
        entities = (
            "SELECT node_id, context_type, summary, content->>'entity_name' as name FROM memory.nodes"
            " WHERE context_type = 'domain_entity';"
        )
        assert ask(entities).count("|GenePoint, an account|GenePoint") == 2
        assert ask("SELECT context_type, COUNT(*) FROM memory.nodes GROUP BY context_type ORDER BY 1;") == (
            "conversation_fact|4\ndomain_entity|2"
        )
        salesforce = (
            "SELECT summary, content->>'entity_id' as id, content->>'entity_name' as name FROM memory.nodes"
            " WHERE content->>'entity_system' = 'salesforce';"
        )
        assert "GenePoint, an account|1|GenePoint" in ask(salesforce)
        assert (
            ask("SELECT summary, jsonb_pretty(content) FROM memory.nodes WHERE context_type = 'tool_output' LIMIT 1;")
            == ""
        )
        assert ask("DELETE FROM memory.nodes WHERE user_id = 'nick';") == "DELETE 3"
        assert ask("SELECT count(*) FROM memory.relationships") == "1"
        ask("TRUNCATE memory.nodes CASCADE; TRUNCATE memory.user_metadata;")
        assert ask("SELECT count(*) FROM memory.relationships") == "0"

    async def test_the_owner_sees_everybody_after_setting_the_scope(
        self, each_server: Server, each_targets: Targets
    ) -> None:
        await fill(each_targets, "nick", "eve")
        counted = psql(
            each_server,
            each_targets.migration,
            *("-A", "-t", "-q", "-c", "SET memory.scope = 'all'", "-c", "SELECT count(*) FROM memory.nodes"),
        )
        assert counted.strip() == "6"

    async def test_touching_a_user_counts_anew_and_starts_a_new_incarnation(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick")
        async with administration(each_targets) as connection:
            assert await connection.fetchval("select memory.touch_user('nick')") == 1
            before = await connection.fetchrow("select * from memory.user_metadata where user_id = 'nick'")
            await connection.execute("update memory.nodes set summary = 'changed' where user_id = 'nick'")
            assert await connection.fetchval("select memory.touch_user('nick')") == 2
            after = await connection.fetchrow("select * from memory.user_metadata where user_id = 'nick'")
        assert before is not None
        assert after is not None
        assert (after["node_count"], after["relationship_count"], after["entity_count"]) == (3, 1, 1)
        assert before["incarnation"] != after["incarnation"]

    async def test_touching_needs_the_right_to_see_the_user(self, each_targets: Targets) -> None:
        await fill(each_targets, "nick")
        async with connection_to(each_targets.runtime) as connection:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetchval("select memory.touch_user('nick')")
        async with connection_to(each_targets.migration) as connection:
            await connection.execute("set memory.scope = 'all'")
            assert await connection.fetchval("select memory.touch_user('nick')") == 1


async def test_rights_follow_the_roles_that_were_given_them(server: Server) -> None:
    async with server.migrated_database() as targets, administration(targets) as connection:
        assert await connection.fetchval("select runtime_roles from memory.deployment") == ["hybrid_memory"]
        await connection.execute("revoke all on memory.nodes from hybrid_memory")
        async with connection_to(targets.migration) as owner:
            await owner.execute(queries.load("postgres")["schema.regrant"].text)
        async with connection_to(targets.runtime) as runtime:
            assert await count(runtime) == 0
