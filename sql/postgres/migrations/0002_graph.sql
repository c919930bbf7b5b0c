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
