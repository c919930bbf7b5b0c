-- name: bind
-- The users the running transaction may see and write.
select memory.bind_users(:users);

-- name: ensure
-- A row to lock for a user who has none yet.
insert into memory.user_metadata (user_id) values (:user_id) on conflict (user_id) do nothing;

-- name: lock
-- One writer at a time per user; the next version is known from here on.
select version from memory.user_metadata where user_id = :user_id for update;

-- name: advance
-- The new version and counters of a writing transaction.
update memory.user_metadata
set version = :version, last_activity = :at,
    node_count = node_count + :nodes, relationship_count = relationship_count + :relationships,
    entity_count = entity_count + :entities
where user_id = :user_id;

-- name: state
-- What a cache compares itself with.
select incarnation, version, node_count, relationship_count, entity_count, tombstone_floor
from memory.user_metadata where user_id = :user_id;

-- name: deleted_since
-- The memories a cache at `version` must drop.
select node_id, version from memory.tombstones where user_id = :user_id and version > :version order by version;

-- name: touch
-- After rows were changed by hand: counts anew and makes every cache load the user afresh.
select memory.touch_user(:user_id);
