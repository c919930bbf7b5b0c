-- name: get
-- One memory.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes
where user_id = :user_id and node_id = :node_id;

-- name: several
-- Some memories, each looked up: a plan for an average user may find it cheaper to read all of a user.
select found.*
from unnest(:node_ids::uuid[]) as wanted (id)
cross join lateral (
  select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
         thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
         access_count, expires_at
  from memory.nodes
  where user_id = :user_id and node_id = wanted.id
  limit 1
) as found;

-- name: items
-- The items of a store whose namespace begins with some labels, the newest change first: so many, or all for null.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes
where user_id = :user_id and namespace is not null and namespace[1:cardinality(:prefix::text[])] = :prefix
  and (expires_at is null or expires_at > :at)
order by updated_at desc nulls last, written_at desc nulls last, node_id desc
limit :most;

-- name: changed_since
-- What a cache at `version` is missing, in no order, which would cost a large user as much as reading; at -1 everything.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes
where user_id = :user_id and version > :version;

-- name: newest
-- The latest memories, of some types or of all. The index of times answers only what names them.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes
where user_id = :user_id
  and (:context_type::text is null or context_type = :context_type)
  and (expires_at is null or expires_at > :at)
  and created_at > '-infinity'
order by created_at desc
limit :most;

-- name: of_thread
-- A conversation in its order.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes
where user_id = :user_id and thread_id = :thread_id
order by seq desc
limit :most;

-- name: entity
-- An entity by the identity it has in its own system.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes
where user_id = :user_id and entity_system = :entity_system and entity_id = :entity_id
  and context_type = 'domain_entity';

-- name: counts
-- How many rows a user has, to be compared with the counters in `user_metadata`.
select (select count(*) from memory.nodes where user_id = :user_id) as nodes,
       (select count(*) from memory.relationships where user_id = :user_id) as relationships;
