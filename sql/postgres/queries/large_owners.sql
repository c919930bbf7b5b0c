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

-- name: plan_anew
-- A plan for every user takes a large one for an average one, of whom everything is read in no time.
set local plan_cache_mode = 'force_custom_plan';

-- name: ann_index_size
-- How many vectors it holds, of all users.
select memory.ann_index_size(:mark);

-- name: begin_ann
-- Has new vectors of a user put into it as they are kept; where the user is now, and up to where it holds all of them.
update memory.user_metadata
set metadata = metadata
  || jsonb_build_object('ann', jsonb_build_object(:mark::text, -1) || coalesce(metadata -> 'ann', '{}'))
where user_id = :user_id
returning version, (metadata -> 'ann' ->> :mark)::bigint as marked;

-- name: mark_ann
-- Puts the next of a user's vectors into it that it does not hold; of which memories they are.
with next as materialized (
  select node_id, field from memory.embeddings
  where user_id = :user_id and version > :marked and node_id >= :first and model = :model and dimensions = :dimensions
    and not ann
  order by node_id limit :most
)
update memory.embeddings e set ann = true
from next
where e.user_id = :user_id and e.node_id = next.node_id and e.field = next.field and e.model = :model
returning e.node_id;

-- name: end_ann
-- Up to that version it holds all of a user's vectors.
update memory.user_metadata set metadata = jsonb_set(metadata, array['ann', :mark], to_jsonb(:version::bigint))
where user_id = :user_id;

-- name: standing
-- How large a user is, and up to which version the index holds his vectors of a model; null when it holds none.
select version, node_count, (metadata -> 'ann' ->> :mark)::bigint as marked
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

-- name: relationships
-- How what was found is related.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, created_at, updated_at
from memory.relationships
where user_id = :user_id and from_node_id = any (:nodes) and to_node_id = any (:nodes);

-- name: missing_ann_indexes
-- Indexes that large users' vectors are marked for and that are not there: they are compared one by one.
select * from memory.missing_ann_indexes() as missing (mark);
