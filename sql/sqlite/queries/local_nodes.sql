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
-- What came or changed after a version; at -1 everything.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at, content_hash, field_clocks
from local_nodes
where user_id = :user_id and version > :version
  and row_is_intact(checksum, 'local_nodes', :user_id, node_id, context_type, content, content_kind, summary, tags,
                    metadata, importance, confidence, external_id, thread_id, seq, namespace, key, version,
                    written_at, written_by, created_at, updated_at, last_accessed_at, access_count, expires_at,
                    content_hash, field_clocks);

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
