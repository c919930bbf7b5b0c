-- The whole schema, for `psql -v ON_ERROR_STOP=1 -f schema.sql` on an empty database.
-- Made by `hybrid-memory schema` from the migrations, which are the source.

create extension if not exists vector;
create schema memory;
begin;

-- 0001 foundation
-- What every other table stands on: the record of migrations, the identity of this database, and the binding of
-- statements to users.

create table memory.schema_migrations (
  number integer primary key,
  name text not null,
  checksum text not null,
  applied_at timestamptz not null default clock_timestamp()
);

-- One row. `epoch` changes when the data are not the continuation of what a client has seen (a restored backup).
create table memory.deployment (
  singleton boolean primary key default true check (singleton),
  epoch uuid not null default gen_random_uuid(),
  runtime_roles text[] not null default '{}',
  stats_refreshed_at timestamptz,
  created_at timestamptz not null default now()
);
insert into memory.deployment default values;

-- The users the running transaction may see. An unset or reset setting is empty and matches nobody.
create function memory.bound() returns text[]
language sql stable parallel safe
as $$ select nullif(current_setting('memory.users', true), '')::text[] $$;

-- SET takes no parameters and set_config does not reach Citus workers; %L quotes, so any user id is safe here. The
-- Citus setting is an accepted placeholder where Citus is not installed.
create function memory.bind_users(p_users text[]) returns void
language plpgsql volatile
as $$
begin
  execute 'set local citus.propagate_set_commands = ''local''';
  execute format('set local memory.users = %L', coalesce(p_users, '{}')::text);
end
$$;

-- Maintenance across users. Anyone may set it; only the owner's policy honours it.
create function memory.set_scope(p_scope text) returns void
language plpgsql volatile
as $$
begin
  execute 'set local citus.propagate_set_commands = ''local''';
  execute format('set local memory.scope = %L', p_scope);
end
$$;

revoke all on function memory.bound() from public;
revoke all on function memory.bind_users(text[]) from public;
revoke all on function memory.set_scope(text) from public;

insert into memory.schema_migrations (number, name, checksum) values (1, 'foundation', '283e635de2c2e1e8b4eb5a51810b80f229f3b193aa738344ab667fffafca57c3');

-- 0002 graph
-- Users' memories: nodes, relationships, embeddings, and what keeps caches and replays right. Every key begins with
-- user_id, so no relationship can join two users and every statement of one user stays on one Citus shard.

create table memory.user_metadata (
  user_id text primary key check (user_id <> ''),
  incarnation uuid not null default gen_random_uuid(),
  version bigint not null default 0,
  node_count bigint not null default 0,
  relationship_count bigint not null default 0,
  entity_count bigint not null default 0,
  tombstone_floor bigint not null default 0,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default now(),
  last_activity timestamptz not null default now()
);

create table memory.nodes (
  user_id text not null check (user_id <> ''),
  node_id uuid not null default gen_random_uuid(),
  context_type text not null default 'conversation_fact' check (context_type <> ''),
  content jsonb not null,
  content_kind text not null default 'json' check (content_kind in ('text', 'json')),
  summary text not null default '',
  tags text[] not null default '{}',
  metadata jsonb not null default '{}',
  importance double precision not null default 0.5 check (importance between 0 and 1),
  confidence double precision not null default 1 check (confidence between 0 and 1),
  external_id text,
  thread_id text,
  seq bigint,
  namespace text[],
  key text,
  content_hash bytea,
  version bigint not null default 0,
  written_at timestamptz not null default now(),
  written_by uuid not null default '00000000-0000-0000-0000-000000000000',
  field_clocks jsonb not null default '{}',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  last_accessed_at timestamptz not null default now(),
  access_count bigint not null default 0,
  expires_at timestamptz,
  entity_id text generated always as (content ->> 'entity_id') stored,
  entity_system text generated always as (content ->> 'entity_system') stored,
  entity_type text generated always as (content ->> 'entity_type') stored,
  entity_name text generated always as (content ->> 'entity_name') stored,
  primary key (user_id, node_id),
  -- NULLs are distinct in a unique index: an entity without its identity would be stored twice.
  constraint entity_is_identified check (
    context_type <> 'domain_entity' or (entity_id is not null and entity_system is not null)
  ),
  constraint store_address_is_whole check ((namespace is null) = (key is null))
);

create unique index nodes_entity on memory.nodes (user_id, entity_system, entity_id)
  where context_type = 'domain_entity';
create index nodes_created on memory.nodes (user_id, created_at desc);
create index nodes_type_created on memory.nodes (user_id, context_type, created_at desc);
create index nodes_thread on memory.nodes (user_id, thread_id, seq) where thread_id is not null;
create index nodes_version on memory.nodes (user_id, version);
create index nodes_expiry on memory.nodes (user_id, expires_at) where expires_at is not null;

