-- name: bind
-- The users the running transaction may see and write.
select memory.bind_users(:users);

-- name: state
-- What a cache at `version` compares itself with.
select incarnation, version, node_count, relationship_count, entity_count, tombstone_floor,
       (select max(written_at) from memory.tombstones where user_id = :user_id and version > :version) as last_deletion
from memory.user_metadata where user_id = :user_id;

-- name: deleted_since
-- The memories a cache at `version` must drop.
select node_id, version from memory.tombstones where user_id = :user_id and version > :version order by version;

-- name: touch
-- After rows were changed by hand: counts anew and makes every cache load the user afresh.
select memory.touch_user(:user_id);
