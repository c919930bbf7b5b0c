-- name: large_users
-- Users with many memories, in pages.
select * from memory.large_users(:after, :size, :most) as named (user_id);

-- name: index_words
-- Takes in the words of what came or changed; how much that was.
select memory.index_words(:owner, :language, :most);

-- name: create_ann_index
-- The index over large users' vectors of a model.
select memory.create_ann_index(:model, :dimensions);

-- name: has_ann_index
-- Whether it is there.
select memory.has_ann_index(:mark);

-- name: mark_ann
-- Puts a large user's vectors into it; how many.
select memory.mark_ann(:owner, :model, :dimensions, :most);

-- name: standing
-- How large a user is, and up to which version the index holds his vectors of a model; null when it holds none.
select node_count, (metadata -> 'ann' ->> :mark)::bigint as marked
from memory.user_metadata where user_id = :user_id;

-- name: worded
-- Memories that share words with a question.
select o_node_id as node_id, o_score as score
from memory.worded(:owner, :language, :question, :filters::jsonb, :most);

-- name: nearest
-- Memories whose vectors are nearest, compared one by one.
select o_node_id as node_id, o_cosine as cosine
from memory.nearest(:owner, :model, :dimensions, :vector, :half, :filters::jsonb, :most);

-- name: nearest_latest
-- The same among those that the index does not hold yet.
select o_node_id as node_id, o_cosine as cosine
from memory.nearest_latest(:owner, :model, :dimensions, :vector, :half, :filters::jsonb, :after, :most);

-- name: nearest_by_index
-- The same through the index.
select o_node_id as node_id, o_cosine as cosine
from memory.nearest_by_index(:owner, :model, :dimensions, :vector, :half, :filters::jsonb, :most);

-- name: memories
-- What was found.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes
where user_id = :user_id and node_id = any (:nodes);

-- name: relationships
-- How what was found is related.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, created_at, updated_at
from memory.relationships
where user_id = :user_id and from_node_id = any (:nodes) and to_node_id = any (:nodes);

-- name: missing_ann_indexes
-- Indexes that large users' vectors are marked for and that are not there: they are compared one by one.
select * from memory.missing_ann_indexes() as missing (mark);
