-- name: state
-- Whether the schema exists, whether it is ours, and what else is in it. `schema` is a bound value here, not a name.
select n.oid is not null as present,
       coalesce(pg_get_userbyid(n.nspowner) = current_user or pg_has_role(n.nspowner, 'usage'), false) as is_owner,
       coalesce(pg_get_userbyid(n.nspowner)::text, '') as owner,
       (select count(*) = 3 from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace = n.oid and c.relname = 'schema_migrations'
          and a.attname in ('number', 'name', 'checksum') and not a.attisdropped) as is_ours,
       array(select c.relname::text from pg_class c
             where c.relnamespace = n.oid and c.relkind in ('r', 'v', 'm', 'p') order by c.relname) as relations
from (select :schema::text as name) wanted
left join pg_namespace n on n.nspname = wanted.name;

-- name: create
-- The schema itself; the administrator may have made it before.
create schema memory;

-- name: drop
-- Only for `init --recreate --yes`.
drop schema memory cascade;

-- name: pin_search_path
-- Nothing a migration names may be found anywhere but where it says.
set local search_path = pg_catalog, pg_temp;

-- name: limit_lock_wait
-- A migration waiting for a table lock blocks everybody behind it, so it gives up early and tries again.
set local lock_timeout = '3s';

-- name: allow_long_statements
-- Building an index takes longer than a call may; the client has a deadline of its own.
set statement_timeout = 0;

-- name: applied
-- The migrations this database has.
select number, name, checksum from memory.schema_migrations order by number;

-- name: record
-- Written in the same transaction as the migration.
insert into memory.schema_migrations (number, name, checksum) values (:number, :name, :checksum);

-- name: try_lock
-- One migrator at a time per schema. Polled, because a blocking wait deadlocks with CREATE INDEX CONCURRENTLY.
select pg_try_advisory_lock(hashtextextended('hybrid_memory.migrate.' || :schema, 0));

-- name: unlock
-- After the last migration.
select pg_advisory_unlock(hashtextextended('hybrid_memory.migrate.' || :schema, 0));

-- name: regrant
-- Roles that were given access before get what a migration added.
select memory.grant_runtime(granted.role)
from (select unnest(runtime_roles) as role from memory.deployment) granted
join pg_roles r on r.rolname = granted.role;

-- name: grant_runtime
-- Gives a role what the library needs at run time.
select memory.grant_runtime(:role);

-- name: deployment
-- Which database this is, and when its statistics were refreshed.
select epoch, runtime_roles, stats_refreshed_at, created_at from memory.deployment;

-- name: runtime_roles
-- The roles that were given access.
select runtime_roles from memory.deployment;

-- name: sizes
-- What each relation of the schema takes on disk, with its indexes. `schema` is a bound value here.
select c.relname::text as relation, pg_total_relation_size(c.oid) as bytes,
       greatest(c.reltuples, 0)::bigint as estimated_rows
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = :schema and c.relkind in ('r', 'm') order by c.relname;

-- name: row_counts
-- Exact counts over all users, for whoever is about to drop them; needs `memory.scope` or a superuser.
select (select count(*) from memory.user_metadata) as users,
       (select count(*) from memory.nodes) as nodes,
       (select count(*) from memory.relationships) as relationships,
       (select count(*) from memory.embeddings) as embeddings;

-- name: set_scope
-- Look at all users; only the owner's policy honours it.
select memory.set_scope('all');
