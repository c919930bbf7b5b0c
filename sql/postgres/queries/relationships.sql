-- name: changed_since
-- What a cache at `version` is missing, in no order; at -1 everything.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, created_at, updated_at
from memory.relationships
where user_id = :user_id and version > :version;

-- name: leading_to
-- The relationships that end at a memory.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, created_at, updated_at
from memory.relationships
where user_id = :user_id and to_node_id = :node_id
order by from_node_id, relationship_type;