create table memory.relationships (
  user_id text not null check (user_id <> ''),
  from_node_id uuid not null,
  to_node_id uuid not null,
  relationship_type text not null check (relationship_type <> ''),
  strength double precision not null default 1 check (strength between 0 and 1),
  metadata jsonb not null default '{}',
  version bigint not null default 0,
  written_at timestamptz not null default now(),
  written_by uuid not null default '00000000-0000-0000-0000-000000000000',
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (user_id, from_node_id, to_node_id, relationship_type),
  foreign key (user_id, from_node_id) references memory.nodes (user_id, node_id) on delete cascade,
  foreign key (user_id, to_node_id) references memory.nodes (user_id, node_id) on delete cascade
);

create index relationships_reverse on memory.relationships (user_id, to_node_id);
create index relationships_version on memory.relationships (user_id, version);

-- One vector per node, field and model: up to 2 000 dimensions in `embedding`, up to 4 000 in `embedding_half`.
create table memory.embeddings (
  user_id text not null check (user_id <> ''),
  node_id uuid not null,
  field text not null default 'content',
  model text not null,
  dimensions integer not null check (dimensions between 1 and 4000),
  embedding public.vector,
  embedding_half public.halfvec,
  content_hash bytea,
  ann boolean not null default false,
  version bigint not null default 0,
  created_at timestamptz not null default now(),
  primary key (user_id, node_id, field, model),
  foreign key (user_id, node_id) references memory.nodes (user_id, node_id) on delete cascade,
  constraint one_vector_of_the_stated_dimensions check (
    case when dimensions <= 2000
      then embedding_half is null and embedding is not null and public.vector_dims(embedding) = dimensions
      else embedding is null and embedding_half is not null and public.vector_dims(embedding_half) = dimensions
    end
  )
);

create index embeddings_version on memory.embeddings (user_id, version);

-- What was deleted, and at which version: a cache that asks for changes learns of it, a late replay is dropped.
create table memory.tombstones (
  user_id text not null check (user_id <> ''),
  node_id uuid not null,
  version bigint not null,
  written_at timestamptz not null,
  written_by uuid not null,
  deleted_at timestamptz not null default now(),
  primary key (user_id, node_id)
);

create index tombstones_version on memory.tombstones (user_id, version);

-- The last operation of each process that was applied for a user; a repeat is at or below it.
create table memory.applied_watermarks (
  user_id text not null check (user_id <> ''),
  instance_id uuid not null,
  seq bigint not null,
  updated_at timestamptz not null default now(),
  primary key (user_id, instance_id)
);

-- Who was erased, as a hash: nothing of an erased user stays, not even the id.
create table memory.erasures (
  user_hash text not null,
  incarnation uuid not null,
  erased_at timestamptz not null default now(),
  primary key (user_hash, incarnation)
);

create view memory.entities with (security_invoker = true) as
select user_id, node_id, entity_id, entity_system, entity_type, entity_name,
       content -> 'entity_data' as entity_data, summary, tags, metadata, importance, confidence, version,
       created_at, updated_at, last_accessed_at, access_count, expires_at
from memory.nodes
where context_type = 'domain_entity';

insert into memory.schema_migrations (number, name, checksum) values (2, 'graph', 'c71f34882ae739c54aeae8a8b7eb39106b997d6f1a6258924308a8b0364b690d');

-- 0003 row_security
-- A statement sees and writes the rows of the users its transaction is bound to, whatever its text says. The owner is
-- held to it too (force), and sees all users only with `set memory.scope = 'all'`.

create function memory.bound_hashes() returns text[]
language sql stable parallel safe
as $$
  select array(select encode(sha256(convert_to(u, 'UTF8')), 'hex') from unnest(memory.bound()) as u)
$$;
revoke all on function memory.bound_hashes() from public;

alter table memory.user_metadata enable row level security, force row level security;
alter table memory.nodes enable row level security, force row level security;
alter table memory.relationships enable row level security, force row level security;
alter table memory.embeddings enable row level security, force row level security;
alter table memory.tombstones enable row level security, force row level security;
alter table memory.applied_watermarks enable row level security, force row level security;
alter table memory.erasures enable row level security, force row level security;

create policy bound_users on memory.user_metadata
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.nodes
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.relationships
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.embeddings
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.tombstones
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.applied_watermarks
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.erasures
  using (user_hash = any (memory.bound_hashes())) with check (user_hash = any (memory.bound_hashes()));

create policy maintenance on memory.user_metadata to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.nodes to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.relationships to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.embeddings to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.tombstones to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.applied_watermarks to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.erasures to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');

insert into memory.schema_migrations (number, name, checksum) values (3, 'row_security', 'f3a9ebeaeb1067fe649609cc9f9121981a8705d6b65feb6b92acd46c4f1d7295');

-- 0004 statistics
-- Statistics for dashboards, refreshed together. Row-level security does not reach into a materialised view, so no role
-- but the owner may read them.

