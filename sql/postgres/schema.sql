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

-- Only where Citus is installed does its setting have a value. That of a setting which nobody defines becomes empty, for
-- as long as the connection lasts, once it was set in some transaction.
create function memory.on_citus() returns boolean
language sql stable parallel safe
as $$ select coalesce(current_setting('citus.propagate_set_commands', true), '') <> '' $$;

-- SET takes no parameters and set_config does not reach Citus workers; %L quotes, so any user id is safe here.
create function memory.bind_users(p_users text[]) returns void
language plpgsql volatile
as $$
begin
  if memory.on_citus() then
    execute 'set local citus.propagate_set_commands = ''local''';
  end if;
  execute format('set local memory.users = %L', coalesce(p_users, '{}')::text);
end
$$;

-- Maintenance across users. Anyone may set it; only the owner's policy honours it.
create function memory.set_scope(p_scope text) returns void
language plpgsql volatile
as $$
begin
  if memory.on_citus() then
    execute 'set local citus.propagate_set_commands = ''local''';
  end if;
  execute format('set local memory.scope = %L', p_scope);
end
$$;

revoke all on function memory.on_citus() from public;
revoke all on function memory.bound() from public;
revoke all on function memory.bind_users(text[]) from public;
revoke all on function memory.set_scope(text) from public;

insert into memory.schema_migrations (number, name, checksum) values (1, 'foundation', 'e90895a26316621597e2a91d4c5b21caa24000c2c9e580f7f1c40db687f150f3');

-- 0002 graph
-- Users' memories: nodes, relationships, embeddings, and what keeps caches and replays right. Every key begins with
-- user_id, so no relationship can join two users and every statement of one user stays on one Citus shard.
--
-- An index beside a primary key only answers what names its second column, and says so with `is not null`. Where tables
-- were empty when a plan was made, or most users are small, every index that begins with the user looks as good as the
-- key; such plans are kept, and of a large user they would read everything to find one memory.

