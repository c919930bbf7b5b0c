-- name: put
-- A memory as it is now.
insert into local_nodes (user_id, node_id, context_type, content, content_kind, summary, tags, metadata, importance,
                         confidence, external_id, thread_id, seq, namespace, key, version, written_at, written_by,
                         created_at, updated_at, last_accessed_at, access_count, expires_at, content_hash,
                         field_clocks, checksum)
values (:user_id, :node_id, :context_type, :content, :content_kind, :summary, :tags, :metadata, :importance,
        :confidence, :external_id, :thread_id, :seq, :namespace, :key, :version, :written_at, :written_by,
        :created_at, :updated_at, :last_accessed_at, :access_count, :expires_at, :content_hash, :field_clocks,
        row_checksum('local_nodes', :user_id, :node_id, :context_type, :content, :content_kind, :summary, :tags,
                     :metadata, :importance, :confidence, :external_id, :thread_id, :seq, :namespace, :key, :version,
                     :written_at, :written_by, :created_at, :updated_at, :last_accessed_at, :access_count,
                     :expires_at, :content_hash, :field_clocks))
on conflict (user_id, node_id) do update set
    context_type = excluded.context_type, content = excluded.content, content_kind = excluded.content_kind,
    summary = excluded.summary, tags = excluded.tags, metadata = excluded.metadata, importance = excluded.importance,
    confidence = excluded.confidence, external_id = excluded.external_id, thread_id = excluded.thread_id,
    seq = excluded.seq, namespace = excluded.namespace, key = excluded.key, version = excluded.version,
    written_at = excluded.written_at, written_by = excluded.written_by, created_at = excluded.created_at,
    updated_at = excluded.updated_at, last_accessed_at = excluded.last_accessed_at,
    access_count = excluded.access_count, expires_at = excluded.expires_at, content_hash = excluded.content_hash,
    field_clocks = excluded.field_clocks, checksum = excluded.checksum;

-- name: get
-- One memory.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at, content_hash, field_clocks
from local_nodes
where user_id = :user_id and node_id = :node_id
  and row_is_intact(checksum, 'local_nodes', :user_id, :node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version,
                    written_at, written_by, created_at, updated_at, last_accessed_at, access_count, expires_at,
                    content_hash, field_clocks);

-- name: entity
-- An entity by the identity it has in its own system.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at, content_hash, field_clocks
from local_nodes
where user_id = :user_id and context_type = 'domain_entity'
  and content ->> '$.entity_system' = :entity_system and content ->> '$.entity_id' = :entity_id
  and row_is_intact(checksum, 'local_nodes', :user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version,
                    written_at, written_by, created_at, updated_at, last_accessed_at, access_count, expires_at,
                    content_hash, field_clocks);

-- name: alike
-- The memories that hold exactly this.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at, content_hash, field_clocks
from local_nodes
where user_id = :user_id and content_hash = :content_hash
  and row_is_intact(checksum, 'local_nodes', :user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version,
                    written_at, written_by, created_at, updated_at, last_accessed_at, access_count, expires_at,
                    content_hash, field_clocks);

-- name: last_seq
-- The last place given in a thread.
select seq
from local_nodes
where user_id = :user_id and thread_id = :thread_id and seq is not null
  and row_is_intact(checksum, 'local_nodes', :user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version,
                    written_at, written_by, created_at, updated_at, last_accessed_at, access_count, expires_at,
                    content_hash, field_clocks)
order by seq desc
limit 1;

-- name: changed_since
-- What came or changed after a version, up to another one; from -1 on everything.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at, content_hash, field_clocks
from local_nodes
where user_id = :user_id and version > :version and version <= :up_to
  and row_is_intact(checksum, 'local_nodes', :user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version,
                    written_at, written_by, created_at, updated_at, last_accessed_at, access_count, expires_at,
                    content_hash, field_clocks);

-- name: users_to_sweep
-- Users with memories that have expired or, given a moment, were not changed since.
select distinct user_id
from local_nodes
where (expires_at <= :now or updated_at < :before)
  and row_is_intact(checksum, 'local_nodes', user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version, written_at, written_by,
                    created_at, updated_at, last_accessed_at, access_count, expires_at, content_hash, field_clocks);

-- name: to_sweep
-- A user's memories that have expired or, given a moment, were not changed since; items of a store only expire.
select node_id, context_type, tags, metadata, written_at, written_by, coalesce(expires_at <= :now, false)
from local_nodes
where user_id = :user_id and (expires_at <= :now or (updated_at < :before and namespace is null))
  and row_is_intact(checksum, 'local_nodes', :user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version, written_at, written_by,
                    created_at, updated_at, last_accessed_at, access_count, expires_at, content_hash, field_clocks);

-- name: by_type
-- A user's memories as they are now, by type, without what has expired and without stubs.
select context_type, count(*) as node_count, sum(importance) as importance, sum(access_count) as accesses,
       min(created_at) as earliest, max(created_at) as latest
from local_nodes
where user_id = :user_id and (expires_at is null or expires_at > :now)
  and not (context_type = 'domain_entity' and coalesce(json_type(metadata, '$.stub'), '') = 'true')
  and row_is_intact(checksum, 'local_nodes', :user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version, written_at, written_by,
                    created_at, updated_at, last_accessed_at, access_count, expires_at, content_hash, field_clocks)
group by context_type
order by context_type;

-- name: counted
-- How often memories were reported and read since Postgres counted last, where that is ever.
select n.node_id, coalesce(n.content ->> '$.update_count', 0) * (n.context_type = 'domain_entity')
           - coalesce(c.reports, 0) as reports,
       n.access_count - coalesce(c.reads, 0) as reads, n.last_accessed_at
from local_nodes as n
left join local_counts as c on c.user_id = n.user_id and c.node_id = n.node_id
where n.user_id = :user_id and (n.access_count > 0 or n.context_type = 'domain_entity')
  and row_is_intact(n.checksum, 'local_nodes', n.user_id, n.node_id, n.context_type, n.content, n.content_kind,
                    n.summary, n.tags, n.metadata, n.importance, n.confidence, n.external_id, n.thread_id, n.seq, n.namespace,
                    n.key, n.version, n.written_at, n.written_by, n.created_at, n.updated_at, n.last_accessed_at, n.access_count,
                    n.expires_at, n.content_hash, n.field_clocks)
  and (c.checksum is null or row_is_intact(c.checksum, 'local_counts', c.user_id, c.node_id, c.reports, c.reads));

-- name: forget_user
-- Let a user leave.
delete from local_nodes where user_id = :user_id;

-- name: delete
-- Remove a memory.
delete from local_nodes where user_id = :user_id and node_id = :node_id;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_nodes
where row_is_intact(checksum, 'local_nodes', user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version,
                    written_at, written_by, created_at, updated_at, last_accessed_at, access_count, expires_at,
                    content_hash, field_clocks);