create materialized view memory.user_stats as
with per_user_relationships as (
  select user_id, count(*) as relationship_count from memory.relationships group by user_id
)
select n.user_id,
       count(*) as node_count,
       coalesce(max(r.relationship_count), 0) as relationship_count,
       count(*) filter (where n.context_type = 'domain_entity') as entity_count,
       array_agg(distinct n.context_type) as context_types,
       avg(n.importance) as average_importance,
       sum(n.access_count)::bigint as total_accesses,
       min(n.created_at) as earliest_node,
       max(n.created_at) as latest_node
from memory.nodes n
left join per_user_relationships r on r.user_id = n.user_id
group by n.user_id;

create materialized view memory.context_type_stats as
select user_id, context_type,
       count(*) as node_count,
       avg(importance) as average_importance,
       sum(access_count)::bigint as total_accesses,
       min(created_at) as earliest_node,
       max(created_at) as latest_node
from memory.nodes
group by user_id, context_type;

create materialized view memory.entity_stats as
select user_id, entity_system, coalesce(entity_type, '') as entity_type,
       count(*) as entity_count,
       sum(access_count)::bigint as total_accesses,
       max(updated_at) as latest_update
from memory.nodes
where context_type = 'domain_entity'
group by user_id, entity_system, coalesce(entity_type, '');

-- REFRESH ... CONCURRENTLY needs them.
create unique index user_stats_key on memory.user_stats (user_id);
create unique index context_type_stats_key on memory.context_type_stats (user_id, context_type);
create unique index entity_stats_key on memory.entity_stats (user_id, entity_system, entity_type);

-- Refreshes all three without blocking their readers; false when another session is at it. Without the scope the
-- owner's own refresh would see no user and empty the views.
create function memory.refresh_stats() returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_table oid := (select tableoid from memory.deployment);
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  if not pg_try_advisory_xact_lock(hashtextextended('hybrid_memory.stats.' || v_table, 0)) then
    return false;
  end if;
  perform memory.set_scope('all');
  refresh materialized view concurrently memory.user_stats;
  refresh materialized view concurrently memory.context_type_stats;
  refresh materialized view concurrently memory.entity_stats;
  perform memory.set_scope(v_scope);
  update memory.deployment set stats_refreshed_at = clock_timestamp();
  return true;
end
$$;
revoke all on function memory.refresh_stats() from public;

insert into memory.schema_migrations (number, name, checksum) values (4, 'statistics', '60ef83125ead734bc74e4edc7b1c19be0d0127638ede0de9d0989a4f365f20f1');

-- 0005 administration
-- For the administrator's hands.

-- After an UPDATE by hand: counts the user's rows anew and makes every process load the user afresh. Returns the new
-- version. Run as a superuser, or as the owner after `set memory.scope = 'all'`.
create function memory.touch_user(p_user text) returns bigint
language plpgsql volatile
as $$
declare
  v_incarnation uuid := gen_random_uuid();
  v_nodes bigint;
  v_entities bigint;
  v_relationships bigint;
  v_version bigint;
begin
  insert into memory.user_metadata (user_id) values (p_user) on conflict (user_id) do nothing;
  perform 1 from memory.user_metadata where user_id = p_user for update;
  select count(*), count(*) filter (where context_type = 'domain_entity') into v_nodes, v_entities
    from memory.nodes where user_id = p_user;
  select count(*) into v_relationships from memory.relationships where user_id = p_user;
  update memory.user_metadata
    set incarnation = v_incarnation, version = version + 1, last_activity = now(),
        node_count = v_nodes, entity_count = v_entities, relationship_count = v_relationships
    where user_id = p_user
    returning version into v_version;
  return v_version;
end
$$;
revoke all on function memory.touch_user(text) from public;

-- Gives a role what the library needs at run time and nothing more: no DDL, no statistics views, no other user's rows.
-- The role is remembered, so that later migrations grant what they add.
create function memory.grant_runtime(p_role text) returns void
language plpgsql volatile
as $$
declare
  v_schema text := (select relnamespace::regnamespace from pg_class where oid = (select tableoid from memory.deployment));
  v_table text;
begin
  execute format('grant usage on schema %s to %I', v_schema, p_role);
  foreach v_table in array array['user_metadata', 'nodes', 'relationships', 'embeddings', 'tombstones',
                                 'applied_watermarks', 'erasures'] loop
    execute format('grant select, insert, update, delete on %s.%I to %I', v_schema, v_table, p_role);
  end loop;
  foreach v_table in array array['deployment', 'schema_migrations', 'entities'] loop
    execute format('grant select on %s.%I to %I', v_schema, v_table, p_role);
  end loop;
  execute format('grant execute on function %1$s.bound(), %1$s.bound_hashes(), %1$s.bind_users(text[]), '
                 '%1$s.touch_user(text), %1$s.refresh_stats() to %2$I', v_schema, p_role);
  update memory.deployment
    set runtime_roles = array_append(array_remove(runtime_roles, p_role), p_role);
end
$$;
revoke all on function memory.grant_runtime(text) from public;

insert into memory.schema_migrations (number, name, checksum) values (5, 'administration', 'd4c4b0f1c4122156853cb04736c0a241158555a6eb7e775f2e1953066b9b9c50');

commit;