create table memory.user_metadata (
  user_id text primary key check (user_id <> ''),
  incarnation uuid not null default gen_random_uuid(),
  version bigint not null default 0,
  node_count bigint not null default 0,
  relationship_count bigint not null default 0,
  entity_count bigint not null default 0,
  tombstone_floor bigint not null default 0,
  -- No tombstone was written later: what is newer need not be looked up among them.
  last_deletion timestamptz,
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
create index nodes_created on memory.nodes (user_id, created_at desc) where created_at is not null;
create index nodes_type_created on memory.nodes (user_id, context_type, created_at desc) where context_type is not null;
create index nodes_thread on memory.nodes (user_id, thread_id, seq) where thread_id is not null;
create index nodes_version on memory.nodes (user_id, version) where version is not null;
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

create index relationships_reverse on memory.relationships (user_id, to_node_id) where to_node_id is not null;
create index relationships_version on memory.relationships (user_id, version) where version is not null;

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

create index embeddings_version on memory.embeddings (user_id, version) where version is not null;

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

create index tombstones_version on memory.tombstones (user_id, version) where version is not null;

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
where context_type = 'domain_entity' and not metadata @> '{"stub": true}';

insert into memory.schema_migrations (number, name, checksum) values (2, 'graph', '60419563917a810d058ddba95ac720ad4df2fdccb4a9ac9a2592fae874dc84ff');

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
-- Statistics for dashboards, refreshed together. They count what a user sees: no memory that has expired, and no stub,
-- which only holds the place of an entity. Row-level security does not reach into a materialised view, so no role but the
-- owner may read them.

create materialized view memory.user_stats as
with memories as (
  select user_id, context_type, importance, access_count, created_at
  from memory.nodes
  where (expires_at is null or expires_at > now())
    and not (context_type = 'domain_entity' and metadata @> '{"stub": true}')
), per_user_relationships as (
  select r.user_id, count(*) as relationship_count
  from memory.relationships r
  where not exists (select from memory.nodes e
                    where e.user_id = r.user_id and e.node_id = r.from_node_id and e.expires_at <= now())
    and not exists (select from memory.nodes e
                    where e.user_id = r.user_id and e.node_id = r.to_node_id and e.expires_at <= now())
  group by r.user_id
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
from memories n
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
where (expires_at is null or expires_at > now())
  and not (context_type = 'domain_entity' and metadata @> '{"stub": true}')
group by user_id, context_type;

create materialized view memory.entity_stats as
select user_id, entity_system, coalesce(entity_type, '') as entity_type,
       count(*) as entity_count,
       sum(access_count)::bigint as total_accesses,
       max(updated_at) as latest_update
from memory.nodes
where context_type = 'domain_entity' and (expires_at is null or expires_at > now())
  and not metadata @> '{"stub": true}'
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
  -- Views that a restored dump has left empty can only be filled at once.
  if (select bool_and(v.relispopulated) from pg_class v join pg_class t on t.relnamespace = v.relnamespace
      where t.oid = v_table and v.relkind = 'm') then
    refresh materialized view concurrently memory.user_stats;
    refresh materialized view concurrently memory.context_type_stats;
    refresh materialized view concurrently memory.entity_stats;
  else
    refresh materialized view memory.user_stats;
    refresh materialized view memory.context_type_stats;
    refresh materialized view memory.entity_stats;
  end if;
  perform memory.set_scope(v_scope);
  update memory.deployment set stats_refreshed_at = clock_timestamp();
  return true;
end
$$;
revoke all on function memory.refresh_stats() from public;

insert into memory.schema_migrations (number, name, checksum) values (4, 'statistics', '1861173f7d6d888d0cb6e8861128cbc6fd143ff2cb9998d90ef49d178282eb33');

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
  insert into memory.user_metadata (user_id, last_deletion)
    values (p_user, (select max(written_at) from memory.tombstones where user_id = p_user))
    on conflict (user_id) do nothing;
  perform 1 from memory.user_metadata where user_id = p_user for update;
  select count(*), count(*) filter (where context_type = 'domain_entity') into v_nodes, v_entities
    from memory.nodes where user_id = p_user;
  select count(*) into v_relationships from memory.relationships where user_id = p_user;
  update memory.user_metadata
    set incarnation = v_incarnation, version = version + 1, last_activity = now(), metadata = metadata - '{embedded, words}'::text[],
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
  v_function regprocedure;
begin
  execute format('grant usage on schema %s to %I', v_schema, p_role);
  foreach v_table in array array['user_metadata', 'nodes', 'relationships', 'embeddings', 'postings', 'tombstones',
                                 'applied_watermarks', 'erasures'] loop
    execute format('grant select, insert, update, delete on %s.%I to %I', v_schema, v_table, p_role);
  end loop;
  foreach v_table in array array['deployment', 'schema_migrations', 'entities'] loop
    execute format('grant select on %s.%I to %I', v_schema, v_table, p_role);
  end loop;
  -- All functions but those for the owner's hands.
  for v_function in
    select p.oid from pg_proc p
    where p.pronamespace = v_schema::regnamespace and p.proname not in ('set_scope', 'grant_runtime')
  loop
    execute format('grant execute on function %s to %I', v_function, p_role);
  end loop;
  update memory.deployment
    set runtime_roles = array_append(array_remove(runtime_roles, p_role), p_role);
end
$$;
revoke all on function memory.grant_runtime(text) from public;

insert into memory.schema_migrations (number, name, checksum) values (5, 'administration', '4f32c71cacaf48667c2f33e8facd0f35b3879ed4ae08f3f2550bd49828c13c2f');

-- 0006 write_batch
-- The write path: one user's numbered operations, applied exactly once and in order, in one call.

-- An identical memory is found by its hash.
create index nodes_content on memory.nodes (user_id, content_hash) where content_hash is not null;

-- The later of two clocks; a missing one is older than any. Clocks are fixed-width text, so they compare as bytes.
create function memory.later(p_one text, p_other text) returns boolean
language sql immutable parallel safe
as $$ select coalesce(p_one, '') collate "C" > coalesce(p_other, '') collate "C" $$;

-- The same clock for every key of an object, behind a prefix that says which object.
create function memory.clocks_of(p_object jsonb, p_prefix text, p_clock text) returns jsonb
language sql immutable parallel safe
as $$ select coalesce(jsonb_object_agg(p_prefix || k, p_clock), '{}') from jsonb_object_keys(p_object) k $$;

-- Two objects merged key by key, the later clock winning. Equal clocks are decided by the values, so that the result
-- does not depend on the order of arrival.
create function memory.merged(p_old jsonb, p_old_clocks jsonb, p_new jsonb, p_new_clocks jsonb, p_prefix text)
returns jsonb
language sql immutable parallel safe
as $$
  select coalesce(jsonb_object_agg(k, case
           when not p_old ? k then p_new -> k
           when not p_new ? k then p_old -> k
           when memory.later(p_new_clocks ->> (p_prefix || k), p_old_clocks ->> (p_prefix || k)) then p_new -> k
           when memory.later(p_old_clocks ->> (p_prefix || k), p_new_clocks ->> (p_prefix || k)) then p_old -> k
           else greatest(p_old -> k, p_new -> k)
         end), '{}')
  from (select jsonb_object_keys(p_old) union select jsonb_object_keys(p_new)) as keys (k)
$$;

create function memory.merged_clocks(p_old jsonb, p_new jsonb) returns jsonb
language sql immutable parallel safe
as $$
  select coalesce(jsonb_object_agg(k, case
           when memory.later(p_new ->> k, p_old ->> k) then p_new -> k else p_old -> k
         end), '{}')
  from (select jsonb_object_keys(p_old) union select jsonb_object_keys(p_new)) as keys (k)
$$;

create function memory.merged_set(p_one text[], p_other text[]) returns text[]
language sql immutable parallel safe
as $$
  select coalesce(array_agg(v order by v collate "C"), '{}')
  from (select unnest(p_one) union select unnest(p_other)) as members (v)
$$;

-- Whether it only holds the place of an entity that is spoken of and not there yet.
create function memory.is_stub(p_metadata jsonb) returns boolean
language sql immutable parallel safe
as $$ select p_metadata @> '{"stub": true}' $$;

-- What a key of an object lists.
create function memory.listed(p_content jsonb, p_key text) returns text[]
language sql immutable parallel safe
as $$ select array(select jsonb_array_elements_text(coalesce(p_content -> p_key, '[]'))) $$;

-- Everything an entity is called.
create function memory.names_of(p_content jsonb) returns text[]
language sql immutable parallel safe
as $$ select array_remove(memory.listed(p_content, 'aliases') || (p_content ->> 'entity_name'), null) $$;

-- When an entity got its name, which its summary repeats; a report without a name is older than any with one.
create function memory.named_at(p_clocks jsonb) returns text
language sql immutable parallel safe
as $$ select coalesce(p_clocks ->> 'content.entity_name', '0') || coalesce(p_clocks ->> 'row', '') $$;

-- An entity's content: `entity_data` key by key, `other_ids` as a set, `update_count` as a sum, `base_confidence` as the
-- greatest, the rest by key. It is called by the later name; every other name it ever had is an alias.
create function memory.merged_entity(p_old jsonb, p_old_clocks jsonb, p_new jsonb, p_new_clocks jsonb) returns jsonb
language sql immutable parallel safe
as $$
  select both_of.content || jsonb_build_object(
    'entity_data', memory.merged(coalesce(p_old -> 'entity_data', '{}'), p_old_clocks,
                                 coalesce(p_new -> 'entity_data', '{}'), p_new_clocks, 'data.'),
    'aliases', to_jsonb(array_remove(memory.merged_set(memory.names_of(p_old), memory.names_of(p_new)),
                                     both_of.content ->> 'entity_name')),
    'other_ids', to_jsonb(memory.merged_set(memory.listed(p_old, 'other_ids'), memory.listed(p_new, 'other_ids'))),
    'update_count', coalesce((p_old ->> 'update_count')::bigint, 0) + coalesce((p_new ->> 'update_count')::bigint, 0),
    'base_confidence', greatest((p_old ->> 'base_confidence')::double precision,
                                (p_new ->> 'base_confidence')::double precision))
  from (select memory.merged(p_old, p_old_clocks, p_new, p_new_clocks, 'content.')) as both_of (content)
$$;

-- Every report of an entity raises its confidence a little above the best single one.
create function memory.raised_confidence(p_old jsonb, p_new jsonb) returns double precision
language sql immutable parallel safe
as $$
  select least(1, coalesce(greatest((p_old ->> 'base_confidence')::double precision,
                                    (p_new ->> 'base_confidence')::double precision), 1)
    + 0.05 * greatest(0, coalesce((p_old ->> 'update_count')::bigint, 0)
                         + coalesce((p_new ->> 'update_count')::bigint, 0) - 1))
$$;

-- The version of a memory's last write; that of an item of a store stays the same while its expiry is put off. What a
-- memory without a key, which is no item, says of a store is its own.
create function memory.item_version(p_key text, p_metadata jsonb, p_version bigint) returns bigint
language sql immutable parallel safe
as $$
  select case when p_key is null then p_version else coalesce((p_metadata #>> '{store,version}')::bigint, p_version) end
$$;

-- Another id for a node, and for the ends of its relationships; its vectors are left to be made anew. One statement moves
-- both: foreign keys are checked at its end.
create function memory.rename_node(p_user text, p_from uuid, p_to uuid, p_version bigint) returns void
language plpgsql volatile
as $$
begin
  delete from memory.embeddings where user_id = p_user and node_id = p_from;
  with edges as (
    update memory.relationships
      set from_node_id = case when from_node_id = p_from then p_to else from_node_id end,
          to_node_id = case when to_node_id = p_from then p_to else to_node_id end,
          version = p_version
      where user_id = p_user and (from_node_id = p_from or to_node_id = p_from)
  )
  update memory.nodes set node_id = p_to, version = p_version where user_id = p_user and node_id = p_from;
end
$$;

-- Operations without those that were written before the user was erased; `"erased": true` when none is left. They were
-- if they were written for an incarnation that was erased. Written for the present one they were not; for one that
-- nobody knows or that is over for another reason, the time decides.
create function memory.unerased(p_user text, p_ops jsonb) returns jsonb
language plpgsql volatile
as $$
declare
  v_incarnation uuid := (p_ops ->> 'incarnation')::uuid;
  v_erased_at timestamptz;
  v_erased boolean;
  v_list text;
  v_kept jsonb;
  v_none_left boolean := true;
begin
  select max(erased_at), coalesce(bool_or(incarnation = v_incarnation), false) into v_erased_at, v_erased
    from memory.erasures where user_hash = encode(sha256(convert_to(p_user, 'UTF8')), 'hex');
  if v_erased_at is null
     or (not v_erased and exists (
       select from memory.user_metadata where user_id = p_user and incarnation = v_incarnation)) then
    return p_ops;
  end if;
  foreach v_list in array array['nodes', 'entities', 'edges', 'deletes'] loop
    select jsonb_agg(o) into v_kept from jsonb_array_elements(p_ops -> v_list) o
      where not v_erased and (o ->> 'written_at')::timestamptz > v_erased_at;
    p_ops := p_ops - v_list;
    if v_kept is not null then
      p_ops := p_ops || jsonb_build_object(v_list, v_kept);
      v_none_left := false;
    end if;
  end loop;
  return p_ops || jsonb_build_object('erased', v_none_left);
end
$$;

-- The columns of a memory that no cache needs to know.
create function memory.inner_columns() returns text[]
language sql immutable parallel safe
as $$ select '{user_id, content_hash, field_clocks, entity_id, entity_system, entity_type, entity_name, is_new}'::text[] $$;

-- These functions plan once. What is cheap is planned anew with each call as long as arrays are known to be short, which
-- takes as long as a write of one memory; no plan here depends on how much there is.

-- Writes the `nodes` in several users' operations above `p_mark`, but not those numbered in `p_dead`, each user's in the
-- given version. What lost against a later write is not in the answer; `o_told` is what a sender with `"echo": true` does
-- not know of a new one.
create function memory.put_nodes(
  p_users text[], p_ops jsonb[], p_versions bigint[], p_mark bigint, p_dead bigint[], p_now timestamptz
) returns table (o_user_id text, o_node_id uuid, o_context_type text, o_is_new boolean, o_told jsonb)
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
declare
  -- A client's clock may run ahead, but not so far that nobody could ever overwrite what it wrote.
  v_cutoff timestamptz := p_now + interval '60 seconds';
  v_echo boolean := jsonb '{"echo": true}' <@ any (p_ops);
begin
  return query
    insert into memory.nodes as t (
      user_id, node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence,
      external_id, thread_id, seq, namespace, key, content_hash, version, written_at, written_by, created_at,
      updated_at, last_accessed_at, expires_at)
    select s.user_id, o.node_id, o.context_type, o.content, o.content_kind, o.summary, o.tags, o.metadata, o.importance,
           o.confidence, o.external_id, o.thread_id,
           case when o.thread_id is not null then o.seq end,
           o.namespace, o.key, decode(o.content_hash, 'hex'), s.version, least(o.written_at, v_cutoff), o.written_by,
           coalesce(o.created_at, p_now), coalesce(o.updated_at, p_now), coalesce(o.last_accessed_at, p_now),
           o.expires_at
    from unnest(p_users, p_ops, p_versions) as s (user_id, ops, version)
    cross join lateral jsonb_to_recordset(s.ops -> 'nodes') as o (
      n bigint, node_id uuid, context_type text, content jsonb, content_kind text, summary text, tags text[],
      metadata jsonb, importance double precision, confidence double precision, external_id text, thread_id text,
      seq bigint, namespace text[], key text, content_hash text, written_at timestamptz, written_by uuid,
      created_at timestamptz, updated_at timestamptz, last_accessed_at timestamptz, expires_at timestamptz)
    where o.n > p_mark and o.n <> all (p_dead)
    on conflict (user_id, node_id) do update set
      context_type = excluded.context_type, content = excluded.content, content_kind = excluded.content_kind,
      summary = excluded.summary, tags = excluded.tags, metadata = excluded.metadata,
      importance = excluded.importance, confidence = excluded.confidence, external_id = excluded.external_id,
      thread_id = excluded.thread_id,
      -- In another thread it comes last, like whatever is new there.
      seq = case when t.thread_id is not distinct from excluded.thread_id then t.seq else excluded.seq end,
      namespace = excluded.namespace, key = excluded.key,
      content_hash = excluded.content_hash, version = excluded.version, written_at = excluded.written_at,
      written_by = excluded.written_by, updated_at = excluded.updated_at, expires_at = excluded.expires_at
    where (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
      and t.context_type <> 'domain_entity'
    returning t.user_id, t.node_id, t.context_type, xmax = 0, case when v_echo and xmax = 0 then
              jsonb_build_object('node_id', t.node_id, 'seq', t.seq, 'written_at', t.written_at) end;
end
$$;

-- A vector of another text than the one that stands there now is worse than none.
create function memory.drop_outdated_vectors(p_user text, p_changed uuid[]) returns void
language plpgsql volatile
as $$
declare
  v_node uuid;
begin
  foreach v_node in array p_changed loop
    delete from memory.embeddings e
      where e.user_id = p_user and e.node_id = v_node
        and coalesce(e.content_hash <> (
              select n.content_hash from memory.nodes n where n.user_id = p_user and n.node_id = v_node), true);
  end loop;
end
$$;

-- Writes the `vectors` of several users' memories, but not where another text has won. Citus, which looks up the rows of a
-- list in one user's table only, would refuse it.
create function memory.put_vectors(
  p_users text[], p_ops jsonb[], p_versions bigint[], p_vectors public.vector[], p_halves public.halfvec[]
) returns void
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
begin
  insert into memory.embeddings as t (
    user_id, node_id, field, model, dimensions, embedding, embedding_half, content_hash, version)
  select s.user_id, o.node_id, o.field, o.model, o.dimensions,
         case when o.dimensions <= 2000 then p_vectors[o.place] end,
         case when o.dimensions > 2000 then p_halves[o.place] end,
         there.content_hash, s.version
  from unnest(p_users, p_ops, p_versions) as s (user_id, ops, version)
  cross join lateral jsonb_to_recordset(s.ops -> 'vectors') as o (
    node_id uuid, field text, model text, dimensions integer, place integer, content_hash text)
  -- Looked up one by one, however large the users are.
  cross join lateral (
    select n.content_hash from memory.nodes n where n.user_id = s.user_id and n.node_id = o.node_id offset 0
  ) as there
  where there.content_hash is not distinct from decode(o.content_hash, 'hex')
  on conflict (user_id, node_id, field, model) do update set
    dimensions = excluded.dimensions, embedding = excluded.embedding, embedding_half = excluded.embedding_half,
    content_hash = excluded.content_hash, version = excluded.version;
end
$$;

-- Applies what is above the watermark of (user, instance) and moves the watermark in the same transaction, so that
-- sending a batch again changes nothing. `p_ops` holds `user_id`, the `last` number and the `oldest` time of writing in
-- it, and lists of operations by kind, each operation with its number `n`: `nodes`, `entities`, `edges`, `vectors`,
-- `counts`, `deletes`; those that would be empty are left out. A key appears once per list; deletes run last, so a put
-- after a delete of the same node belongs into the next batch. What is above `o_before` was applied; what lost against a
-- later write or deletion is consumed like the rest. A node marked `only_once` that the user has already, with the same
-- content and type under another id, is not stored: `o_same` names the one that is there, which counts as accessed, and
-- relationships of the batch go to that one. It also names the new id of an entity that had another one than its
-- identity gives.
-- A missing end of a relationship raises 23503 with the operation in DETAIL. With `"echo": true` in `p_ops`, `o_echo`
-- tells a cache what is different from version to version: `nodes` and `edges` as they are now, the ids that are
-- `deleted`, and of `new` nodes, which are as they were sent, what the sender does not know; times that he left open are
-- `now`.
-- With `"guarded": true`, a node may carry `if_version`: the version it must have now, 0 for one that is not there. One
-- that has another, or that would lose against what is there, raises 23V01 with the operation in DETAIL.
-- With `embedded`, a name, no memory of the batch lacks a vector that can be made; where that held before, it is noted
-- under that name.
-- `"replayed": true` says that the operations have waited, written for `incarnation` of the user as far as that is known:
-- what was written before the user was erased is dropped, and so is a relationship to a memory that is gone by now.
create function memory.apply_user_batch(
  p_user text, p_instance uuid, p_ops jsonb, p_vectors public.vector[], p_halves public.halfvec[],
  out o_user_id text, out o_incarnation uuid, out o_version bigint, out o_before bigint, out o_mark bigint,
  out o_same jsonb, out o_echo jsonb
)
language plpgsql volatile
as $$
declare
  -- What no cache needs to know.
  c_inner constant text[] := memory.inner_columns();
  v_now timestamptz := clock_timestamp();
  -- A client's clock may run ahead, but not so far that nobody could ever overwrite what it wrote.
  v_cutoff timestamptz := v_now + interval '60 seconds';
  v_written jsonb;
  v_version bigint;
  v_last_deletion timestamptz;
  v_embedded boolean;
  v_late boolean;
  v_mark bigint;
  v_dead bigint[] := '{}';
  v_ids uuid[];
  v_systems text[];
  v_names text[];
  v_known uuid[];
  v_gone uuid[] := '{}';
  v_renamed uuid[] := '{}';
  v_same jsonb := '{}';
  v_once jsonb;
  v_hash bytea;
  v_twins boolean := false;
  v_missing bigint;
  v_misplaced boolean := false;
  v_changed uuid[] := '{}';
  v_wanted boolean := p_ops -> 'echo' = 'true';
  v_exists boolean;
  v_kind text := p_ops ->> 'embedded';
  v_replayed boolean := coalesce(p_ops -> 'replayed' = 'true', false);
  v_node_rows jsonb[] := '{}';
  v_new_rows jsonb[] := '{}';
  v_edge_rows jsonb[] := '{}';
  v_nodes bigint := 0;
  v_entities bigint := 0;
  v_edges bigint := 0;
  v_count bigint;
  v_row record;
begin
  perform memory.bind_users(array[p_user]);
  select incarnation, version, last_deletion,
         v_kind is not null and version <= coalesce((metadata -> 'embedded' ->> v_kind)::bigint, 0)
    into o_incarnation, v_version, v_last_deletion, v_embedded
    from memory.user_metadata where user_id = p_user for update;
  v_exists := found;
  -- After the lock, which whoever erases the user holds until it is done.
  if v_replayed then
    p_ops := memory.unerased(p_user, p_ops);
    if p_ops -> 'erased' = 'true' then
      -- Nothing of an erased user stays, and no row to remember the watermark in.
      o_user_id := p_user;
      o_version := coalesce(v_version, 0);
      o_before := (p_ops ->> 'last')::bigint;
      o_mark := o_before;
      o_same := '{}';
      return;
    end if;
  end if;
  -- Who is there now may be erased before he is locked.
  while not v_exists loop
    insert into memory.user_metadata (user_id, last_deletion)
      values (p_user, (select max(written_at) from memory.tombstones where user_id = p_user))
      on conflict (user_id) do nothing;
    select incarnation, version, last_deletion,
           v_kind is not null and version <= coalesce((metadata -> 'embedded' ->> v_kind)::bigint, 0)
      into o_incarnation, v_version, v_last_deletion, v_embedded
      from memory.user_metadata where user_id = p_user for update;
    v_exists := found;
  end loop;
  -- In a statement after the lock: one that waited for the lock would see the watermark from before the wait.
  select seq into v_mark from memory.applied_watermarks where user_id = p_user and instance_id = p_instance;
  v_mark := coalesce(v_mark, 0);

  if p_ops ->> 'user_id' is distinct from p_user then
    raise exception 'operations of another user' using errcode = '22023';
  end if;
  o_user_id := p_user;
  o_before := v_mark;
  o_mark := greatest(v_mark, (p_ops ->> 'last')::bigint);
  o_version := v_version;
  o_same := '{}';
  if o_mark = o_before then
    return;
  end if;
  v_version := v_version + 1;

  -- Only what was written before some deletion can have been deleted already.
  v_late := v_last_deletion is not null and least((p_ops ->> 'oldest')::timestamptz, v_cutoff) <= v_last_deletion;
  -- Citus takes no outer or anti join between a table and jsonb, hence the arrays. The joins repeat the ids as an
  -- array, so that they are looked up by key however large the user is.
  if v_late then
    v_written := coalesce(p_ops -> 'nodes', '[]') || coalesce(p_ops -> 'entities', '[]');
    select array_agg(o.node_id) into v_ids from jsonb_to_recordset(v_written) as o (node_id uuid);
    select coalesce(array_agg(o.n), '{}') into v_dead
      from jsonb_to_recordset(v_written) as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid)
      join memory.tombstones d on d.user_id = p_user and d.node_id = o.node_id and d.node_id = any (v_ids)
      where (d.written_at, d.written_by) >= (least(o.written_at, v_cutoff), o.written_by);
  end if;

  if p_ops -> 'guarded' = 'true' then
    select min(o.n) into v_missing
      from jsonb_to_recordset(p_ops -> 'nodes')
             as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid, if_version bigint)
      where o.n > v_mark and o.if_version is not null
        and (o.n = any (v_dead)
             or o.if_version <> coalesce((
                  select memory.item_version(t.key, t.metadata, t.version) from memory.nodes t
                  where t.user_id = p_user and t.node_id = o.node_id
                    and (t.expires_at is null or t.expires_at > v_now)), 0)
             or exists (select from memory.nodes t
                        where t.user_id = p_user and t.node_id = o.node_id
                          and (t.written_at, t.written_by) >= (least(o.written_at, v_cutoff), o.written_by)));
    if v_missing is not null then
      raise exception 'another version is there'
        using errcode = '23V01', detail = jsonb_build_object('user_id', p_user, 'n', v_missing)::text;
    end if;
  end if;

  if p_ops ? 'nodes' then
    -- Mostly there is none, which the index alone can tell. A few are looked up one after another, in the order of that
    -- index: for row security and the user the planner takes every user for a small one, and would rather read and sort
    -- all memories of a large one, if it might. For many that is not too much. They are asked for in ways whose plan is
    -- kept, where one for the array would be made anew each time.
    v_once := jsonb_path_query_array(p_ops, '$.nodes[*] ? (@.only_once == true).content_hash');
    if jsonb_array_length(v_once) > 4 then
      v_twins := exists (
        select from memory.nodes where user_id = p_user and content_hash = any (array(
          select decode(h, 'hex') from jsonb_array_elements_text(v_once) h)));
    elsif v_once <> '[]' then
      set local enable_sort = off;
      for v_place in 0 .. jsonb_array_length(v_once) - 1 loop
        v_hash := decode(v_once ->> v_place, 'hex');
        v_twins := v_twins or v_hash is not distinct from (
          select n.content_hash from memory.nodes n where n.user_id = p_user and n.content_hash >= v_hash
          order by n.content_hash limit 1);
      end loop;
      set local enable_sort to default;
    end if;
    if v_twins then
      select coalesce(jsonb_object_agg(twin.new_id, twin.old_id), '{}'), v_dead || coalesce(array_agg(twin.n), '{}')
        into v_same, v_dead
        from (
          select o.n, o.node_id as new_id, min(n.node_id::text) as old_id
          from jsonb_to_recordset(p_ops -> 'nodes')
                 as o (n bigint, node_id uuid, context_type text, content_hash text, only_once boolean)
          join memory.nodes n on n.user_id = p_user and n.content_hash = decode(o.content_hash, 'hex')
            and n.content_hash = any (array(
              select decode(h ->> 'content_hash', 'hex') from jsonb_array_elements(p_ops -> 'nodes') h))
          where o.only_once and o.n > v_mark and n.context_type = o.context_type and n.node_id <> o.node_id
            and (n.expires_at is null or n.expires_at > v_now)
          group by o.n, o.node_id
        ) as twin;
    end if;
    if v_same <> '{}' then
      update memory.nodes set access_count = access_count + 1, last_accessed_at = v_now
        where user_id = p_user and node_id = any (array(select value::uuid from jsonb_each_text(v_same)));
    end if;

    if p_ops @? '$.nodes[*].thread_id ? (@ != null)' then
      -- In its thread a memory stands where it says, or comes last.
      p_ops := jsonb_set(p_ops, '{nodes}', (
        select jsonb_agg(case when o.op ->> 'seq' is not null then o.op
                 else o.op || jsonb_build_object('seq', o.place + (
                   select coalesce(max(e.seq), 0) from memory.nodes e
                   where e.user_id = p_user and e.thread_id = o.op ->> 'thread_id')) end)
        from (
          select op, row_number() over (
            partition by op -> 'thread_id', (op ->> 'n')::bigint > v_mark and (op ->> 'n')::bigint <> all (v_dead)
            order by (op ->> 'n')::bigint) as place
          from jsonb_array_elements(p_ops -> 'nodes') op
        ) as o));
    end if;

    for v_row in
      select * from memory.put_nodes(array[p_user], array[p_ops], array[v_version], v_mark, v_dead, v_now)
    loop
      v_nodes := v_nodes + v_row.o_is_new::int;
      v_misplaced := v_misplaced or v_row.o_context_type = 'domain_entity';
      if not v_row.o_is_new then
        v_changed := v_changed || v_row.o_node_id;
      elsif v_wanted then
        v_new_rows := v_new_rows || v_row.o_told;
      end if;
    end loop;
    if v_wanted and v_changed <> '{}' then
      v_node_rows := array(
        select to_jsonb(n) - c_inner from memory.nodes n where n.user_id = p_user and n.node_id = any (v_changed));
    end if;
    if v_nodes < jsonb_array_length(p_ops -> 'nodes') and not v_misplaced then
      select array_agg(o.node_id) into v_ids
        from jsonb_to_recordset(p_ops -> 'nodes') as o (n bigint, node_id uuid) where o.n > v_mark;
      v_misplaced := exists (
        select from memory.nodes where user_id = p_user and node_id = any (v_ids) and context_type = 'domain_entity');
    end if;
    if v_misplaced then
      raise exception 'an entity is merged, not put' using errcode = '22023';
    end if;
  end if;

  if p_ops ? 'entities' then
    -- An entity that somebody inserted by hand has an id of its own making; the first write that meets it gives it the
    -- one that is derived from its identity, which is the same on every instance.
    select array_agg(o.content ->> 'entity_system'), array_agg(o.content ->> 'entity_id') into v_systems, v_names
      from jsonb_to_recordset(p_ops -> 'entities') as o (content jsonb);
    for v_row in
      select n.node_id as given, o.node_id as derived, o.written_by
      from jsonb_to_recordset(p_ops -> 'entities') as o (n bigint, node_id uuid, content jsonb, written_by uuid)
      join memory.nodes n on n.user_id = p_user and n.context_type = 'domain_entity'
        and n.entity_system = o.content ->> 'entity_system' and n.entity_id = o.content ->> 'entity_id'
        and n.entity_system = any (v_systems) and n.entity_id = any (v_names)
      where o.n > v_mark and o.n <> all (v_dead) and n.node_id <> o.node_id
        and not exists (select from memory.nodes taken where taken.user_id = p_user and taken.node_id = o.node_id)
    loop
      perform memory.rename_node(p_user, v_row.given, v_row.derived, v_version);
      insert into memory.tombstones as t (user_id, node_id, version, written_at, written_by, deleted_at)
        values (p_user, v_row.given, v_version, v_now, v_row.written_by, v_now)
        on conflict (user_id, node_id) do update set
          version = excluded.version, written_at = excluded.written_at, written_by = excluded.written_by,
          deleted_at = excluded.deleted_at;
      v_last_deletion := greatest(v_last_deletion, v_now);
      v_renamed := v_renamed || v_row.given;
      v_same := v_same || jsonb_build_object(v_row.given::text, v_row.derived);
      if v_wanted then
        v_node_rows := v_node_rows || array(
          select to_jsonb(n) - c_inner from memory.nodes n where n.user_id = p_user and n.node_id = v_row.derived);
        v_edge_rows := v_edge_rows || array(
          select to_jsonb(r) - c_inner from memory.relationships r
          where r.user_id = p_user and (r.from_node_id = v_row.derived or r.to_node_id = v_row.derived));
      end if;
    end loop;

    -- What is a stub knows nothing, so it only fills an empty place, and has no clock: whatever is known wins.
    for v_row in
      insert into memory.nodes as t (
        user_id, node_id, context_type, content, summary, tags, metadata, importance, confidence, version, written_at,
        written_by, field_clocks, created_at, updated_at, last_accessed_at, expires_at)
      select p_user, o.node_id, 'domain_entity',
             case when memory.is_stub(o.metadata) then o.content
               else jsonb_build_object('update_count', 1, 'base_confidence', o.confidence) || o.content end,
             o.summary, o.tags, o.metadata, o.importance, o.confidence,
             v_version, least(o.written_at, v_cutoff), o.written_by,
             case when memory.is_stub(o.metadata) then '{}'
               else memory.clocks_of(o.content, 'content.', c.clock)
                 || memory.clocks_of(coalesce(o.content -> 'entity_data', '{}'), 'data.', c.clock)
                 || memory.clocks_of(o.metadata, 'metadata.', c.clock)
                 || jsonb_build_object('row', c.clock) end,
             coalesce(o.created_at, v_now), coalesce(o.updated_at, v_now), coalesce(o.last_accessed_at, v_now),
             o.expires_at
      from jsonb_to_recordset(p_ops -> 'entities') as o (
        n bigint, node_id uuid, content jsonb, summary text, tags text[], metadata jsonb, importance double precision,
        confidence double precision, written_at timestamptz, written_by uuid, created_at timestamptz,
        updated_at timestamptz, last_accessed_at timestamptz, expires_at timestamptz)
      cross join lateral (
        select to_char(least(o.written_at, v_cutoff) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US ') || o.written_by
      ) as c (clock)
      where o.n > v_mark and o.n <> all (v_dead)
      on conflict (user_id, entity_system, entity_id) where context_type = 'domain_entity' do update set
        content = memory.merged_entity(t.content, t.field_clocks, excluded.content, excluded.field_clocks),
        field_clocks = memory.merged_clocks(t.field_clocks, excluded.field_clocks),
        metadata = memory.merged(t.metadata, t.field_clocks, excluded.metadata, excluded.field_clocks, 'metadata.')
                     - 'stub',
        created_at = case when memory.is_stub(t.metadata) then excluded.created_at else t.created_at end,
        tags = memory.merged_set(t.tags, excluded.tags),
        summary = case when memory.later(memory.named_at(excluded.field_clocks), memory.named_at(t.field_clocks))
                    then excluded.summary else t.summary end,
        importance = case when memory.later(excluded.field_clocks ->> 'row', t.field_clocks ->> 'row')
                       then excluded.importance else t.importance end,
        expires_at = case when memory.later(excluded.field_clocks ->> 'row', t.field_clocks ->> 'row')
                       then excluded.expires_at else t.expires_at end,
        confidence = memory.raised_confidence(t.content, excluded.content),
        content_hash = null, version = excluded.version, updated_at = greatest(t.updated_at, excluded.updated_at),
        written_at = case when (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
                       then excluded.written_at else t.written_at end,
        written_by = case when (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
                       then excluded.written_by else t.written_by end
      where not memory.is_stub(excluded.metadata)
      returning t.*, (xmax = 0) as is_new
    loop
      v_nodes := v_nodes + v_row.is_new::int;
      v_entities := v_entities + v_row.is_new::int;
      if v_wanted then
        v_node_rows := v_node_rows || (to_jsonb(v_row) - c_inner);
      end if;
      if not v_row.is_new then
        v_changed := v_changed || v_row.node_id;
      end if;
    end loop;
  end if;

  if v_changed <> '{}' then
    perform memory.drop_outdated_vectors(p_user, v_changed);
  end if;

  if p_ops ? 'edges' then
    if v_same <> '{}' then
      -- Two relationships may have become one by that: the later one counts.
      p_ops := jsonb_set(p_ops, '{edges}', coalesce((
        select jsonb_agg(latest.edge) from (
          select distinct on (edge -> 'from_node_id', edge -> 'to_node_id', edge -> 'relationship_type') edge
          from (
            select e || jsonb_build_object(
              'from_node_id', coalesce(v_same ->> (e ->> 'from_node_id'), e ->> 'from_node_id'),
              'to_node_id', coalesce(v_same ->> (e ->> 'to_node_id'), e ->> 'to_node_id')) as edge
            from jsonb_array_elements(p_ops -> 'edges') e where (e ->> 'n')::bigint > v_mark
          ) as renamed
          order by edge -> 'from_node_id', edge -> 'to_node_id', edge -> 'relationship_type',
                   least((edge ->> 'written_at')::timestamptz, v_cutoff) desc, (edge ->> 'n')::bigint
        ) as latest), '[]'));
    end if;
    select array_agg(o.from_node_id) || array_agg(o.to_node_id) into v_ids
      from jsonb_to_recordset(p_ops -> 'edges') as o (n bigint, from_node_id uuid, to_node_id uuid)
      where o.n > v_mark;
    select coalesce(array_agg(node_id), '{}') into v_known
      from memory.nodes where user_id = p_user and node_id = any (v_ids);
    v_dead := '{}';
    if v_late or v_replayed then
      -- An end that was deleted after the relationship was written takes the relationship with it. So does one that was
      -- removed while the relationship waited, whose tombstone is as old as the memory was.
      select coalesce(array_agg(distinct o.n), '{}') into v_dead
        from jsonb_to_recordset(p_ops -> 'edges')
               as o (n bigint, from_node_id uuid, to_node_id uuid, written_at timestamptz, written_by uuid)
        join memory.tombstones d on d.user_id = p_user and d.node_id in (o.from_node_id, o.to_node_id)
          and d.node_id = any (v_ids)
        where d.node_id <> all (v_known)
          and (v_replayed or (d.written_at, d.written_by) >= (least(o.written_at, v_cutoff), o.written_by));
    end if;
    select min(o.n) into v_missing
      from jsonb_to_recordset(p_ops -> 'edges') as o (n bigint, from_node_id uuid, to_node_id uuid)
      where o.n > v_mark and o.n <> all (v_dead)
        and not (o.from_node_id = any (v_known) and o.to_node_id = any (v_known));
    if v_missing is not null then
      raise exception 'an end of the relationship is missing'
        using errcode = '23503', detail = jsonb_build_object('user_id', p_user, 'n', v_missing)::text;
    end if;

    for v_row in
      insert into memory.relationships as t (
        user_id, from_node_id, to_node_id, relationship_type, strength, metadata, version, written_at, written_by,
        created_at, updated_at)
      select p_user, o.from_node_id, o.to_node_id, o.relationship_type, o.strength, o.metadata, v_version,
             least(o.written_at, v_cutoff), o.written_by, coalesce(o.created_at, v_now),
             coalesce(o.updated_at, v_now)
      from jsonb_to_recordset(p_ops -> 'edges') as o (
        n bigint, from_node_id uuid, to_node_id uuid, relationship_type text, strength double precision, metadata jsonb,
        written_at timestamptz, written_by uuid, created_at timestamptz, updated_at timestamptz)
      where o.n > v_mark and o.n <> all (v_dead)
      on conflict (user_id, from_node_id, to_node_id, relationship_type) do update set
        strength = excluded.strength, metadata = excluded.metadata, version = excluded.version,
        written_at = excluded.written_at, written_by = excluded.written_by, updated_at = excluded.updated_at
      where (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
      returning t.*, (xmax = 0) as is_new
    loop
      v_edges := v_edges + v_row.is_new::int;
      if v_wanted then
        v_edge_rows := v_edge_rows || (to_jsonb(v_row) - c_inner);
      end if;
    end loop;
  end if;

  if p_ops ? 'vectors' then
    -- One by one, so that each memory is looked up by key however large the user is. Not where another text has won.
    for v_row in
      select o.node_id, o.field, o.model, o.dimensions, decode(o.content_hash, 'hex') as content_hash,
             case when o.dimensions <= 2000 then p_vectors[o.place] end as whole,
             case when o.dimensions > 2000 then p_halves[o.place] end as half
      from jsonb_to_recordset(p_ops -> 'vectors') as o (
        n bigint, node_id uuid, field text, model text, dimensions integer, place integer, content_hash text)
      where o.n > v_mark
    loop
      insert into memory.embeddings as t (
        user_id, node_id, field, model, dimensions, embedding, embedding_half, content_hash, version)
      select p_user, n.node_id, v_row.field, v_row.model, v_row.dimensions, v_row.whole, v_row.half, n.content_hash,
             v_version
      from memory.nodes n
      where n.user_id = p_user and n.node_id = v_row.node_id and n.content_hash is not distinct from v_row.content_hash
      on conflict (user_id, node_id, field, model) do update set
        dimensions = excluded.dimensions, embedding = excluded.embedding, embedding_half = excluded.embedding_half,
        content_hash = excluded.content_hash, version = excluded.version;
    end loop;
  end if;

  -- What was counted where there was no Postgres; the reports of an entity raise its confidence as if they were told now.
  if p_ops ? 'counts' then
    select array_agg(o.node_id) into v_ids from jsonb_to_recordset(p_ops -> 'counts') as o (node_id uuid);
    for v_row in
      update memory.nodes as t
        set access_count = t.access_count + o.reads,
            last_accessed_at = greatest(t.last_accessed_at, least(coalesce(o.last_accessed_at, v_now), v_now)),
            content = case when t.context_type = 'domain_entity' and o.reports > 0
                        then t.content || jsonb_build_object('update_count',
                          coalesce((t.content ->> 'update_count')::bigint, 0) + o.reports)
                        else t.content end,
            confidence = case when t.context_type = 'domain_entity' and o.reports > 0
                           then memory.raised_confidence(t.content, jsonb_build_object('update_count', o.reports))
                           else t.confidence end,
            version = v_version
        from jsonb_to_recordset(p_ops -> 'counts')
               as o (n bigint, node_id uuid, reports bigint, reads bigint, last_accessed_at timestamptz)
        where o.n > v_mark and t.user_id = p_user and t.node_id = o.node_id and t.node_id = any (v_ids)
        returning t.*
    loop
      if v_wanted then
        v_node_rows := v_node_rows || (to_jsonb(v_row) - c_inner);
      end if;
    end loop;
  end if;

  if p_ops ? 'deletes' then
    select array_agg(o.node_id) into v_ids from jsonb_to_recordset(p_ops -> 'deletes') as o (node_id uuid);
    select coalesce(array_agg(n.node_id) filter (where not k.newer), '{}'),
           coalesce(array_agg(n.node_id) filter (where k.newer), '{}'),
           count(*) filter (where n.context_type = 'domain_entity' and not k.newer)
      into v_gone, v_known, v_count
      from jsonb_to_recordset(p_ops -> 'deletes')
             as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid)
      join memory.nodes n on n.user_id = p_user and n.node_id = o.node_id and n.node_id = any (v_ids)
      cross join lateral (
        select (n.written_at, n.written_by) > (least(o.written_at, v_cutoff), o.written_by)
      ) as k (newer)
      where o.n > v_mark;
    v_nodes := v_nodes - cardinality(v_gone);
    v_entities := v_entities - v_count;
    -- A tombstone tells caches to drop the memory, so none for one that was written later than its deletion.
    insert into memory.tombstones as t (user_id, node_id, version, written_at, written_by, deleted_at)
    select p_user, o.node_id, v_version, least(o.written_at, v_cutoff), o.written_by, v_now
    from jsonb_to_recordset(p_ops -> 'deletes') as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid)
    where o.n > v_mark and o.node_id <> all (v_known)
    on conflict (user_id, node_id) do update set
      version = excluded.version, written_at = excluded.written_at, written_by = excluded.written_by,
      deleted_at = excluded.deleted_at
    where (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by);
    select greatest(v_last_deletion, least(max(o.written_at), v_cutoff)) into v_last_deletion
      from jsonb_to_recordset(p_ops -> 'deletes') as o (written_at timestamptz);
    delete from memory.relationships
      where user_id = p_user and (from_node_id = any (v_gone) or to_node_id = any (v_gone));
    get diagnostics v_count = row_count;
    v_edges := v_edges - v_count;
    delete from memory.nodes where user_id = p_user and node_id = any (v_gone);
  end if;

  update memory.user_metadata
    set version = v_version, last_activity = v_now, node_count = node_count + v_nodes,
        entity_count = entity_count + v_entities, relationship_count = relationship_count + v_edges,
        last_deletion = greatest(last_deletion, v_last_deletion),
        metadata = case when v_embedded then memory.marked(metadata, v_kind, v_version) else metadata end
    where user_id = p_user;
  update memory.applied_watermarks set seq = o_mark, updated_at = v_now
    where user_id = p_user and instance_id = p_instance;
  if not found then
    insert into memory.applied_watermarks (user_id, instance_id, seq, updated_at)
      values (p_user, p_instance, o_mark, v_now);
  end if;
  if v_wanted then
    o_echo := jsonb_build_object(
      'nodes', to_jsonb(v_node_rows), 'new', to_jsonb(v_new_rows), 'now', v_now, 'edges', to_jsonb(v_edge_rows),
      'deleted', to_jsonb(v_renamed || v_gone));
  end if;
  o_version := v_version;
  o_same := v_same;
end
$$;

-- The same for several users in one call, each of whom has one batch. If all of them bring nothing but memories, to be
-- stored as they are, one set of statements does it for all; otherwise it is done for one after the other. Sorted,
-- because two callers that lock users in another order block each other. On Citus users are apart.
create function memory.apply_user_batches(
  p_users text[], p_instance uuid, p_ops jsonb[], p_vectors public.vector[], p_halves public.halfvec[]
) returns table (
  o_user_id text, o_incarnation uuid, o_version bigint, o_before bigint, o_mark bigint, o_same jsonb, o_echo jsonb
)
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
declare
  c_depends constant jsonpath := '$.nodes[*] ? (@.thread_id != null || @.context_type == "domain_entity")';
  c_once constant jsonpath := '$.nodes[*] ? (@.only_once == true)';
  v_now timestamptz := clock_timestamp();
  v_cutoff timestamptz := v_now + interval '60 seconds';
  v_users text[];
  v_ops jsonb[];
  v_simple boolean;
  v_once boolean;
  v_there text[];
  v_incarnations uuid[];
  v_versions bigint[];
  v_deletions timestamptz[];
  v_metadata jsonb[];
  v_before bigint[];
  v_embedded boolean[];
  v_new text[];
  v_told jsonb[];
  v_owners text[];
  v_changed uuid[];
  v_changed_rows jsonb[];
begin
  select array_agg(s.user_id order by s.user_id collate "C"), array_agg(s.ops order by s.user_id collate "C"),
         not memory.on_citus()
           and bool_and(s.ops ->> 'user_id' = s.user_id and s.ops -> 'guarded' = 'false' and s.ops ? 'nodes'
                        and not s.ops ?| '{entities, edges, counts, deletes, replayed}' and not s.ops @? c_depends),
         bool_or(s.ops @? c_once)
    into v_users, v_ops, v_simple, v_once
    from unnest(p_users, p_ops) as s (user_id, ops);

  if v_simple then
    perform memory.bind_users(v_users);
    begin
      select array_agg(u.user_id order by u.user_id collate "C"), array_agg(u.incarnation order by u.user_id collate "C"),
             array_agg(u.version + 1 order by u.user_id collate "C"),
             array_agg(u.last_deletion order by u.user_id collate "C"),
             array_agg(u.metadata order by u.user_id collate "C")
        into v_there, v_incarnations, v_versions, v_deletions, v_metadata
        from (select user_id, incarnation, version, last_deletion, metadata from memory.user_metadata
              where user_id = any (v_users) order by user_id collate "C" for update) as u;
      -- Locks of those who are there must not be held while the others are made, in another order.
      if v_there is distinct from v_users then
        raise sqlstate '23V02';
      end if;
    exception when sqlstate '23V02' then
      v_simple := false;
    end;
  end if;
  if v_simple then
    -- In a statement after the locks. Neither are repeats, and what may have been deleted already.
    select array_agg(u.mark order by u.place),
           array_agg(u.ops ->> 'embedded' is not null
                     and u.version <= coalesce((u.metadata -> 'embedded' ->> (u.ops ->> 'embedded'))::bigint, 0) + 1
                     order by u.place),
           bool_and((u.ops #>> '{nodes, 0, n}')::bigint > u.mark
                    and (u.last_deletion is null
                         or u.last_deletion < least((u.ops ->> 'oldest')::timestamptz, v_cutoff)))
      into v_before, v_embedded, v_simple
      from (
        select s.*, coalesce((select w.seq from memory.applied_watermarks w
                              where w.user_id = s.user_id and w.instance_id = p_instance), 0) as mark
        from unnest(v_users, v_ops, v_versions, v_deletions, v_metadata)
               with ordinality as s (user_id, ops, version, last_deletion, metadata, place)
      ) as u;
  end if;
  if v_simple and v_once then
    -- Looked for as for one user. Mostly there is no identical memory; where there may be one, that takes more.
    set local enable_sort = off;
    v_simple := not exists (
      select from unnest(v_users, v_ops) as s (user_id, ops)
      cross join lateral jsonb_to_recordset(s.ops -> 'nodes') as o (content_hash text, only_once boolean)
      cross join lateral (
        select n.content_hash from memory.nodes n
        where n.user_id = s.user_id and n.content_hash >= decode(o.content_hash, 'hex') order by n.content_hash limit 1
      ) as nearest
      where o.only_once and nearest.content_hash = decode(o.content_hash, 'hex'));
    set local enable_sort to default;
  end if;
  if v_simple is not true then
    return query
      select a.* from unnest(v_users, v_ops) as s (user_id, ops)
      cross join lateral memory.apply_user_batch(s.user_id, p_instance, s.ops, p_vectors, p_halves) as a;
    return;
  end if;

  select coalesce(array_agg(w.o_user_id) filter (where w.o_is_new), '{}'), array_agg(w.o_told) filter (where w.o_is_new),
         coalesce(array_agg(w.o_user_id) filter (where not w.o_is_new), '{}'),
         array_agg(w.o_node_id) filter (where not w.o_is_new)
    into v_new, v_told, v_owners, v_changed
    from memory.put_nodes(v_users, v_ops, v_versions, 0, '{}', v_now) as w;
  if cardinality(v_new) + cardinality(v_owners) < (select sum(jsonb_array_length(ops -> 'nodes')) from unnest(v_ops) as ops)
     and exists (
       select from unnest(v_users, v_ops) as s (user_id, ops)
       cross join lateral jsonb_to_recordset(s.ops -> 'nodes') as o (node_id uuid)
       cross join lateral (
         select n.context_type from memory.nodes n where n.user_id = s.user_id and n.node_id = o.node_id offset 0
       ) as there
       where there.context_type = 'domain_entity') then
    raise exception 'an entity is merged, not put' using errcode = '22023';
  end if;
  if v_changed is not null then
    for v_place in 1 .. cardinality(v_changed) loop
      perform memory.drop_outdated_vectors(v_owners[v_place], v_changed[v_place : v_place]);
    end loop;
    select array_agg(t.rows order by t.user_id collate "C") into v_changed_rows
      from (
        select t.user_id, jsonb_agg(t.row) filter (where t.row is not null) as rows
        from (select c.user_id, there.row
              from unnest(v_owners, v_changed) as c (user_id, node_id)
              cross join lateral (
                select to_jsonb(n) - memory.inner_columns() as row from memory.nodes n
                where n.user_id = c.user_id and n.node_id = c.node_id offset 0
              ) as there
              union all select u, null from unnest(v_users) as u) as t
        group by t.user_id
      ) as t;
  end if;
  if cardinality(p_vectors) + cardinality(p_halves) > 0 then
    perform memory.put_vectors(v_users, v_ops, v_versions, p_vectors, p_halves);
  end if;

  update memory.user_metadata as m
    set version = s.version, last_activity = v_now,
        node_count = m.node_count + cardinality(array_positions(v_new, s.user_id)),
        metadata = case when s.embedded then memory.marked(m.metadata, s.ops ->> 'embedded', s.version)
                     else m.metadata end
    from unnest(v_users, v_ops, v_versions, v_embedded) as s (user_id, ops, version, embedded)
    where m.user_id = s.user_id and m.user_id = any (v_users);
  insert into memory.applied_watermarks (user_id, instance_id, seq, updated_at)
    select s.user_id, p_instance, (s.ops ->> 'last')::bigint, v_now from unnest(v_users, v_ops) as s (user_id, ops)
    on conflict (user_id, instance_id) do update set seq = excluded.seq, updated_at = excluded.updated_at;
  return query
    select s.user_id, s.incarnation, s.version, s.before, (s.ops ->> 'last')::bigint, '{}'::jsonb,
           case when s.ops -> 'echo' = 'true' then jsonb_build_object(
             'nodes', coalesce(s.changed, '[]'), 'now', v_now, 'edges', '[]'::jsonb, 'deleted', '[]'::jsonb,
             'new', (select coalesce(jsonb_agg(new.told), '[]') from unnest(v_new, v_told) as new (user_id, told)
                     where new.user_id = s.user_id)) end
    from unnest(v_users, v_ops, v_incarnations, v_versions, v_before, v_changed_rows)
           as s (user_id, ops, incarnation, version, before, changed);
end
$$;

revoke all on function memory.later(text, text) from public;
revoke all on function memory.clocks_of(jsonb, text, text) from public;
revoke all on function memory.merged(jsonb, jsonb, jsonb, jsonb, text) from public;
revoke all on function memory.merged_clocks(jsonb, jsonb) from public;
revoke all on function memory.merged_set(text[], text[]) from public;
revoke all on function memory.is_stub(jsonb) from public;
revoke all on function memory.listed(jsonb, text) from public;
revoke all on function memory.names_of(jsonb) from public;
revoke all on function memory.named_at(jsonb) from public;
revoke all on function memory.merged_entity(jsonb, jsonb, jsonb, jsonb) from public;
revoke all on function memory.item_version(text, jsonb, bigint) from public;
revoke all on function memory.rename_node(text, uuid, uuid, bigint) from public;
revoke all on function memory.raised_confidence(jsonb, jsonb) from public;
revoke all on function memory.unerased(text, jsonb) from public;
revoke all on function memory.inner_columns() from public;
revoke all on function memory.put_nodes(text[], jsonb[], bigint[], bigint, bigint[], timestamptz) from public;
revoke all on function memory.drop_outdated_vectors(text, uuid[]) from public;
revoke all on function memory.put_vectors(text[], jsonb[], bigint[], public.vector[], public.halfvec[]) from public;
revoke all on function memory.apply_user_batches(
  text[], uuid, jsonb[], public.vector[], public.halfvec[]) from public;
revoke all on function memory.apply_user_batch(text, uuid, jsonb, public.vector[], public.halfvec[]) from public;

insert into memory.schema_migrations (number, name, checksum) values (6, 'write_batch', '934cc2c37b95878145c1319c6ef4eee55281d57d2cc60f9f4a9176a9cf914d5d');

-- 0007 housekeeping
-- What keeps statistics fresh and tables small. What looks at all users only names them; what removes rows is bound to
-- one user and works under that user's lock, like any other write.

-- When each chore of the whole database was begun last, in seconds: of many processes one does it.
alter table memory.deployment add column chores jsonb not null default '{}';

-- Whether the caller is to do a chore now: nobody has begun it for so many seconds.
create function memory.claim(p_chore text, p_seconds double precision) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_now double precision := extract(epoch from clock_timestamp());
begin
  update memory.deployment set chores = chores || jsonb_build_object(p_chore, v_now)
    where coalesce((chores ->> p_chore)::double precision, 0) <= v_now - p_seconds;
  return found;
end
$$;

-- Sums over all users as of the last refresh, which name nobody.
create function memory.totals()
returns table (o_users bigint, o_memories bigint, o_relationships bigint, o_entities bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return query select count(*), coalesce(sum(node_count), 0)::bigint, coalesce(sum(relationship_count), 0)::bigint,
                      coalesce(sum(entity_count), 0)::bigint
               from memory.user_stats;
end
$$;

-- Users after `p_after` who have memories that have expired or, given a moment, were not changed since.
create function memory.users_to_sweep(p_after text, p_before timestamptz, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  -- Two statements: one for both could not use the index of what expires.
  if p_before is null then
    return query select distinct user_id from memory.nodes
                 where user_id > p_after and expires_at <= v_now order by user_id limit p_most;
  else
    return query select distinct user_id from memory.nodes
                 where user_id > p_after and (updated_at < p_before or expires_at <= v_now)
                 order by user_id limit p_most;
  end if;
  perform memory.set_scope(v_scope);
end
$$;

-- Users after `p_after` of whom tombstones or watermarks are older than `p_before`.
create function memory.users_to_trim(p_after text, p_before timestamptz, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select old.user_id
               from (select user_id from memory.tombstones where user_id > p_after and deleted_at < p_before
                     union
                     select user_id from memory.applied_watermarks where user_id > p_after and updated_at < p_before
                    ) as old
               order by old.user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

-- Removes a user's memories that have expired and, given a moment, those not changed since that carry none of the tags
-- (lower case) to keep; items of a store have no age, only an expiry, and a stub stays while anything is related to it.
-- At most so many: call again until fewer are removed. Stubs count among those only, for they are no memories.
-- The tombstone carries the stamp of what it removed, not of the removal: a change that another process made later and
-- that arrives later still counts, as it would have if it had come first.
create function memory.sweep_user(p_user text, p_before timestamptz, p_keep_tags text[], p_most integer)
returns table (o_version bigint, o_removed bigint, o_expired bigint, o_old bigint, o_relationships bigint)
language plpgsql volatile
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_version bigint;
  v_gone uuid[];
  v_latest timestamptz;
  v_expired bigint;
  v_stubs bigint;
  v_entities bigint;
  v_edges bigint;
begin
  perform memory.bind_users(array[p_user]);
  select version into v_version from memory.user_metadata where user_id = p_user for update;
  if not found then
    if not exists (select from memory.nodes where user_id = p_user) then
      return query select 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint;
      return;
    end if;
    v_version := memory.touch_user(p_user);
  end if;
  -- In a statement after the lock: whatever was changed while it was waited for is judged as it is now.
  select array_agg(node_id), max(written_at), count(*) filter (where has_expired), count(*) filter (where is_entity),
         count(*) filter (where is_stub and not has_expired)
    into v_gone, v_latest, v_expired, v_entities, v_stubs
    from (
      select n.node_id, n.written_at, coalesce(n.expires_at <= v_now, false) as has_expired,
             n.context_type = 'domain_entity' as is_entity,
             n.context_type = 'domain_entity' and memory.is_stub(n.metadata) as is_stub
      from memory.nodes n
      where n.user_id = p_user
        and (n.expires_at <= v_now
             or (n.updated_at < p_before and n.namespace is null
                 and not exists (select from unnest(n.tags) as tag
                                 where tag = any (p_keep_tags) or lower(tag) = any (p_keep_tags))
                 and not (n.context_type = 'domain_entity' and memory.is_stub(n.metadata)
                          and exists (select from memory.relationships r
                                      where r.user_id = p_user
                                        and (r.from_node_id = n.node_id or r.to_node_id = n.node_id)))))
      limit p_most
    ) as going;
  if v_gone is null then
    return query select v_version, 0::bigint, 0::bigint, 0::bigint, 0::bigint;
    return;
  end if;
  v_version := v_version + 1;
  insert into memory.tombstones as t (user_id, node_id, version, written_at, written_by, deleted_at)
    select n.user_id, n.node_id, v_version, n.written_at, n.written_by, v_now
    from memory.nodes n where n.user_id = p_user and n.node_id = any (v_gone)
    on conflict (user_id, node_id) do update set
      version = excluded.version, written_at = excluded.written_at, written_by = excluded.written_by,
      deleted_at = excluded.deleted_at;
  delete from memory.relationships
    where user_id = p_user and (from_node_id = any (v_gone) or to_node_id = any (v_gone));
  get diagnostics v_edges = row_count;
  delete from memory.nodes where user_id = p_user and node_id = any (v_gone);
  update memory.user_metadata
    set version = v_version, last_deletion = greatest(last_deletion, v_latest),
        node_count = node_count - cardinality(v_gone), entity_count = entity_count - v_entities,
        relationship_count = relationship_count - v_edges
    where user_id = p_user;
  return query select v_version, cardinality(v_gone)::bigint, v_expired,
                      cardinality(v_gone) - v_expired - v_stubs, v_edges;
end
$$;

-- Forgets a user's oldest tombstones, at most so many, and raises the floor below which a cache cannot be brought up to
-- date; and the watermarks of processes that have not written for as long. How many there were.
create function memory.trim_user(p_user text, p_before timestamptz, p_most integer)
returns table (o_tombstones bigint, o_watermarks bigint)
language plpgsql volatile
as $$
declare
  v_gone uuid[];
  v_floor bigint;
  v_marks bigint;
begin
  perform memory.bind_users(array[p_user]);
  perform 1 from memory.user_metadata where user_id = p_user for update;
  select array_agg(node_id), max(version) into v_gone, v_floor
    from (
      select t.node_id, t.version from memory.tombstones t
      -- Naming the version lets its index be used, which has no others.
      where t.user_id = p_user and t.version >= 0 and t.deleted_at < p_before order by t.version limit p_most
    ) as oldest;
  if v_gone is not null then
    delete from memory.tombstones where user_id = p_user and node_id = any (v_gone);
    update memory.user_metadata set tombstone_floor = greatest(tombstone_floor, v_floor) where user_id = p_user;
  end if;
  delete from memory.applied_watermarks where user_id = p_user and updated_at < p_before;
  get diagnostics v_marks = row_count;
  return query select coalesce(cardinality(v_gone), 0)::bigint, v_marks;
end
$$;

-- Removes the watermark of a process that will write no more for this user.
create function memory.forget_watermark(p_user text, p_instance uuid) returns void
language plpgsql volatile
as $$
begin
  perform memory.bind_users(array[p_user]);
  delete from memory.applied_watermarks where user_id = p_user and instance_id = p_instance;
end
$$;

-- Adds how often memories were read, and when last. No version: nobody has to reload a memory because it was read.
-- Under the user's lock, or it could meet a batch that touches the same rows in another order.
create function memory.count_accesses(p_user text, p_nodes uuid[], p_reads bigint[], p_last timestamptz[])
returns bigint
language plpgsql volatile
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_count bigint;
begin
  perform memory.bind_users(array[p_user]);
  perform 1 from memory.user_metadata where user_id = p_user for update;
  update memory.nodes as n
    set access_count = n.access_count + r.reads,
        last_accessed_at = greatest(n.last_accessed_at, least(r.last, v_now))
    from unnest(p_nodes, p_reads, p_last) as r (node_id, reads, last)
    where n.user_id = p_user and n.node_id = r.node_id and n.node_id = any (p_nodes);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

revoke all on function memory.claim(text, double precision) from public;
revoke all on function memory.totals() from public;
revoke all on function memory.users_to_sweep(text, timestamptz, integer) from public;
revoke all on function memory.users_to_trim(text, timestamptz, integer) from public;
revoke all on function memory.sweep_user(text, timestamptz, text[], integer) from public;
revoke all on function memory.trim_user(text, timestamptz, integer) from public;
revoke all on function memory.forget_watermark(text, uuid) from public;
revoke all on function memory.count_accesses(text, uuid[], bigint[], timestamptz[]) from public;

insert into memory.schema_migrations (number, name, checksum) values (7, 'housekeeping', '0daeae202e9152c3beb2be5563222ac37744cd962531d6ec09ca944c8fd3dd7b');

-- 0008 embeddings
-- Vectors that the library makes of memories, in the background. `user_metadata.metadata` says under `embedded`, per
-- model, up to which version of the user every memory has one.

-- Keeps the vectors of texts, each read at some version of its memory; where the memory has changed since, its text may
-- be another, and nothing is kept. `p_nodes`, `p_fields`, `p_versions` and the vectors go together; of `p_vectors` and
-- `p_halves` one is empty. With them, no memory that changed after version `p_since`, up to `p_done`, lacks a vector that
-- can be made; where nothing is missing before that either, it is noted under `p_mark`. In another incarnation of the
-- user nothing happens, and `o_incarnation` is null.
create function memory.keep_vectors(
  p_user text, p_incarnation uuid, p_since bigint, p_done bigint, p_model text, p_dimensions integer, p_nodes uuid[],
  p_fields text[], p_versions bigint[], p_vectors public.vector[], p_halves public.halfvec[], p_mark text,
  out o_user_id text, out o_incarnation uuid, out o_before bigint, out o_version bigint, out o_kept uuid[]
)
language plpgsql volatile
as $$
declare
  v_ann boolean;
  v_done bigint;
begin
  perform memory.bind_users(array[p_user]);
  o_user_id := p_user;
  select incarnation, version, coalesce(metadata -> 'ann' ? p_mark, false),
         coalesce((metadata -> 'embedded' ->> p_mark)::bigint, 0)
    into o_incarnation, o_before, v_ann, v_done
    from memory.user_metadata where user_id = p_user and incarnation = p_incarnation for update;
  if not found then
    return;
  end if;
  with kept as (
    insert into memory.embeddings as t (
      user_id, node_id, field, model, dimensions, embedding, embedding_half, content_hash, ann, version)
    select p_user, s.node_id, s.field, p_model, p_dimensions, s.whole, s.half, n.content_hash, v_ann, o_before + 1
    from unnest(p_nodes, p_fields, p_versions, p_vectors, p_halves) as s (node_id, field, version, whole, half)
    -- Not `=`, or the index of versions would be used, where all that came together is side by side.
    join memory.nodes n on n.user_id = p_user and n.node_id = s.node_id and n.node_id = any (p_nodes)
      and n.version is not distinct from s.version
    on conflict (user_id, node_id, field, model) do update set
      dimensions = excluded.dimensions, embedding = excluded.embedding, embedding_half = excluded.embedding_half,
      content_hash = excluded.content_hash, ann = excluded.ann, version = excluded.version
    returning t.node_id
  )
  select coalesce(array_agg(distinct node_id), '{}') into o_kept from kept;
  -- Caches learn of vectors as they learn of everything.
  o_version := o_before + (o_kept <> '{}')::int;
  if p_done is not null and v_done >= p_since then
    v_done := greatest(v_done, case when p_done >= o_before then o_version else p_done end);
    update memory.user_metadata set version = o_version, metadata = memory.marked(metadata, p_mark, v_done)
      where user_id = p_user;
  elsif o_version > o_before then
    update memory.user_metadata set version = o_version where user_id = p_user;
  end if;
end
$$;

-- The metadata of a user with a note that up to a version every memory has a vector.
create function memory.marked(p_metadata jsonb, p_mark text, p_version bigint) returns jsonb
language sql immutable parallel safe
as $$
  select p_metadata || jsonb_build_object(
    'embedded', coalesce(p_metadata -> 'embedded', '{}') || jsonb_build_object(p_mark, p_version))
$$;

-- Users after `p_after` who have changed since all their memories had vectors, or never had any.
create function memory.users_to_embed(p_after text, p_mark text, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select user_id from memory.user_metadata
               where user_id > p_after and version > coalesce((metadata -> 'embedded' ->> p_mark)::bigint, 0)
               order by user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

revoke all on function memory.keep_vectors(
  text, uuid, bigint, bigint, text, integer, uuid[], text[], bigint[], public.vector[], public.halfvec[], text)
  from public;
revoke all on function memory.marked(jsonb, text, bigint) from public;
revoke all on function memory.users_to_embed(text, text, integer) from public;

insert into memory.schema_migrations (number, name, checksum) values (8, 'embeddings', '06c7c94a586a55bc43a3060a1c436a7d854bc17fddc789179332a01785c0bf92');

-- 0009 store
-- Items of a store: nodes with a namespace and a key.

create index nodes_namespace on memory.nodes (user_id, namespace) where namespace is not null;

-- Owners after `p_after` who have items; only their names.
create function memory.store_owners(p_after text, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select distinct user_id from memory.nodes
               where user_id > p_after and namespace is not null order by user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

-- Puts off the expiry of a user's items by the time each of them was stored for, unless that was done a moment ago:
-- within a tenth of that time. What has expired stays so. The user's version afterwards.
create function memory.refresh_items(p_user text, p_nodes uuid[]) returns bigint
language plpgsql volatile
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_version bigint;
begin
  perform memory.bind_users(array[p_user]);
  select version into v_version from memory.user_metadata where user_id = p_user for update;
  update memory.nodes as n
    set expires_at = v_now + (n.metadata #>> '{store,ttl}')::double precision * interval '1 minute',
        metadata = jsonb_set(
          n.metadata, '{store,version}', to_jsonb(memory.item_version(n.key, n.metadata, n.version))),
        version = v_version + 1
    where n.user_id = p_user and n.node_id = any (p_nodes) and n.expires_at > v_now
      and n.expires_at < v_now + (n.metadata #>> '{store,ttl}')::double precision * interval '0.9 minute';
  if not found then
    return v_version;
  end if;
  update memory.user_metadata set version = version + 1 where user_id = p_user;
  return v_version + 1;
end
$$;

revoke all on function memory.store_owners(text, integer) from public;
revoke all on function memory.refresh_items(text, uuid[]) from public;

insert into memory.schema_migrations (number, name, checksum) values (9, 'store', 'cbaec4db651a5ad0f06e9bdb0c313fde51de7e97feb5453fa2aed23d9016927a');

-- 0010 freshness
-- What processes compare, so that all of them are fresh: which database this is, and where users stand.

-- Which database this is. Another epoch or server means that it does not go on where it was: a backup was restored, or a
-- standby took over. A position behind one already seen means the same. What a server does not tell stays out.
create function memory.standing(out o_epoch uuid, out o_server text, out o_position bigint)
language plpgsql volatile
as $$
declare
  v_schema oid;
  v_system text;
  v_timeline text;
begin
  select d.epoch, c.relnamespace into o_epoch, v_schema
    from memory.deployment d join pg_catalog.pg_class c on c.oid = d.tableoid;
  begin
    select system_identifier::text into v_system from pg_catalog.pg_control_system();
    if not pg_catalog.pg_is_in_recovery() then
      o_position := pg_catalog.pg_current_wal_flush_lsn() - '0/0'::pg_catalog.pg_lsn;
      v_timeline := pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), 8);
    end if;
  exception when insufficient_privilege or undefined_function or feature_not_supported then
    null;
  end;
  select pg_catalog.concat_ws('-', v_system, v_timeline, d.oid, c.relfilenode) into o_server
    from pg_catalog.pg_database d, pg_catalog.pg_class c
    where d.datname = pg_catalog.current_database() and c.relnamespace = v_schema and c.relname = 'user_metadata';
end
$$;

-- Says that the database does not go on where it was, unless somebody has said so since `p_seen`; the epoch from now on.
create function memory.renew_epoch(p_seen uuid) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_epoch uuid := gen_random_uuid();
begin
  update memory.deployment set epoch = v_epoch where epoch = p_seen;
  select epoch into v_epoch from memory.deployment;
  return v_epoch;
end
$$;

-- Where each of these users stands; nothing for one who never wrote.
create function memory.versions_of(p_users text[])
returns table (o_user_id text, o_incarnation uuid, o_version bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select m.user_id, m.incarnation, m.version from memory.user_metadata m where m.user_id = any (p_users);
  perform memory.set_scope(v_scope);
end
$$;

-- Where a user stands, and what came, changed or went after a version, seen by one statement: nothing of half a batch.
-- No changes when there are too many for one answer. In their order and with a limit, so that they are looked up by
-- version also by a plan for any version, which is kept.
create function memory.news_of(p_user text, p_since bigint)
returns table (
  o_incarnation uuid, o_version bigint, o_node_count bigint, o_relationship_count bigint, o_entity_count bigint,
  o_tombstone_floor bigint, o_last_deletion timestamptz, o_changes json
)
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
begin
  perform memory.bind_users(array[p_user]);
  return query
    select m.incarnation, m.version, m.node_count, m.relationship_count, m.entity_count, m.tombstone_floor, gone.latest,
           case when greatest(changed.many, joined.many, gone.many) <= 200 then
             json_build_object('nodes', changed.list, 'edges', joined.list, 'deleted', gone.list) end
    from memory.user_metadata m
    cross join lateral (
      select count(*) as many, coalesce(json_agg(one), '[]') as list
      from (
        select n.node_id, n.context_type, n.content, n.content_kind, n.summary, n.tags, n.metadata, n.importance,
               n.confidence, n.external_id, n.thread_id, n.seq, n.namespace, n.key, n.version, n.written_at,
               n.written_by, n.created_at, n.updated_at, n.last_accessed_at, n.access_count, n.expires_at
        from memory.nodes n where n.user_id = p_user and n.version > p_since order by n.version limit 201
      ) as one
    ) as changed
    cross join lateral (
      select count(*) as many, coalesce(json_agg(one), '[]') as list
      from (
        select r.from_node_id, r.to_node_id, r.relationship_type, r.strength, r.metadata, r.version, r.created_at,
               r.updated_at
        from memory.relationships r where r.user_id = p_user and r.version > p_since order by r.version limit 201
      ) as one
    ) as joined
    cross join lateral (
      select count(*) as many, coalesce(json_agg(one.node_id), '[]') as list, max(one.written_at) as latest
      from (
        select d.node_id, d.written_at
        from memory.tombstones d where d.user_id = p_user and d.version > p_since order by d.version limit 201
      ) as one
    ) as gone
    where m.user_id = p_user;
end
$$;

revoke all on function memory.standing() from public;
revoke all on function memory.renew_epoch(uuid) from public;
revoke all on function memory.versions_of(text[]) from public;
revoke all on function memory.news_of(text, bigint) from public;

insert into memory.schema_migrations (number, name, checksum) values (10, 'freshness', '23723f6223c74cbc8514968b4cc3ab95e93cc8ef9146940533e294c829ee5850');

-- 0011 large_owners
-- Finding in the memory of users that are too large for a process: which memories may be meant, by words and by vectors.
-- A process takes those and ranks them as it ranks everything else.

-- What is known of the words of a large user, in portions of memories that were read together: for each term the
-- memories that have it, and how much it counts in each. A memory that has changed since `version` counts no more.
-- Not an index of Postgres for texts or arrays: row security keeps their operators from being used, as they may leak.
create table memory.postings (
  user_id text not null check (user_id <> ''),
  term text not null,
  portion bigint not null,
  version bigint not null,
  node_ids uuid[] not null,
  weights real[] not null,
  primary key (user_id, term, portion)
);

alter table memory.postings enable row level security, force row level security;
create policy bound_users on memory.postings
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy maintenance on memory.postings to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');

-- When what a memory tells happened: what a message says of itself, else when the memory was made.
create function memory.happened_at(p_type text, p_content jsonb, p_created timestamptz) returns timestamptz
language plpgsql stable parallel safe
as $$
begin
  if p_type = 'conversation_message' and p_content ? 'at' then
    return (p_content ->> 'at')::timestamptz;
  end if;
  return p_created;
exception when data_exception then
  return p_created;
end
$$;

-- Whether a memory passes the filters of a question: `at` (what has expired by then does not), `types`, `tags` (in lower
-- case), `thread`, `metadata`, `since`, `until`, `namespace` (how that of an item begins). Tags beyond ASCII pass whatever
-- they say: lower case is another one here than where the process compares them. Without a query inside it is put into
-- the statement that calls it.
create function memory.passes(p_node memory.nodes, p_filters jsonb) returns boolean
language sql stable parallel safe
as $$
  select (p_node.expires_at is null or p_node.expires_at > (p_filters ->> 'at')::timestamptz)
    and (not p_filters ? 'types' or p_filters -> 'types' ? p_node.context_type)
    and (not p_filters ? 'thread' or p_node.thread_id = p_filters ->> 'thread')
    and (not p_filters ? 'metadata' or p_node.metadata @> (p_filters -> 'metadata'))
    and (not p_filters ? 'tags' or p_node.tags::text ~ '[^[:ascii:]]'
         or to_jsonb(lower(p_node.tags::text collate "C")::text[]) @> (p_filters -> 'tags'))
    and (not p_filters ? 'since'
         or memory.happened_at(p_node.context_type, p_node.content, p_node.created_at)
            >= (p_filters ->> 'since')::timestamptz)
    and (not p_filters ? 'until'
         or memory.happened_at(p_node.context_type, p_node.content, p_node.created_at)
            <= (p_filters ->> 'until')::timestamptz)
    and (not p_filters ? 'namespace'
         or to_jsonb(p_node.namespace[1:jsonb_array_length(p_filters -> 'namespace')]) = p_filters -> 'namespace')
    and not (p_node.context_type = 'domain_entity' and memory.is_stub(p_node.metadata))
$$;

-- The words of a memory.
create function memory.words_of(p_language regconfig, p_node memory.nodes) returns tsvector
language sql stable parallel safe
as $$
  select to_tsvector(p_language, p_node.content)
    || to_tsvector(p_language, p_node.summary || ' ' || array_to_string(p_node.tags, ' '))
$$;

-- Takes in the words of at most so many memories that came or changed since the last time; how many there were. Another
-- language, or as many outdated memories as valid ones, begin anew. What is known so far is in `user_metadata.metadata`
-- under `words`. One session at a time; writers are not held up.
create function memory.index_words(p_user text, p_language text, p_most integer) returns bigint
language plpgsql volatile
as $$
declare
  -- As usual for BM25.
  c_saturation constant double precision := 1.2;
  c_length constant double precision := 0.5;
  c_last_id constant uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  v_words jsonb;
  v_version bigint;
  v_size bigint;
  v_after_version bigint;
  v_after uuid;
  v_ids uuid[];
  v_last_version bigint;
  v_last uuid;
  v_portion bigint;
  v_documents bigint;
  v_average double precision;
  v_count bigint;
begin
  perform memory.bind_users(array[p_user]);
  if not pg_try_advisory_xact_lock(hashtextextended('hybrid_memory.words.' || p_user, 0)) then
    return 0;
  end if;
  select metadata -> 'words', version, node_count into v_words, v_version, v_size
    from memory.user_metadata where user_id = p_user;
  if not found then
    return 0;
  end if;
  if v_words ->> 'language' is distinct from p_language or (v_words ->> 'documents')::bigint > 2 * v_size + p_most then
    delete from memory.postings where user_id = p_user;
    v_words := null;
  end if;
  v_after_version := coalesce((v_words ->> 'version')::bigint, -1);
  v_after := coalesce((v_words ->> 'after')::uuid, '00000000-0000-0000-0000-000000000000');
  v_portion := coalesce((v_words ->> 'portions')::bigint, 0) + 1;
  v_documents := coalesce((v_words ->> 'documents')::bigint, 0);
  v_average := (v_words ->> 'average')::double precision;

  select array_agg(node_id), count(*), max(version) into v_ids, v_count, v_last_version
    from (select n.node_id, n.version from memory.nodes n
          where n.user_id = p_user and n.version >= v_after_version
            and (n.version, n.node_id) > (v_after_version, v_after) and n.version <= v_version
          order by n.version, n.node_id limit p_most) as next;
  if v_count = 0 then
    v_last_version := greatest(v_after_version, v_version);
    v_last := c_last_id;
  else
    select n.node_id into v_last from memory.nodes n
      where n.user_id = p_user and n.node_id = any (v_ids) and n.version = v_last_version
      order by n.node_id desc limit 1;
    with words as materialized (
      select n.node_id, w.lexeme as term, coalesce(cardinality(w.positions), 1) as times
      from memory.nodes n cross join lateral unnest(memory.words_of(p_language::regconfig, n)) as w
      where n.user_id = p_user and n.node_id = any (v_ids)
    ), lengths as (
      select node_id, sum(times) as length from words group by node_id
    ), average as (
      select coalesce(v_average, avg(length), 1) as length from lengths
    ), kept as (
      insert into memory.postings (user_id, term, portion, version, node_ids, weights)
      select p_user, w.term, v_portion, v_version, array_agg(w.node_id),
             array_agg((w.times * (c_saturation + 1)
                        / (w.times + c_saturation * (1 - c_length + c_length * l.length / a.length)))::real)
      from words w join lengths l on l.node_id = w.node_id cross join average a
      where octet_length(w.term) <= 200
      group by w.term
    )
    select length into v_average from average;
  end if;
  update memory.user_metadata
    set metadata = metadata || jsonb_build_object('words', jsonb_build_object(
      'language', p_language, 'version', v_last_version, 'after', v_last, 'portions', v_portion,
      'documents', v_documents + v_count, 'average', v_average))
    where user_id = p_user;
  return v_count;
end
$$;

-- Memories of a large user that share words with a question, those that may fit best first. What came since its words were
-- taken in is looked through, the latest of it if it is much.
create function memory.worded(p_user text, p_language text, p_question text, p_filters jsonb, p_most integer)
returns table (o_node_id uuid, o_score double precision)
language plpgsql stable
as $$
declare
  c_recent constant integer := 5000;
  v_words jsonb;
  v_query tsvector := to_tsvector(p_language::regconfig, p_question);
  v_terms text[] := tsvector_to_array(v_query);
  v_known text[];
  v_rarities double precision[];
  v_documents double precision;
begin
  select metadata -> 'words' into v_words from memory.user_metadata where user_id = p_user;
  v_documents := coalesce((v_words ->> 'documents')::double precision, 0);
  -- What nearly every memory says tells nothing, and would have to be read for nearly every memory.
  select array_agg(term), array_agg(ln(1 + (v_documents - holders + 0.5) / (holders + 0.5)))
    into v_known, v_rarities
    from (select term, holders from (
            select term, sum(cardinality(node_ids)) as holders, min(sum(cardinality(node_ids))) over () as fewest
            from memory.postings where user_id = p_user and term = any (v_terms) group by term) as counted
          where holders <= greatest(0.1 * v_documents, fewest)) as told;
  return query
    with indexed as materialized (
      select held.node_id, max(p.version) as version, sum(held.weight * r.rarity) as score
      from memory.postings p
      join unnest(v_known, v_rarities) as r (term, rarity) on r.term = p.term
      cross join lateral unnest(p.node_ids, p.weights) as held (node_id, weight)
      where p.user_id = p_user and p.term = any (v_known)
      group by held.node_id
    ), best as (
      select i.node_id, i.score
      from (select * from indexed order by score desc, node_id) as i
      cross join lateral (
        select n.node_id from memory.nodes n
        where n.user_id = p_user and n.node_id = i.node_id and n.version <= i.version
          and memory.passes(n, p_filters)
        limit 1
      ) as passing
      limit p_most
    ), latest as materialized (
      select n.* from memory.nodes n
      where n.user_id = p_user and n.version > coalesce((v_words ->> 'version')::bigint, -1)
      order by n.version desc limit c_recent
    ), recent as (
      select l.node_id, sum(coalesce(ln(v_documents + 2), 1)) as score
      from latest l cross join lateral unnest(memory.words_of(p_language::regconfig, l)) as w
      where w.lexeme = any (v_terms) and memory.passes(l, p_filters)
      group by l.node_id order by score desc limit p_most
    )
    select node_id, max(score)::double precision from (table best union all table recent) as both_of
    group by node_id order by 2 desc, 1 limit p_most;
end
$$;

-- Memories of a user whose vectors are nearest to a question, compared one by one.
create function memory.nearest(
  p_user text, p_model text, p_dimensions integer, p_vector public.vector, p_half public.halfvec, p_filters jsonb,
  p_most integer
) returns table (o_node_id uuid, o_cosine double precision)
language sql stable
as $$
  with compared as materialized (
    select e.node_id, 1 - min(coalesce(e.embedding operator(public.<=>) p_vector,
                                       e.embedding_half operator(public.<=>) p_half)) as cosine
    from memory.embeddings e
    where e.user_id = p_user and e.model = p_model and e.dimensions = p_dimensions
    group by e.node_id
  )
  select c.node_id, c.cosine
  from (select * from compared order by cosine desc, node_id) as c
  cross join lateral (
    select n.node_id from memory.nodes n
    where n.user_id = p_user and n.node_id = c.node_id and memory.passes(n, p_filters)
    limit 1
  ) as passing
  limit p_most
$$;

-- The same among those that came after a version and are not in the index. A statement of its own: one for both could not
-- use the index of versions.
create function memory.nearest_latest(
  p_user text, p_model text, p_dimensions integer, p_vector public.vector, p_half public.halfvec, p_filters jsonb,
  p_after bigint, p_most integer
) returns table (o_node_id uuid, o_cosine double precision)
language sql stable
as $$
  select e.node_id, 1 - min(coalesce(e.embedding operator(public.<=>) p_vector,
                                     e.embedding_half operator(public.<=>) p_half)) as cosine
  from memory.embeddings e
  join memory.nodes n on n.user_id = p_user and n.node_id = e.node_id
  where e.user_id = p_user and e.model = p_model and e.dimensions = p_dimensions
    and e.version > p_after and not e.ann and memory.passes(n, p_filters)
  group by e.node_id order by cosine desc, e.node_id limit p_most
$$;

-- The name of the index over large users' vectors of a model, given as `model/dimensions`.
create function memory.ann_index(p_mark text) returns text
language sql immutable parallel safe
as $$ select 'embeddings_ann_' || left(md5(p_mark), 16) $$;

-- Whether it is there. A table is found by its name in the schema of this function's tables.
create function memory.has_ann_index(p_mark text) returns boolean
language sql stable
as $$
  select exists (
    select from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    where i.indisvalid and c.relname = memory.ann_index(p_mark)
      and c.relnamespace = (select t.relnamespace from pg_catalog.pg_class t
                            where t.oid = (select tableoid from memory.deployment)))
$$;

-- How many vectors it holds of all users, about; null when it is not there, nothing or less when nobody knows.
create function memory.ann_index_size(p_mark text) returns real
language sql stable
as $$
  select c.reltuples from pg_catalog.pg_class c
  where memory.has_ann_index(p_mark) and c.relname = memory.ann_index(p_mark)
    and c.relnamespace = (select t.relnamespace from pg_catalog.pg_class t
                          where t.oid = (select tableoid from memory.deployment))
$$;

-- Makes it, over the rows that are marked `ann`. It is made before the first row is marked, so it takes no time then.
create function memory.create_ann_index(p_model text, p_dimensions integer) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_schema text := (select relnamespace::regnamespace::text from pg_class
                    where oid = (select tableoid from memory.deployment));
  v_vectors text := (select extnamespace::regnamespace::text from pg_extension where extname = 'vector');
  v_kind text := case when p_dimensions <= 2000 then 'vector' else 'halfvec' end;
begin
  if p_dimensions not between 1 and 4000 then
    raise exception 'vectors of % dimensions are not kept', p_dimensions using errcode = '22023';
  end if;
  execute format(
    'create index if not exists %I on %s.embeddings using hnsw ((%I::%s.%s(%s)) %s.%s_cosine_ops)'
    ' where ann and model = %L and dimensions = %s',
    memory.ann_index(p_model || '/' || p_dimensions), v_schema,
    case when p_dimensions <= 2000 then 'embedding' else 'embedding_half' end,
    v_vectors, v_kind, p_dimensions, v_vectors, v_kind, p_model, p_dimensions);
end
$$;

-- The same through the index of the model: nearly always the nearest, among those that are marked. The statement has to
-- say model and dimensions literally, or the index is not that of the statement.
create function memory.nearest_by_index(
  p_user text, p_model text, p_dimensions integer, p_vector public.vector, p_half public.halfvec, p_filters jsonb,
  p_most integer
) returns table (o_node_id uuid, o_cosine double precision)
language plpgsql volatile
as $$
declare
  v_vectors text := (select extnamespace::regnamespace::text from pg_catalog.pg_extension where extname = 'vector');
  v_schema text := (select relnamespace::regnamespace::text from pg_catalog.pg_class
                    where oid = (select tableoid from memory.deployment));
  v_kind text := case when p_dimensions <= 2000 then 'vector' else 'halfvec' end;
  v_column text := case when p_dimensions <= 2000 then 'embedding' else 'embedding_half' end;
begin
  -- Other users' vectors may be nearer: the index is searched on until there are enough of this one's.
  execute 'set local hnsw.iterative_scan = relaxed_order';
  execute 'set local hnsw.ef_search = 200';
  return query execute format(
    'select near.node_id, max(1 - near.distance)::double precision'
    ' from (select e.node_id, (e.%1$I::%2$s.%3$s(%4$s)) operator(%2$s.<=>) $2::%2$s.%3$s(%4$s) as distance'
    '       from %5$s.embeddings e'
    '       where e.ann and e.model = %6$L and e.dimensions = %4$s and e.user_id = $1'
    '       order by (e.%1$I::%2$s.%3$s(%4$s)) operator(%2$s.<=>) $2::%2$s.%3$s(%4$s) limit %7$s) as near'
    ' join %5$s.nodes n on n.user_id = $1 and n.node_id = near.node_id'
    ' where %5$s.passes(n, $3)'
    ' group by near.node_id order by 2 desc, 1',
    v_column, v_vectors, v_kind, p_dimensions, v_schema, p_model, p_most)
    using p_user, coalesce(p_vector::text, p_half::text), p_filters;
end
$$;

-- Indexes that vectors are marked for and that are not there, as `model/dimensions`.
create function memory.missing_ann_indexes() returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select distinct marked.mark
               from memory.user_metadata m cross join lateral jsonb_object_keys(m.metadata -> 'ann') as marked (mark)
               where m.metadata ? 'ann' and not memory.has_ann_index(marked.mark) order by marked.mark;
  perform memory.set_scope(v_scope);
end
$$;

-- Large users: those after `p_after` with at least so many memories.
create function memory.large_users(p_after text, p_size bigint, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select user_id from memory.user_metadata
               where user_id > p_after and node_count >= p_size order by user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

revoke all on function memory.happened_at(text, jsonb, timestamptz) from public;
revoke all on function memory.passes(memory.nodes, jsonb) from public;
revoke all on function memory.words_of(regconfig, memory.nodes) from public;
revoke all on function memory.index_words(text, text, integer) from public;
revoke all on function memory.worded(text, text, text, jsonb, integer) from public;
revoke all on function memory.nearest(
  text, text, integer, public.vector, public.halfvec, jsonb, integer) from public;
revoke all on function memory.nearest_latest(
  text, text, integer, public.vector, public.halfvec, jsonb, bigint, integer) from public;
revoke all on function memory.ann_index(text) from public;
revoke all on function memory.has_ann_index(text) from public;
revoke all on function memory.ann_index_size(text) from public;
revoke all on function memory.missing_ann_indexes() from public;
revoke all on function memory.create_ann_index(text, integer) from public;
revoke all on function memory.nearest_by_index(
  text, text, integer, public.vector, public.halfvec, jsonb, integer) from public;
revoke all on function memory.large_users(text, bigint, integer) from public;

insert into memory.schema_migrations (number, name, checksum) values (11, 'large_owners', '2d76e25a9294419fa9179bf37b0ca5fd583cbeb1ad40447189931cb0a3b84f73');

commit;
