-- name: nodes
-- All memories of a user, with what the next write to them is merged by.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at, encode(content_hash, 'hex') as content_hash, field_clocks
from memory.nodes
where user_id = :user_id;

-- name: relationships
-- All relationships of a user, with what the next write to them is merged by.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, created_at, updated_at, written_at,
       written_by
from memory.relationships
where user_id = :user_id;

-- name: tombstones
-- All deletions of a user that are remembered.
select node_id, written_at, written_by from memory.tombstones where user_id = :user_id;

-- name: embeddings
-- All vectors of a user.
select node_id, field, model, embedding, embedding_half, encode(content_hash, 'hex') as content_hash
from memory.embeddings
where user_id = :user_id;
